"""``train/loss`` is that of one process in one run, with several processes and after a resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from small_models import catalog, quiet

from llmhd_pl.backbones import MF
from llmhd_pl.callbacks import ReweightedLoss


class Logged(Callback):
    """Writes ``train/loss`` of each epoch to a file for each process, as it stands in the log; keeps checkpoints."""

    def __init__(self, folder: Path, keep: bool = False) -> None:
        self.folder, self.keep = folder, keep
        self.losses: dict[int, float] = {}

    def _save(self, trainer: Trainer, name: str) -> None:
        if self.keep:
            trainer.save_checkpoint(self.folder / f"{name}.ckpt")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._save(trainer, f"step {trainer.global_step}")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._save(trainer, f"validation {trainer.current_epoch}")

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._note(trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._note(trainer)
        path = self.folder / f"{trainer.global_rank} of {trainer.world_size}.json"
        path.write_text(json.dumps(self.losses))

    def _note(self, trainer: Any) -> None:
        """After an epoch's end, when Lightning has reduced what was logged."""
        if "train/loss" in trainer.callback_metrics:
            self.losses[trainer.current_epoch - 1] = float(trainer.callback_metrics["train/loss"])


def losses(
    folder: Path, processes: int = 1, keep: bool = False, checkpoint: str | None = None
) -> list[dict[str, float]]:
    """Fit for three epochs of five batches, and return what each process has logged, by epoch."""
    torch.manual_seed(0)
    model = MF(60, 50, embedding_dim=8, learning_rate=0.05, objective="bce", l2=0.01)
    trainer = quiet(
        max_epochs=3,
        callbacks=[ReweightedLoss(0.5), Logged(folder, keep)],
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
    )
    trainer.fit(model, catalog(), ckpt_path=None if checkpoint is None else folder / f"{checkpoint}.ckpt")
    return [json.loads((folder / f"{rank} of {processes}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The folder of a run that nothing interrupts, and its losses."""
    folder = tmp_path_factory.mktemp("whole")
    (found,) = losses(folder, keep=True)
    assert list(found) == ["0", "1", "2"] and found["0"] > found["1"] > found["2"]
    return folder, found


@pytest.mark.filterwarnings("error:.*sync_dist=True.*")
def test_two_processes_log_the_loss_of_one(tmp_path: Path, whole: tuple[Path, dict[str, float]]) -> None:
    first, second = losses(tmp_path, processes=2)
    assert first == second
    assert first == pytest.approx(whole[1], rel=1e-5)


@pytest.mark.parametrize("checkpoint", ["step 2", "step 5", "step 7", "validation 1"])
def test_a_resumed_epoch_has_the_loss_of_all_of_its_samples(
    whole: tuple[Path, dict[str, float]], checkpoint: str
) -> None:
    """A checkpoint of the validation at an epoch's end is resumed in that epoch, one of its last step in the next."""
    folder, expected = whole
    (found,) = losses(folder, checkpoint=checkpoint)
    first = {"step 2": 0, "step 5": 1, "step 7": 1, "validation 1": 1}[checkpoint]
    assert found == {epoch: loss for epoch, loss in expected.items() if int(epoch) >= first}


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_a_checkpoint_is_resumed_with_any_number_of_processes(
    tmp_path: Path, whole: tuple[Path, dict[str, float]], before: int, after: int
) -> None:
    losses(tmp_path, processes=before, keep=True)
    resumed = losses(tmp_path, processes=after, checkpoint="step 7")
    for found in resumed:
        assert found == pytest.approx({epoch: loss for epoch, loss in whole[1].items() if epoch != "0"}, rel=1e-5)


def test_a_checkpoint_without_a_mean_loss_is_resumed(whole: tuple[Path, dict[str, float]]) -> None:
    folder, expected = whole
    content = torch.load(folder / "step 7.ckpt")
    del content["mean_loss"]
    torch.save(content, folder / "older.ckpt")
    (found,) = losses(folder, checkpoint="older")
    assert found["1"] < expected["1"]  # the mean of the rest
    assert found["2"] == expected["2"]
