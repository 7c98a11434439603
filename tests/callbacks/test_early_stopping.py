"""EarlyStopping, on a module whose validation metric is given for every epoch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from llmhd_pl.callbacks import EarlyStopping


class Scored(LightningModule):
    """Its score is the one given for the epoch, and the last one from there on."""

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.scores = scores
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.weight * batch).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("score", self.scores[min(self.current_epoch, len(self.scores) - 1)])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def stopping(patience: int, **arguments: Any) -> EarlyStopping:
    return EarlyStopping("score", patience=patience, mode="max", **arguments)


def fit(
    folder: Path, callback: EarlyStopping, *scores: float, checkpoint: Path | None = None, **arguments: Any
) -> Trainer:
    keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[callback, keep], **{"max_epochs": 9, **arguments},
    )  # fmt: skip
    batches = DataLoader(torch.ones(4, 1))  # type: ignore[arg-type]
    trainer.fit(Scored(*scores), batches, batches, ckpt_path=checkpoint)
    return trainer


def test_a_patience_of_zero_stops_at_the_first_epoch_that_is_no_better(tmp_path: Path) -> None:
    assert fit(tmp_path, stopping(0), 1, 2, 3, 3, 4).current_epoch == 4
    # A run that was not stopped goes on, although it has waited for as long as its patience.
    assert fit(tmp_path, stopping(0), 1, 2, 3, 3, 4, checkpoint=tmp_path / "epoch=1.ckpt").current_epoch == 4
    assert fit(tmp_path, stopping(0), 1, 2, 3, 3, 4, checkpoint=tmp_path / "epoch=3.ckpt").current_epoch == 4


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_fit_of_another_trainer_counts_from_the_start(tmp_path: Path, mode: str) -> None:
    sign = 1 if mode == "max" else -1
    callback = EarlyStopping("score", patience=2, mode=mode)
    assert fit(tmp_path, callback, sign * 8, sign * 9).current_epoch == 4
    assert fit(tmp_path, callback, sign * 1, sign * 2, sign * 3).current_epoch == 5
    assert float(callback.best_score) == sign * 3 and callback.wait_count == 2


def test_the_patience_that_is_given_holds_in_a_resumed_fit(tmp_path: Path) -> None:
    assert fit(tmp_path, stopping(1), 2, 1).current_epoch == 2
    stopped = tmp_path / "epoch=1.ckpt"
    callback = stopping(3)
    assert fit(tmp_path, callback, 2, 1, checkpoint=stopped).current_epoch == 4
    assert callback.patience == 3 and float(callback.best_score) == 2
    assert fit(tmp_path, stopping(1), 2, 1, checkpoint=stopped).current_epoch == 2


def test_max_steps_within_the_first_epoch(tmp_path: Path) -> None:
    """Nothing has been validated then, and Lightning would end with an error that names the metric."""
    assert fit(tmp_path, stopping(1), 1, max_steps=3, max_epochs=-1).global_step == 3
    for steps in (4, 6):  # the first epoch is whole
        with pytest.raises(RuntimeError, match="`scroe` which is not available"):
            fit(tmp_path, EarlyStopping("scroe"), 1, max_steps=steps, max_epochs=-1)


def test_an_epoch_that_max_steps_cuts_off_is_not_waited_for(tmp_path: Path) -> None:
    """The metric is still that of the epoch before."""
    callback = stopping(5)
    fit(tmp_path, callback, 1, max_steps=6, max_epochs=-1)
    assert callback.wait_count == 0
