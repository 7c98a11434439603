"""The base class of the callbacks that act at an epoch's end, as a third party would use it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from small_fits import Keep, Method, catalog, playback, quiet

from llmhd_pl.callbacks import EpochEndCallback, NoiseAudit, SampleRecorder, VariancePruning
from llmhd_pl.denoising.epoch import Epoch
from llmhd_pl.denoising.store import CLEAN, HARD, NOISE


class DropFirst(EpochEndCallback):
    """Drops the first samples; one more in each epoch."""

    def __init__(self, weight: float | None = None) -> None:
        self.weight = weight
        self.acted: list[int] = []

    def at_epoch_end(self, trainer: Trainer, pl_module: LightningModule, epoch: Epoch) -> None:
        self.acted.append(epoch.number)
        status = torch.full_like(epoch.status, CLEAN)
        status[: epoch.number + 1], status[-2:] = NOISE, HARD
        weights = None if self.weight is None else torch.where(status == NOISE, self.weight, 1.0)
        epoch.decide(status, weights)


class Look(EpochEndCallback):
    """Looks at the decisions."""

    decides = False

    def __init__(self) -> None:
        self.dropped: list[int] = []
        self.variances: list[Any] = []

    def at_epoch_end(self, trainer: Trainer, pl_module: LightningModule, epoch: Epoch) -> None:
        self.dropped.append(int((epoch.weights == 0).sum()))
        self.variances.append(epoch.variances)


def test_a_decision_has_an_effect_in_the_next_epoch_and_is_logged(tmp_path: Path) -> None:
    data = catalog()
    module, recorder = playback(data, 3), SampleRecorder(window=2)
    trainer = quiet(tmp_path, recorder, DropFirst(), look := Look(), max_epochs=3)
    trainer.fit(module, data)
    assert look.dropped == [1, 2, 3]
    for epoch in (1, 2):
        assert (module.weights[epoch] == 0).nonzero().flatten().tolist() == list(range(epoch))
    assert trainer.callback_metrics["denoise/dropped"] == 3 and trainer.callback_metrics["denoise/hard"] == 2


def test_weights_may_be_soft(tmp_path: Path) -> None:
    data = catalog()
    module = playback(data, 2)
    quiet(tmp_path, SampleRecorder(window=2), DropFirst(weight=0.25), max_epochs=2).fit(module, data)
    assert module.weights[1][0] == 0.25 and (module.weights[1][1:] == 1).all()


def test_the_last_decision_holds_and_is_logged_once(tmp_path: Path) -> None:
    data = catalog()
    callbacks = [SampleRecorder(window=2), VariancePruning(0.5, 1), DropFirst(), keep := Look()]
    trainer = quiet(tmp_path, *callbacks, max_epochs=2)
    trainer.fit(playback(data, 2), data)
    assert keep.dropped == [1, 2] and trainer.callback_metrics["denoise/dropped"] == 2
    assert trainer.callback_metrics["denoise/noise_set"] == round(0.5 * len(data.train_users))


def test_variances_are_computed_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, method = catalog(), Method()
    calls = []
    fit = quiet(tmp_path, *method.callbacks, look := Look(), max_epochs=3)

    class Count(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            store = method.recorder.store
            variances = type(store).variances
            monkeypatch.setattr(store, "variances", lambda: (calls.append(1), variances(store))[1])

    fit.callbacks.append(Count())  # type: ignore[attr-defined]
    fit.fit(playback(data, 3), data)
    assert len(calls) == 3 == len(look.variances)


@pytest.mark.parametrize("name", ["step=6", "step=8", "end-epoch=1"])
def test_a_resumed_run_makes_up_for_an_end_that_was_missed(tmp_path: Path, name: str) -> None:
    """Also of a third party's callback: step 6 is the last of an epoch, before its end."""
    data = catalog()

    def fit(checkpoint: Path | None = None) -> tuple[DropFirst, Keep]:
        keep = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        ends = ModelCheckpoint(
            tmp_path, every_n_epochs=1, save_top_k=-1, filename="end-{epoch}", save_on_train_epoch_end=True
        )
        recorder = SampleRecorder(window=2)
        drop, watch = DropFirst(), Keep(recorder)
        trainer = quiet(tmp_path, recorder, drop, watch, keep, ends, max_epochs=4, enable_checkpointing=True)
        trainer.fit(playback(data, 4), data, ckpt_path=checkpoint)
        assert trainer.num_training_batches == 6
        return drop, watch

    drop, watch = fit()
    assert drop.acted == [0, 1, 2, 3]
    again, resumed = fit(tmp_path / f"{name}.ckpt")
    assert again.acted == {"step=6": [0, 1, 2, 3], "step=8": [1, 2, 3], "end-epoch=1": [2, 3]}[name]
    assert torch.equal(watch.weights[-1], resumed.weights[-1])


@pytest.mark.parametrize("late", [DropFirst, VariancePruning])
def test_who_looks_comes_after_who_decides(tmp_path: Path, late: type[EpochEndCallback]) -> None:
    data = catalog()
    with pytest.raises(RuntimeError, match=f"NoiseAudit must come after {late.__name__}"):
        quiet(tmp_path, SampleRecorder(), NoiseAudit(), late()).fit(playback(data, 1), data)
    with pytest.raises(RuntimeError, match="DropFirst needs SampleRecorder"):
        quiet(tmp_path, DropFirst()).fit(playback(data, 1), data)


def test_the_epoch_is_there_at_its_end_only(tmp_path: Path) -> None:
    data, recorder = catalog(), SampleRecorder(window=2)

    class Early(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            _ = recorder.epoch

    with pytest.raises(RuntimeError, match="exists at an epoch's end"):
        quiet(tmp_path, recorder, Early(), max_epochs=2).fit(playback(data, 2), data)


def test_the_same_callbacks_can_be_fitted_twice(tmp_path: Path) -> None:
    data, method = catalog(), Method()
    for _ in range(2):
        quiet(tmp_path, *method.callbacks, audit := NoiseAudit()).fit(playback(data, 1), data)
    assert not audit.decides
