"""RecTools, unchanged: what the recorder sees is compared with its losses, computed by hand from its logits."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

pytest.importorskip("rectools")

import pandas as pd
from comparison import quiet
from rectools import Columns
from rectools.dataset import Dataset
from rectools_sequences import MODELS

from llmhd_pl import LossDropping, SampleRecorder

pytestmark = pytest.mark.filterwarnings("ignore")
NEGATIVES, T = 3, 0.2
LOSSES = [("SASRec", loss) for loss in ("softmax", "BCE", "gBCE", "sampled_softmax")] + [("BERT4Rec", "softmax")]


def by_hand(module: Any, batch: dict[str, Tensor]) -> Tensor:
    """The loss of each position, [B, L]."""
    logits = module.get_batch_logits(batch).detach()
    if module.loss == "softmax":
        return -logits.log_softmax(dim=-1).gather(2, batch["y"][..., None]).squeeze(2)
    if module.loss == "sampled_softmax":
        return -logits.log_softmax(dim=-1)[..., 0]
    positive, negative = logits[..., 0].double(), logits[..., 1:].double()
    beta = 1.0
    if module.loss == "gBCE":  # -log(sigmoid(s) ** beta), Petrov and Macdonald, RecSys 2023
        items = module.torch_model.item_model.n_items - len(module.item_extra_tokens)
        alpha = NEGATIVES / (items - 1)
        beta = alpha * (T * (1 - 1 / alpha) + 1 / alpha)
    return ((beta * F.softplus(-positive) + F.softplus(negative).sum(dim=-1)) / (1 + NEGATIVES)).float()


class ByHand(Callback):
    """The losses of each epoch by sample, what the step returned, and what it should be by the weights of then."""

    def __init__(self, size: int) -> None:
        self.losses, self.totals, self.weights = [torch.full((size,), torch.nan)], [], torch.ones(size)
        self.own: list[Tensor] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        recorder = next(callback for callback in trainer.callbacks if isinstance(callback, SampleRecorder))  # type: ignore[attr-defined]
        self.weights = recorder.store.weights.float().clone()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        losses, sample = by_hand(pl_module, batch), batch["sample"]
        known = sample >= 0
        assert torch.equal(known, batch["y"] != 0)
        self.losses[-1][sample[known]] = losses[known]
        self.own.append(batch["yw"])
        weighted = (losses * batch["yw"])[known] * self.weights[sample[known]]
        count = (weighted > 0).sum() if "softmax" in pl_module.loss else known.sum()
        self.totals.append((float(outputs["loss"]), float(weighted.sum() / count)))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses.append(self.losses[-1].clone())


def interactions(weight: float = 1.0) -> tuple[pd.DataFrame, Dataset]:
    """12 users with 2 to 9 clicks on 15 items; identifiers of their own, rows in no order."""
    generator = torch.Generator().manual_seed(0)
    rows = [(user, int(item), float(time)) for user in range(12) for time, item in
            enumerate(torch.randperm(15, generator=generator)[: 2 + user % 8])]  # fmt: skip
    table = pd.DataFrame(rows, columns=["user", "item", "time"]).sample(frac=1, random_state=0).reset_index(drop=True)
    table[Columns.User], table[Columns.Item] = "u" + table.user.astype(str), "i" + table.item.astype(str)
    table[Columns.Weight], table[Columns.Datetime] = weight, pd.to_datetime(table.time, unit="s")
    table["sample"] = range(len(table))
    columns = [Columns.User, Columns.Item, Columns.Weight, Columns.Datetime, "sample"]
    return table, Dataset.construct(table[columns], keep_extra_cols=True)


def made(folder: Path, table: pd.DataFrame, model: str, loss: str, epochs: int, **arguments: Any) -> Any:
    kind, preparator = MODELS[model]

    def trainer() -> Trainer:
        users, items = pd.factorize(table[Columns.User])[0], pd.factorize(table[Columns.Item])[0]
        method = LossDropping(0.3, ramp_iterations=1, users=users, items=items, weight_key="yw")
        return Trainer(
            max_epochs=epochs, callbacks=[*method, ByHand(len(table))], **(quiet() | {"default_root_dir": folder})
        )

    given = {"n_factors": 8, "n_blocks": 1, "n_heads": 1, "session_max_len": 6, "batch_size": 5, "dropout_rate": 0.0}
    given |= {"n_negatives": NEGATIVES, "gbce_t": T, "lr": 0.0, **arguments}
    return kind(**given, loss=loss, data_preparator_type=preparator, get_trainer_func=trainer)


@pytest.mark.parametrize(("model", "loss"), LOSSES)
def test_the_losses_of_the_library(tmp_path: Path, model: str, loss: str) -> None:
    table, dataset = interactions(weight=2.0)
    more = {"mask_prob": 0.5} if model == "BERT4Rec" else {}
    recommender = made(tmp_path, table, model, loss, 3, **more)
    recommender.fit(dataset)
    recorder, *_, expected = recommender.fit_trainer.callbacks  # of the copy that RecTools trains with
    assert isinstance(recorder, SampleRecorder)
    losses = expected.losses[-1]
    torch.testing.assert_close(recorder.store.losses, losses, atol=5e-6, rtol=0, equal_nan=True)
    assert 20 < int((~losses.isnan()).sum()) < len(table)  # the first click of a user is never a target
    dropped = recorder.store.weights == 0
    assert int(dropped.sum()) == round(0.3 * int((~losses.isnan()).sum()))
    # What the module optimised is the mean over what is kept, with the library's own weight and normalisation.
    totals = torch.tensor(expected.totals)
    torch.testing.assert_close(totals[:, 0], totals[:, 1], atol=5e-6, rtol=0)
    assert expected.weights.min() == 0  # something was dropped in the last epoch
    assert all(((own == 2) | (own == 0)).all() and type(own) is Tensor for own in expected.own)


def test_fit_partial_goes_on(tmp_path: Path) -> None:
    table, dataset = interactions()
    recommender = made(tmp_path, table, "SASRec", "softmax", 2, lr=0.01)
    recommender.fit_partial(dataset, min_epochs=1, max_epochs=2)
    recorder = recommender.fit_trainer.callbacks[0]
    first = recorder.store.weights.clone()
    assert recorder.store.epoch == 1 and (first == 0).any()
    recommender.fit_partial(dataset, min_epochs=1, max_epochs=1)
    by_hand = recommender.fit_trainer.callbacks[-1]
    assert recommender.fit_trainer.callbacks[0] is recorder and recorder.store.epoch == 2
    assert torch.equal(by_hand.weights, first.float())  # the decisions of the first fit held in the second
