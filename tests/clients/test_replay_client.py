"""RePlay, unchanged, in the namespace ``lightning``: its losses by hand, its weighted mean, and a run that resumes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("replay")
pytest.importorskip("lightning")

import lightning.pytorch as lightning
from comparison import Clicks, book_shop, quiet
from lightning.pytorch.callbacks import ModelCheckpoint
from replay.nn.lightning import LightningModule
from replay.nn.lightning.optimizer import OptimizerFactory
from replay_models import batches, make

from llmhd_pl import LLMHD, LexicalScorer, SampleRecorder

pytestmark = pytest.mark.filterwarnings("ignore")


class ByHand(lightning.Callback):
    def __init__(self, clicks: Clicks) -> None:
        self.losses, self.weights = torch.full((len(clicks.users),), torch.nan), torch.ones(len(clicks.users))
        self.totals: list[tuple[float, float]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        recorder = next(callback for callback in trainer.callbacks if isinstance(callback, SampleRecorder))
        self.weights = recorder.store.weights.float().clone()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        model, features = pl_module.model, batch["feature_tensors"]
        tower = model.body if hasattr(model.body, "encoder") else model.body.query_tower
        logits = model.get_logits(tower(features, batch["padding_mask"])).detach()
        sample, own = features["sample"].squeeze(2), features["weight"].squeeze(2)
        known = sample >= 0
        assert type(own) is Tensor and torch.equal(own, known.float())
        target = batch["positive_labels"].squeeze(2)
        losses = -logits.log_softmax(dim=-1)[known].gather(1, target[known][:, None]).squeeze(1)
        self.losses[sample[known]] = losses
        weights = self.weights[sample[known]]
        self.totals.append((float(outputs["loss"]), float((losses * weights).sum() / weights.sum())))


def fit(
    folder: Path, clicks: Clicks, model: str, epochs: int, rate: float | None, resumed: Path | None = None
) -> tuple[Any, ByHand]:
    lightning.seed_everything(0, verbose=False)
    # RePlay's checkpoints hold the factory if one was given, and torch.load without code refuses it.
    factory = None if rate is None else OptimizerFactory(learning_rate=rate)
    module = LightningModule(make(clicks, model, 12), factory)
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if isinstance(part, torch.nn.MultiheadAttention):
            part.dropout = 0.0
    method = LLMHD(
        LexicalScorer(), drop_rate=0.2, ramp_iterations=1, users=clicks.users, items=clicks.items, texts=clicks.texts,
        sample_key=("feature_tensors", "sample"), weight_key=("feature_tensors", "weight"), confidence_epochs=1,
    )  # fmt: skip
    by_hand = ByHand(clicks)
    keep = ModelCheckpoint(folder, save_top_k=-1, every_n_epochs=1, filename="{epoch}", save_on_train_epoch_end=True)
    arguments = quiet() | {"enable_checkpointing": True, "default_root_dir": folder, "max_epochs": epochs}
    trainer = lightning.Trainer(callbacks=[*method, by_hand, keep], **arguments)
    trainer.fit(module, batches(clicks, 12, size=16), ckpt_path=resumed)
    return trainer, by_hand


@pytest.mark.parametrize("model", ["SasRec", "TwoTower"])
def test_the_losses_of_the_library(tmp_path: Path, model: str) -> None:
    clicks = book_shop(40)
    trainer, expected = fit(tmp_path, clicks, model, 2, rate=0.0)
    recorder = trainer.callbacks[0]
    assert isinstance(recorder, SampleRecorder)
    torch.testing.assert_close(recorder.store.losses, expected.losses, atol=5e-6, rtol=0, equal_nan=True)
    totals = torch.tensor(expected.totals)
    torch.testing.assert_close(totals[:, 0], totals[:, 1], atol=5e-6, rtol=0)
    assert expected.weights.min() == 0 and expected.losses.isnan().any()
    assert float(trainer.callback_metrics["denoise/dropped"]) == int((recorder.store.weights == 0).sum()) > 0


def test_a_run_of_that_namespace_resumes(tmp_path: Path) -> None:
    clicks = book_shop(40)
    whole, _ = fit(tmp_path / "whole", clicks, "SasRec", 3, rate=None)
    again, _ = fit(tmp_path / "again", clicks, "SasRec", 3, rate=None, resumed=tmp_path / "whole" / "epoch=1.ckpt")
    one, two = (trainer.callbacks[0].store for trainer in (whole, again))
    assert two.epoch == 2 and torch.equal(one.positive[:2].isnan(), two.positive[:2].isnan())
    assert torch.equal(one.positive[:2].nan_to_num(), two.positive[:2].nan_to_num())  # of the epochs before
