"""RecTools, unchanged: what the recorder sees and what is optimised are compared with its losses by hand."""

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
from rectools.models import load_model
from rectools_sequences import CLIENTS, MODELS
from short_run import check_short_run

from llmhd_pl import LossDropping, SampleRecorder

pytestmark = pytest.mark.filterwarnings("ignore")
NEGATIVES, T = 3, 0.2
LOSSES = [("SASRec", loss) for loss in ("softmax", "BCE", "gBCE", "sampled_softmax")] + [("BERT4Rec", "softmax")]


def by_hand(module: Any, batch: dict[str, Tensor]) -> Tensor:
    """The loss of each position, [B, L]."""
    logits = module.get_batch_logits(batch)
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
    """The losses by sample, and what each step should optimise: the library's mean without what was dropped before.

    Args:
        own: The weight of each interaction in the table, [n].
        names: The item of each interaction, as the table calls it.
    """

    def __init__(self, own: Tensor, names: list[str]) -> None:
        self.own, self.losses, self.weights = own, torch.full((len(own),), torch.nan), torch.ones(len(own))
        self.names = names
        self.totals: list[tuple[float, float]] = []
        self.dropped = 0  # targets of weight 0 that were compared

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        recorder = next(callback for callback in trainer.callbacks if isinstance(callback, SampleRecorder))  # type: ignore[attr-defined]
        self.weights = recorder.store.weights.float().clone()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batch = batch

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        """Nothing is rounded in between: the gradient itself is that of the mean over what is kept."""
        sample, found = self.batch["sample"], {n: p.grad for n, p in pl_module.torch_model.named_parameters()}
        known = sample >= 0
        assert torch.equal(known, self.batch["y"] != 0)
        targets = pl_module.data_preparator.item_id_map.convert_to_external(self.batch["y"][known].numpy())
        assert targets.tolist() == [self.names[row] for row in sample[known]]
        weights = self.own[sample[known]] * self.weights[sample[known]]
        self.dropped += int((weights == 0).sum())
        losses = by_hand(pl_module, self.batch)[known]
        # RecTools divides the softmax by the losses above 0, the others by all targets.
        total = (losses * weights).sum() / ((weights > 0).sum() if "softmax" in pl_module.loss else known.sum())
        self.losses[sample[known]] = losses.detach()
        self.expected = float(total)
        names, parameters = zip(*pl_module.torch_model.named_parameters(), strict=True)
        for name, gradient in zip(names, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
            missing = torch.zeros_like(dict(pl_module.torch_model.named_parameters())[name])
            torch.testing.assert_close(
                missing if found[name] is None else found[name], missing if gradient is None else gradient,
                atol=5e-6, rtol=0, msg=name,
            )  # fmt: skip

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.totals.append((float(outputs["loss"]), self.expected))
        known = batch["sample"] >= 0
        assert type(batch["yw"]) is Tensor and torch.equal(batch["yw"][known], self.own[batch["sample"][known]])


def interactions() -> tuple[pd.DataFrame, Dataset]:
    """12 users with 2 to 9 clicks on 15 items; identifiers and weights of their own, rows in no order."""
    generator = torch.Generator().manual_seed(0)
    rows = [(user, int(item), float(time)) for user in range(12) for time, item in
            enumerate(torch.randperm(15, generator=generator)[: 2 + user % 8])]  # fmt: skip
    table = pd.DataFrame(rows, columns=["user", "item", "time"]).sample(frac=1, random_state=0).reset_index(drop=True)
    table[Columns.User], table[Columns.Item] = "u" + table.user.astype(str), "i" + table.item.astype(str)
    table[Columns.Datetime], table["sample"] = pd.to_datetime(table.time, unit="s"), range(len(table))
    table[Columns.Weight] = 1.0 + table["sample"] % 3
    columns = [Columns.User, Columns.Item, Columns.Weight, Columns.Datetime, "sample"]
    return table, Dataset.construct(table[columns], keep_extra_cols=True)


def trainer(folder: str, users: list[int], names: list[str], own: list[float], epochs: int) -> Trainer:
    """What RecTools makes its trainer with, also when it loads a model."""
    method = LossDropping(0.3, ramp_iterations=1, users=users, items=pd.factorize(names)[0], weight_key="yw")
    callbacks = [*method, ByHand(torch.tensor(own), names)]
    return Trainer(max_epochs=epochs, callbacks=callbacks, **(quiet() | {"default_root_dir": folder}))


def made(folder: Path, table: pd.DataFrame, model: str, loss: str, epochs: int, **arguments: Any) -> Any:
    kind, preparator = MODELS[model]
    told = {
        "folder": str(folder), "epochs": epochs, "own": table[Columns.Weight].tolist(),
        "users": pd.factorize(table[Columns.User])[0].tolist(), "names": table[Columns.Item].tolist(),
    }  # fmt: skip
    given = {"n_factors": 8, "n_blocks": 1, "n_heads": 1, "session_max_len": 6, "batch_size": 5, "dropout_rate": 0.0}
    given |= {"n_negatives": NEGATIVES, "gbce_t": T, "lr": 0.0, **arguments}
    given |= {"get_trainer_func": trainer, "get_trainer_func_kwargs": told}
    return kind(**given, loss=loss, data_preparator_type=preparator)


@pytest.mark.parametrize(("model", "loss"), LOSSES)
def test_the_losses_and_gradients_of_the_library(tmp_path: Path, model: str, loss: str) -> None:
    table, dataset = interactions()
    more = {"mask_prob": 0.5} if model == "BERT4Rec" else {}
    recommender = made(tmp_path, table, model, loss, 3, **more)
    recommender.fit(dataset)
    recorder, *_, expected = recommender.fit_trainer.callbacks  # of the copy that RecTools trains with
    assert isinstance(recorder, SampleRecorder)
    torch.testing.assert_close(recorder.store.losses, expected.losses, atol=5e-6, rtol=0, equal_nan=True)
    seen = int((~expected.losses.isnan()).sum())
    assert 20 < seen < len(table)  # the first click of a user is never a target
    assert int((recorder.store.weights == 0).sum()) == round(0.3 * seen)
    totals = torch.tensor(expected.totals)
    torch.testing.assert_close(totals[:, 0], totals[:, 1], atol=5e-6, rtol=0)
    assert expected.dropped > 5  # gradients without dropped targets were compared


def test_fit_partial_goes_on(tmp_path: Path) -> None:
    table, dataset = interactions()
    recommender = made(tmp_path, table, "SASRec", "softmax", 2, lr=0.01)
    recommender.fit_partial(dataset, min_epochs=1, max_epochs=2)
    recorder = recommender.fit_trainer.callbacks[0]
    first = recorder.store.weights.clone()
    assert recorder.store.epoch == 1 and (first == 0).any()
    recommender.fit_partial(dataset, min_epochs=1, max_epochs=1)
    expected = recommender.fit_trainer.callbacks[-1]
    assert recommender.fit_trainer.callbacks[0] is recorder and recorder.store.epoch == 2
    assert torch.equal(expected.weights, first.float())  # the decisions of the first fit held in the second


def test_a_saved_model_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What RecTools saves holds arrays, with or without these callbacks, and torch 2.6 does not load those by default.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    table, dataset = interactions()
    recommender = made(tmp_path, table, "SASRec", "softmax", 2, lr=0.01)
    recommender.fit(dataset)
    first = recommender.fit_trainer.callbacks[0].store.weights.clone()
    recommender.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    recorder = loaded.fit_trainer.callbacks[0]
    assert torch.equal(recorder.store.weights, first) and (first == 0).any()
    loaded.fit_partial(dataset, min_epochs=1, max_epochs=1)
    assert recorder is loaded.fit_trainer.callbacks[0] and recorder.store.epoch == 2
    assert torch.equal(loaded.fit_trainer.callbacks[-1].weights, first.float())


@pytest.mark.parametrize("client", CLIENTS)
def test_the_example(client: str) -> None:
    check_short_run(CLIENTS[client])
