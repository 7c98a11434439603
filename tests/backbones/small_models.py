"""A graph of a few edges, its dense matrices, and steps and fits that take a fraction of a second."""

from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from llmhd_pl.backbones import Backbone
from llmhd_pl.datamodules import SyntheticCatalog

USERS = torch.tensor([2, 0, 0, 1, 2, 2, 4, 4])  # unsorted; user 3 has no edge
ITEMS = torch.tensor([3, 1, 0, 1, 0, 2, 3, 5])  # item 4 has no edge
NUM_USERS, NUM_ITEMS = 5, 6
BATCH = {
    "sample": torch.arange(4),
    "user": torch.tensor([0, 2, 2, 4]),
    "positive": torch.tensor([1, 3, 0, 5]),
    "negative": torch.tensor([2, 4, 4, 0]),
}


def adjacency(values: Tensor | None = None) -> Tensor:
    """The matrix of the graph with one value per edge, by default 1: [11, 11]."""
    matrix = torch.zeros(NUM_USERS + NUM_ITEMS, NUM_USERS + NUM_ITEMS, dtype=torch.float64)
    half = matrix.index_put(
        (USERS, ITEMS + NUM_USERS), torch.ones(8, dtype=torch.float64) if values is None else values
    )
    return half + half.T


def normalized(matrix: Tensor) -> Tensor:
    """``D^-1/2 A D^-1/2``; rows without an entry stay zero."""
    scale = matrix.sum(1).where(matrix.sum(1) > 0, torch.inf).rsqrt()
    return scale[:, None] * matrix * scale


def dense(model: Backbone) -> Tensor:
    """The embedding table as a leaf in float64."""
    table: Any = model.embedding
    weight: Tensor = table.weight.detach().double().requires_grad_()
    return weight


def info_nce(anchors: Tensor, positives: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """InfoNCE as the papers write it: [n]."""

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))

    numerator = (cosine(anchors, positives) / temperature).exp()
    return -(numerator / (cosine(anchors[:, None], candidates[None]) / temperature).exp().sum(1)).log()


def quiet(**arguments: Any) -> Trainer:
    given = {"logger": False, "enable_checkpointing": False, "max_epochs": 2, "num_sanity_val_steps": 0} | arguments
    return Trainer(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, **given)


def attach(model: Backbone, epoch: int = 0) -> Any:
    """Give the model a trainer that is in this epoch, so that single steps can be taken."""
    trainer = quiet()
    trainer.fit_loop.epoch_progress.current.completed = trainer.fit_loop.epoch_progress.current.processed = epoch
    model._trainer = trainer
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    assert model.current_epoch == epoch
    return trainer


def catalog(**arguments: Any) -> SyntheticCatalog:
    """60 readers, 50 books, 5 batches an epoch."""
    return SyntheticCatalog(60, 50, num_topics=5, books_per_reader=12, **({"batch_size": 120} | arguments))


def fit(model: Backbone, *callbacks: Callback, ckpt_path: Any = None, **arguments: Any) -> Trainer:
    trainer = quiet(callbacks=list(callbacks), **arguments)
    trainer.fit(model, catalog(), ckpt_path=ckpt_path)
    return trainer
