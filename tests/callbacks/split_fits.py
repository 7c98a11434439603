"""Fits of the whole method on played-back losses, with one process or two: ``python split_fits.py PLAN.json``.

Losses and predictions come from tables, so that they are the same to the last bit however the samples are split.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from small_fits import Method, Playback, catalog, playback, quiet
from torch import Tensor

from llmhd_pl.callbacks import GraphPruning, NoiseAudit


class Graph(Playback):
    """A module that would have a graph."""

    adjacency: Any = None

    def set_graph(self, users: Tensor, items: Tensor) -> None:
        self.adjacency = SimpleNamespace(col=torch.cat([users, items]))


def fit(
    folder: str, processes: int, epochs: int, checkpoint: str | None = None, objective: str = "bpr", **arguments: Any
) -> None:
    """A fit that keeps a checkpoint after every third step and every epoch, and its log, in the folder."""
    data = catalog(negative_lifetime=3)
    tables = playback(data, 8, objective)
    module = Graph(tables.losses, tables.positive, tables.negative, objective)
    pruning: dict[str, Any] = {"candidates": "random"} if arguments.pop("random", False) else {}
    if rate := arguments.pop("rate", None):
        pruning |= {"max_drop_rate": rate, "ramp_iterations": 1}
    method = Method(pruning=pruning, **arguments)
    keep = ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    ends = ModelCheckpoint(
        folder, every_n_epochs=1, save_top_k=-1, filename="end-{epoch}", save_on_train_epoch_end=True
    )
    trainer = quiet(
        Path(folder),
        *(*method.callbacks, GraphPruning(patience=2), NoiseAudit(), keep, ends),
        max_epochs=epochs,
        logger=CSVLogger(folder, name="runs"),
        enable_checkpointing=True,
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
    )
    trainer.fit(module, data, ckpt_path=checkpoint)


if __name__ == "__main__":
    for plan in json.loads(Path(sys.argv[1]).read_text()):
        fit(**plan)
