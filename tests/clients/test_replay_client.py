"""RePlay, unchanged, in the namespace ``lightning``: its losses by hand, its weighted mean, and a run that resumes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

pytest.importorskip("replay")
pytest.importorskip("lightning")

import lightning.pytorch as lightning
from comparison import Clicks, book_shop, quiet
from lightning.pytorch.callbacks import ModelCheckpoint
from replay.nn.lightning import LightningModule
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.loss import CESampledWeighted
from replay_models import CLIENTS, batches, make
from short_run import check_short_run

from llmhd_pl import LLMHD, LexicalScorer, SampleRecorder

pytestmark = pytest.mark.filterwarnings("ignore")
SAMPLED = torch.tensor([0, 3, 5, 8, 13, 21])  # the negatives of every step; some are observed items


class ByHand(lightning.Callback):
    def __init__(self, clicks: Clicks, own: Tensor) -> None:
        self.own, self.items = own, clicks.items
        self.losses, self.weights = torch.full((len(clicks.users),), torch.nan), torch.ones(len(clicks.users))
        self.totals: list[tuple[float, float]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        recorder = next(callback for callback in trainer.callbacks if isinstance(callback, SampleRecorder))
        self.weights = recorder.store.weights.float().clone()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        model, features = pl_module.model, batch["feature_tensors"]
        tower = model.body if hasattr(model.body, "encoder") else model.body.query_tower
        logits = model.get_logits(tower(features, batch["padding_mask"])).detach()
        sample = features["sample"].squeeze(2)
        known = sample >= 0
        assert type(features["weight"]) is Tensor
        assert torch.equal(features["weight"].squeeze(2)[known], self.own[sample[known]])
        logits, target = logits[known], batch["positive_labels"].squeeze(2)[known]
        assert torch.equal(target, self.items[sample[known]])
        if "negative_labels" in batch:
            negative = logits[:, SAMPLED].masked_fill(target[:, None] == SAMPLED, -torch.inf)
            logits = torch.cat([logits.gather(1, target[:, None]), negative], dim=1)
            target = torch.zeros_like(target)
        losses = -logits.log_softmax(dim=-1).gather(1, target[:, None]).squeeze(1)
        self.losses[sample[known]] = losses
        weights = self.own[sample[known]] * self.weights[sample[known]]
        self.totals.append((float(outputs["loss"]), float((losses * weights).sum() / weights.sum())))


def weighted(clicks: Clicks, own: Tensor, sampled: bool) -> Any:
    """Batches in which clicks have weights of their own."""
    loader = batches(clicks, 12, size=16)

    def collate(users: list[int]) -> Any:
        batch: Any = loader.collate_fn(users)
        features = batch["feature_tensors"]
        features["weight"] = own[features["sample"]] * (features["sample"] >= 0)
        return batch | ({"negative_labels": SAMPLED} if sampled else {})

    return DataLoader(loader.dataset, batch_size=16, shuffle=True, collate_fn=collate)


def fit(
    folder: Path,
    clicks: Clicks,
    model: str,
    epochs: int,
    rate: float | None,
    resumed: Path | None = None,
    sampled: bool = False,
) -> tuple[Any, ByHand]:
    lightning.seed_everything(0, verbose=False)
    # RePlay's checkpoints hold the factory if one was given, and torch.load without code refuses it.
    factory = None if rate is None else OptimizerFactory(learning_rate=rate)
    made, own = make(clicks, model, 12), 1.0 + torch.arange(len(clicks.users)) % 3
    if sampled:
        made.loss = CESampledWeighted("weight")
        made.loss.logits_callback = made.get_logits
    module = LightningModule(made, factory)
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if isinstance(part, torch.nn.MultiheadAttention):
            part.dropout = 0.0
    method = LLMHD(
        LexicalScorer(), drop_rate=0.2, ramp_iterations=1, users=clicks.users, items=clicks.items, texts=clicks.texts,
        sample_key=("feature_tensors", "sample"), weight_key=("feature_tensors", "weight"), confidence_epochs=1,
    )  # fmt: skip
    by_hand = ByHand(clicks, own)
    keep = ModelCheckpoint(folder, save_top_k=-1, every_n_epochs=1, filename="{epoch}", save_on_train_epoch_end=True)
    arguments = quiet() | {"enable_checkpointing": True, "default_root_dir": folder, "max_epochs": epochs}
    trainer = lightning.Trainer(callbacks=[*method, by_hand, keep], **arguments)
    trainer.fit(module, weighted(clicks, own, sampled), ckpt_path=resumed)
    return trainer, by_hand


@pytest.mark.parametrize("sampled", [False, True], ids=["CEWeighted", "CESampledWeighted"])
@pytest.mark.parametrize("model", ["SasRec", "TwoTower"])
def test_the_losses_of_the_library(tmp_path: Path, model: str, sampled: bool) -> None:
    clicks = book_shop(40)
    trainer, expected = fit(tmp_path, clicks, model, 2, rate=0.0, sampled=sampled)
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


@pytest.mark.parametrize("client", CLIENTS)
def test_the_example(client: str) -> None:
    check_short_run(CLIENTS[client])
