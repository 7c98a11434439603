"""Fits of the baselines on played-back losses, with one process or two: ``python split_baselines.py PLAN.json``."""

import json
import sys
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from small_fits import catalog, playback, quiet

from llmhd_pl.callbacks import DoubleCorrection, TruncatedLoss


class SaveWeights(Callback):
    """Each process knows those of its own samples."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.weights, Path(trainer.default_root_dir) / f"weights-{trainer.global_rank}.pt")


def fit(folder: str, processes: int, checkpoint: str | None = None) -> None:
    """A fit that keeps a checkpoint after every fourth step, and each process's weights, in the folder."""
    data = catalog()
    Path(folder).mkdir()
    keep = ModelCheckpoint(folder, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    trainer = quiet(
        Path(folder),
        *(DoubleCorrection(0.2, 15, 0.5), TruncatedLoss(0.1, 5), SaveWeights(), keep),
        max_epochs=4,
        enable_checkpointing=True,
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
    )
    trainer.fit(playback(data, 4, "bce"), data, ckpt_path=checkpoint)


if __name__ == "__main__":
    for plan in json.loads(Path(sys.argv[1]).read_text()):
        fit(**plan)
