"""One training step of a backbone, without a fit: for exact losses and gradients."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from llmhd_pl.backbones import MF

BATCH = {
    "sample": torch.tensor([5, 0, 3, 1, 7, 2, 6, 4]),
    "user": torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]),
    "positive": torch.arange(8),
    "negative": torch.arange(8, 16),
}


def trainer(step: int = 0, epoch: int = 0, max_epochs: int = 10, samples: int = 8) -> Any:
    """What a denoiser asks of a trainer."""
    return SimpleNamespace(
        world_size=1, global_step=step, current_epoch=epoch, max_epochs=max_epochs,
        datamodule=SimpleNamespace(train_users=torch.arange(samples) % 4, train_items=torch.arange(samples)),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        is_last_batch=False,
    )  # fmt: skip


def model(objective: Any, trainer: Any, seed: int = 0) -> MF:
    """A model whose predictions lie wide apart."""
    torch.manual_seed(seed)
    made = MF(4, 16, embedding_dim=3, objective=objective, l2=0.0)
    torch.nn.init.normal_(made.embedding.weight, std=1.5)
    made._trainer = trainer
    made.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return made


def step(model: MF) -> tuple[float, Tensor]:
    """The loss of a training step on ``BATCH``, and its gradient."""
    model.embedding.weight.grad = None
    loss = model.training_step(BATCH, 0)["loss"]
    loss.backward()
    assert model.embedding.weight.grad is not None
    return float(loss.detach()), model.embedding.weight.grad.clone()


def predictions(model: MF) -> tuple[Tensor, Tensor]:
    """Of the observed and of the sampled items of ``BATCH``, with gradient."""
    return model.score(BATCH["user"], BATCH["positive"]), model.score(BATCH["user"], BATCH["negative"])


def gradient(model: MF, loss: Tensor) -> Tensor:
    """Of a loss made of ``predictions``."""
    (found,) = torch.autograd.grad(loss, model.embedding.weight, retain_graph=True)
    return found
