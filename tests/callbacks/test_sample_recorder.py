import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import split_fits
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from small_fits import NAN, Method, Playback, catalog, equal, playback, quiet
from torch import Tensor

from llmhd_pl.backbones import MF, LightGCN
from llmhd_pl.callbacks import (
    DoubleCorrection,
    GraphPruning,
    Oracle,
    ReweightedLoss,
    SampleRecorder,
    TruncatedLoss,
    VariancePruning,
)
from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.sample_weights import SampleWeights

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(contradicts itself|fell from)"),  # the scores are hashes
    pytest.mark.filterwarnings("ignore:.*(exists and is not empty|dirpath has changed|callbacks used to create)"),
    pytest.mark.filterwarnings("ignore:.*have no .val_dataloader"),
]


class Weigh(Callback):
    """Gives sample s the weight s % 3 after the first epoch."""

    def __init__(self, recorder: SampleRecorder) -> None:
        self.recorder = recorder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = self.recorder.store.weights
        wanted = torch.arange(len(weights)) % 3
        weights.copy_(wanted if weights.dim() == 1 else torch.stack([wanted, 2 - wanted], dim=1))


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_what_the_steps_said_is_in_the_store(tmp_path: Path, objective: str) -> None:
    data = catalog(negative_lifetime=4)
    module, recorder = playback(data, 4, objective), SampleRecorder(window=3)
    quiet(tmp_path, recorder, max_epochs=4).fit(module, data)
    store = recorder.store
    assert torch.equal(store.losses, module.losses[3])
    assert torch.equal(store.positive, module.positive[[3, 1, 2]])  # epoch 3 has taken the row of epoch 0
    assert torch.equal(store.negative, module.negative[[3, 1, 2]])
    assert torch.equal(store.negative_item.long(), data.negative_sampler.draw(3))
    positive, negative = store.variances()
    torch.testing.assert_close(positive, module.positive[1:].var(dim=0, correction=0))
    torch.testing.assert_close(negative, module.negative[1:].var(dim=0, correction=0))
    assert torch.equal(recorder.users, data.train_users) and torch.equal(recorder.items, data.train_items)


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_weights_count_in_the_next_epoch(tmp_path: Path, objective: str) -> None:
    data = catalog()
    module, recorder = playback(data, 2, objective), SampleRecorder()
    trainer = quiet(tmp_path, recorder, Weigh(recorder), max_epochs=2)
    trainer.fit(module, data)
    assert (module.weights[0] == 1).all()
    wanted = torch.arange(len(data.train_users)) % 3
    expected = wanted if objective == "bpr" else torch.stack([wanted, 2 - wanted], dim=1)
    assert torch.equal(module.weights[1], expected.float())
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(float((expected * module.losses[1]).sum()))


def test_weights_change_what_a_backbone_learns(tmp_path: Path) -> None:
    """While all samples of a user have weight 0, the user's embedding stays as it is."""
    data = catalog()

    class Silence(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.recorder: SampleRecorder = trainer.callbacks[0]  # type: ignore[attr-defined]
            self.recorder.store.weights[data.train_users == user] = 0
            self.before = [*getattr(self, "before", []), pl_module.embedding.weight.detach().clone()]  # type: ignore[union-attr, operator]

    class Descent(MF):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)  # without momentum: no gradient, no change

    for user in (5, 17):
        model, silence = Descent(40, 50, embedding_dim=8, l2=0.0), Silence()
        start = model.embedding.weight.detach().clone()
        quiet(tmp_path, SampleRecorder(), silence, max_epochs=2).fit(model, data)
        first, second = silence.before
        assert (start != first)[:40].any(dim=1).all()
        assert (first != second)[:40].any(dim=1).tolist() == [other != user for other in range(40)]


class Plain(LightningModule):
    """Somebody's own recommender: no mixin, no hyperparameters; its batches hold a weight if somebody puts it there."""

    pointwise = False
    returned = ("losses", "positive_score", "negative_score")

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = torch.nn.Embedding(40, 4), torch.nn.Embedding(50, 4)
        self.seen: list[tuple[int, Tensor, Tensor]] = []

    def weigh(self, batch: dict[str, Tensor], losses: Tensor) -> Tensor:
        return batch["importance"]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        user = self.users(batch["user"])
        positive, negative = ((user * self.items(batch[name])).sum(dim=1) for name in ("positive", "negative"))
        softplus = torch.nn.functional.softplus
        losses = softplus(negative - positive)
        if self.pointwise:
            losses = torch.stack([softplus(-positive), softplus(negative)], dim=1)
        weights = self.weigh(batch, losses)
        self.seen.append((self.current_epoch, batch["sample"], weights))
        given = {"losses": losses.detach(), "positive_score": positive, "negative_score": negative}
        return {"loss": (weights * losses).mean(), **{name: given[name] for name in self.returned}}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Mixed(SampleWeights, Plain):
    def weigh(self, batch: dict[str, Tensor], losses: Tensor) -> Tensor:
        return self.sample_weights(batch, losses)


@pytest.mark.parametrize(("module", "weight_key"), [(Plain, "importance"), (Mixed, None)])
def test_both_ways_to_the_loss_of_a_foreign_module(tmp_path: Path, module: type[Plain], weight_key: str | None) -> None:
    data, foreign = catalog(), module()
    recorder = SampleRecorder(weight_key=weight_key)
    quiet(tmp_path, recorder, Weigh(recorder), max_epochs=2).fit(foreign, data)
    assert {epoch for epoch, _, _ in foreign.seen} == {0, 1}
    for epoch, sample, weights in foreign.seen:
        assert weights.dtype == torch.float32
        assert torch.equal(weights, torch.ones(len(sample)) if epoch == 0 else (sample % 3).float())
    assert not recorder.store.losses.isnan().any() and not recorder.store.positive.requires_grad


@pytest.mark.parametrize("mixin", [False, True])
def test_a_foreign_pointwise_module(tmp_path: Path, mixin: bool) -> None:
    data, foreign = catalog(), Mixed() if mixin else Plain()
    foreign.pointwise = True
    if not mixin:  # the weights must have the losses' shape before the first losses are seen
        foreign.save_hyperparameters({"objective": "bce"})
    recorder = SampleRecorder(weight_key=None if mixin else "importance")
    quiet(tmp_path, recorder, Weigh(recorder), max_epochs=2).fit(foreign, data)
    for epoch, sample, weights in foreign.seen:
        expected = torch.ones(len(sample), 2) if epoch == 0 else torch.stack([sample % 3, 2 - sample % 3], dim=1)
        assert torch.equal(weights, expected.float())
    assert recorder.store.losses.shape == (len(data.train_users), 2) and not recorder.store.losses.isnan().any()


def test_a_pointwise_module_with_a_weight_per_row(tmp_path: Path) -> None:
    """It multiplies by a weight per row: losses of its two columns can only be weighted alike."""

    class PerRow(Plain):
        def weigh(self, batch: dict[str, Tensor], losses: Tensor) -> Tensor:
            return batch["importance"][:, None]

    foreign = PerRow()
    foreign.pointwise = True
    match = (
        r"PerRow.training_step returned losses of shape \[B, 2\], but batch\['importance'\] is one weight per row.*mean"
    )
    with pytest.raises(RuntimeError, match=match):
        quiet(tmp_path, SampleRecorder(weight_key="importance")).fit(foreign, catalog())


def test_a_trainer_without_a_data_module(tmp_path: Path) -> None:
    """Loaders of one's own: users and items are given to the recorder."""
    batches = [
        {"sample": torch.tensor([2, 0]), "user": torch.tensor([1, 0]), "positive": torch.tensor([3, 4])},
        {"sample": torch.tensor([1]), "user": torch.tensor([0]), "positive": torch.tensor([5])},
    ]
    for batch in batches:
        batch["negative"] = batch["positive"] + 10
    loader: Any = torch.utils.data.DataLoader(batches, batch_size=None)
    recorder = SampleRecorder(users=torch.tensor([0, 0, 1]), items=torch.tensor([4, 5, 3]))
    quiet(tmp_path, recorder).fit(Mixed(), loader)
    assert recorder.store.negative_item.tolist() == [14, 15, 13]
    for users, items in (([0, 0, 1], [4, 5, 3]), (np.array([0, 0, 1]), np.array([4, 5, 3], dtype=np.int32))):
        recorder = SampleRecorder(users=users, items=items)
        quiet(tmp_path, recorder).fit(Mixed(), loader)
        assert recorder.items.dtype == torch.int64 and recorder.items.tolist() == [4, 5, 3]
    with pytest.raises(
        RuntimeError, match=r"no train_users.*users=\.\.\. and items=\.\.\. of SampleRecorder or of the method"
    ):
        quiet(tmp_path, SampleRecorder()).fit(Mixed(), loader)


def test_a_module_that_cannot_be_weighted_is_told_both_ways(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"Plain cannot be denoised.*SampleWeights.*sample_weights.*weight_key="
    ) as error:
        quiet(tmp_path, SampleRecorder()).fit(Plain(), catalog())
    assert "losses" in str(error.value)


@pytest.mark.parametrize(
    ("weight_key", "missing", "named"),
    [
        (None, ["sample"], "no sample"),
        ("importance", ["sample"], "no sample"),
        ("importance", ["sample", "negative"], "no sample and no negative"),
    ],
)
def test_a_batch_that_lacks_something(tmp_path: Path, weight_key: str | None, missing: list[str], named: str) -> None:
    class Lacking(SyntheticCatalog):
        def train_dataloader(self) -> Any:
            batches = [{name: column for name, column in batch.items() if name not in missing} for batch in full]
            return torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    full = [{name: torch.zeros(2, dtype=torch.int64) for name in ("sample", "user", "positive", "negative")}]
    data = Lacking(40, 50, num_topics=5, books_per_reader=12)
    with pytest.raises(RuntimeError, match=rf"batch has {named}\. .*dict.*'sample'.*'negative'.*int64 \[B\]"):
        quiet(tmp_path, SampleRecorder(weight_key=weight_key)).fit(Mixed(), data)


@pytest.mark.parametrize(("key", "size"), [("negative", (2, 4)), ("negative", (2, 1)), ("sample", (2, 1))])
@pytest.mark.parametrize("weight_key", [None, "importance"])
def test_several_negatives_are_told_what_to_do(
    tmp_path: Path, key: str, size: tuple[int, ...], weight_key: str | None
) -> None:
    batch = {name: torch.zeros(2, dtype=torch.int64) for name in ("sample", "user", "positive", "negative")}
    batch[key] = torch.zeros(size, dtype=torch.int64)
    loader: Any = torch.utils.data.DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    recorder = SampleRecorder(weight_key=weight_key, users=[0], items=[0])
    with pytest.raises(
        RuntimeError, match=rf"'{key}' of shape \[2, {size[1]}\].*both must be \[B\].*mean of their losses"
    ):
        quiet(tmp_path, recorder).fit(Mixed(), loader)


@pytest.mark.parametrize("missing", ["losses", "positive_score", "negative_score"])
def test_a_step_that_returns_too_little(tmp_path: Path, missing: str) -> None:
    module = Mixed()
    module.returned = tuple(name for name in Plain.returned if name != missing)
    with pytest.raises(
        RuntimeError, match=rf"Mixed.training_step returned no {missing}\. .*'losses' \[B\] or \[B, 2\]"
    ):
        quiet(tmp_path, SampleRecorder()).fit(module, catalog())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 1}, "window is 1"),
        ({"users": torch.zeros(3)}, "users and items belong together"),
        ({"items": torch.zeros(3)}, "users and items belong together"),
        ({"users": torch.zeros(3), "items": torch.zeros(4)}, "same length"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SampleRecorder(**arguments)


def full_fit(
    folder: Path, objective: Any, epochs: int, seed: int, checkpoint: Path | None = None, rule: Any = "joint"
) -> tuple[LightGCN, Method, GraphPruning, Trainer]:
    torch.manual_seed(seed)
    data = catalog(negative_lifetime=3)
    model = LightGCN(40, 50, embedding_dim=8, objective=objective, learning_rate=0.01)
    method, graph = Method(rule=rule), GraphPruning(patience=2)
    keep = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    ends = ModelCheckpoint(
        folder, every_n_epochs=1, save_top_k=-1, filename="end-{epoch}", save_on_train_epoch_end=True
    )
    trainer = quiet(
        folder, *method.callbacks, graph, keep, ends, enable_checkpointing=True, max_epochs=epochs,
        limit_val_batches=1.0, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, data, ckpt_path=checkpoint)
    return model, method, graph, trainer


@pytest.mark.parametrize(
    ("objective", "rule", "name"),
    [
        ("bpr", "joint", "step=14"),  # in the third of seven epochs of six batches
        ("bce", "paper", "step=27"),
        ("bpr", "consistent", "end-epoch=3"),
        ("bce", "joint", "end-epoch=2"),
        ("bpr", "joint", "step=24"),  # after the last batch of an epoch, before its end
    ],
)
def test_a_resumed_run_ends_where_the_uninterrupted_one_ends(
    tmp_path: Path, objective: str, rule: str, name: str
) -> None:
    model, method, graph, trainer = full_fit(tmp_path, objective, 7, seed=0, rule=rule)
    assert trainer.num_training_batches == 6
    store = method.recorder.store
    assert (store.weights == 0).any() and (store.status == 3).any()  # something was dropped, something found hard
    causes = {change["cause"] for change in method.llm.judgements.preferences.changes}
    assert causes == {"summary", "revision"} and graph._dropped.max() >= 2
    again, resumed, pruned, _ = full_fit(
        tmp_path, objective, 7, seed=1, checkpoint=tmp_path / f"{name}.ckpt", rule=rule
    )
    for one, two in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert equal(store.state_dict(), resumed.recorder.store.state_dict())
    assert method.llm.judgements.preferences.state_dict() == resumed.llm.judgements.preferences.state_dict()
    assert method.updater.state_dict() == resumed.updater.state_dict()
    assert equal(graph.state_dict(), pruned.state_dict())


def test_a_checkpoint_loads_with_weights_only_and_holds_no_reference(tmp_path: Path) -> None:
    _, method, _, _ = full_fit(tmp_path, "bpr", 2, seed=0)
    state = torch.load(tmp_path / "end-epoch=0.ckpt", weights_only=True)["callbacks"]["SampleRecorder"]
    assert state["epoch"] == 0
    taken = method.recorder.state_dict()
    method.recorder.store.losses.fill_(NAN)
    assert not taken["losses"].isnan().any()


@pytest.mark.parametrize("other", [{"noise_ratio": 0.2}, {"seed": 1}])
def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    full_fit(tmp_path, "bpr", 1, seed=0)
    path = tmp_path / "end-epoch=0.ckpt"
    checkpoint = torch.load(path)
    del checkpoint["data_fingerprint"]  # as of a module that does not compare its data itself
    torch.save(checkpoint, path)
    data = catalog(**other)
    with pytest.raises(ValueError, match=r"belongs to other interactions.*Resume with the data"):
        quiet(tmp_path, SampleRecorder(3), max_epochs=2).fit(
            LightGCN(40, 50, embedding_dim=8, learning_rate=0.01), data, ckpt_path=path
        )


def test_evaluation_needs_nothing_of_the_recorder(tmp_path: Path) -> None:
    model, *_ = full_fit(tmp_path, "bpr", 1, seed=0)
    trainer = quiet(tmp_path, SampleRecorder(3))
    (metrics,) = trainer.test(model, catalog(), ckpt_path=tmp_path / "end-epoch=0.ckpt", verbose=False)
    assert "test/ndcg@10" in metrics
    trainer.save_checkpoint(tmp_path / "tested.ckpt")
    assert "SampleRecorder" not in torch.load(tmp_path / "tested.ckpt")["callbacks"]


def test_a_module_that_does_not_ask_for_weights_is_told(tmp_path: Path) -> None:
    class Deaf(Playback):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            at = self.current_epoch, batch["sample"]
            scores = {"positive_score": self.positive[at], "negative_score": self.negative[at]}
            return {"loss": self.parameter * 0, "losses": self.losses[at], **scores}

    data = catalog()
    tables = playback(data, 1)
    for callback in (SampleRecorder(), TruncatedLoss(), ReweightedLoss(), DoubleCorrection(), Oracle()):
        deaf = Deaf(tables.losses, tables.positive, tables.negative)
        with pytest.raises(
            RuntimeError, match=r"Deaf inherits SampleWeights, but .* did not call self\.sample_weights"
        ):
            quiet(tmp_path, callback).fit(deaf, data)


def test_a_module_that_does_not_use_the_weight_in_the_batch_is_told(tmp_path: Path) -> None:
    class Deaf(Plain):
        def weigh(self, batch: dict[str, Tensor], losses: Tensor) -> Tensor:
            assert batch["importance"].shape == (len(batch["importance"]),)  # a look is no use
            return torch.ones_like(losses)

    for module, key in ((Deaf(), "importance"), (Deaf(), "other")):
        with pytest.raises(RuntimeError, match=rf"Deaf.training_step did not use batch\['{key}'\].*weight_key="):
            batches = quiet(tmp_path, SampleRecorder(weight_key=key))
            batches.fit(module, Importance() if key == "other" else catalog())


class Importance(SyntheticCatalog):
    """Batches with a weight of their own."""

    def __init__(self) -> None:
        super().__init__(40, 50, num_topics=5, books_per_reader=12, batch_size=60)

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        return batch | {"importance": torch.ones(len(batch["user"]))}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("losses", lambda losses: losses.mean(), r"'losses' of shape \[\] for a batch of 60.*\[B\] or \[B, 2\]"),
        ("positive_score", lambda score: score[:, None], r"'positive_score' of shape \[60, 1\].* must be \[B\]\."),
    ],
)
def test_outputs_of_another_shape_are_named(tmp_path: Path, name: str, value: Any, message: str) -> None:
    class Wrong(Mixed):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            outputs = super().training_step(batch, batch_idx)
            return outputs | {name: value(outputs[name])}

    with pytest.raises(RuntimeError, match=message):
        quiet(tmp_path, SampleRecorder()).fit(Wrong(), catalog())


def test_losses_that_were_reduced_too_early_are_named(tmp_path: Path) -> None:
    class Reduced(Mixed):
        def weigh(self, batch: dict[str, Tensor], losses: Tensor) -> Tensor:
            return self.sample_weights(batch, losses.mean())

    with pytest.raises(RuntimeError, match=r"losses of shape \[\] for a batch of 60.*before they are reduced"):
        quiet(tmp_path, SampleRecorder()).fit(Reduced(), catalog())


@pytest.mark.parametrize("kind", [TruncatedLoss, VariancePruning])
@pytest.mark.parametrize(
    ("too_long", "named", "remedy", "short"),
    [
        (
            {"ramp_iterations": 1000},
            r"1,000 optimiser steps .* at most 12:",
            "Lower ramp_iterations, or set ramp_epochs in its place.*while ramp_iterations is None",
            {"ramp_iterations": 13},
        ),
        ({"ramp_iterations": 14}, r"14 optimiser steps .* at most 12: it ends at 0\.17\.", "", {"ramp_iterations": 12}),
        ({"ramp_epochs": 3}, r"3 epochs .* at most 2: it ends at 0\.13\.", r"Lower ramp_epochs\.", {"ramp_epochs": 2}),
    ],
)
def test_a_run_too_short_for_the_drop_rate_is_announced(
    tmp_path: Path, kind: Any, too_long: dict[str, int], named: str, remedy: str, short: dict[str, int]
) -> None:
    data = catalog()
    match = rf"takes {named} .*{remedy}"
    with pytest.warns(UserWarning, match=match):
        quiet(tmp_path, SampleRecorder(), kind(0.2, **too_long), max_epochs=2).fit(playback(data, 2), data)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*the drop rate takes.*")
        quiet(tmp_path, SampleRecorder(), kind(0.2, **short), max_epochs=2).fit(playback(data, 2), data)


def test_two_of_one_kind_are_refused(tmp_path: Path) -> None:
    data = catalog()
    with pytest.raises(RuntimeError, match="has 2 callbacks of the kind VariancePruning: leave one"):
        quiet(tmp_path, *Method().callbacks, VariancePruning()).fit(playback(data, 1), data)


def test_a_fit_that_fails_leaves_no_denoiser_behind(tmp_path: Path) -> None:
    class Broken(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise OSError("disk full")

    data, module = catalog(), playback(catalog(), 1)
    with pytest.raises(OSError, match="disk full"):
        quiet(tmp_path, SampleRecorder(), TruncatedLoss(), Oracle(), Broken()).fit(module, data)
    batch = {"sample": torch.arange(3)}
    assert module.sample_weights(batch, torch.zeros(3)).tolist() == [1, 1, 1] and not module._denoisers


def test_accumulated_gradients_change_nothing_about_what_is_recorded(tmp_path: Path) -> None:
    data = catalog()
    module, recorder = playback(data, 1), SampleRecorder()
    quiet(tmp_path, recorder, accumulate_grad_batches=2).fit(module, data)
    assert torch.equal(recorder.store.losses, module.losses[0])


SPLIT: dict[str, dict[str, Any]] = {
    "joint": {"epochs": 5, "scored": "all"},
    "paper": {"epochs": 5, "rule": "paper", "objective": "bce", "random": True},
}
ONE_REVISED: dict[str, Any] = {"epochs": 4, "rate": 0.004}  # so few are flagged that one process has none
MID_EPOCH = "step=21"  # in the fourth of epochs of six batches
LAST_STEP = "step=24"  # the last of that epoch, before its end


@pytest.fixture(scope="module")
def split_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fits with one process, in this one, and with two, all in one subprocess."""
    folder = tmp_path_factory.mktemp("split")
    plans = []
    for name, arguments in SPLIT.items():
        split_fits.fit(str(folder / f"{name}-1"), 1, **arguments)
        plans.append({"folder": str(folder / f"{name}-2"), "processes": 2, **arguments})
    plans.append({"folder": str(folder / "few-2"), "processes": 2, **ONE_REVISED})
    for checkpoint in ("end-epoch=2", MID_EPOCH, LAST_STEP):
        path = folder / "joint-1" / f"{checkpoint}.ckpt"
        plans.append(
            {"folder": str(folder / f"{checkpoint}-2"), "processes": 2, "checkpoint": str(path), **SPLIT["joint"]}
        )
    (folder / "plan.json").write_text(json.dumps(plans))
    done = subprocess.run(
        [sys.executable, split_fits.__file__, str(folder / "plan.json")],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def saved(path: Path) -> dict[str, Any]:
    """What the callbacks of the method saved; the changes of preferences in one order."""
    state = torch.load(path, weights_only=True)["callbacks"]
    names = ("SampleRecorder", "LLMSampleScorer", "PreferenceUpdater", "GraphPruning")
    found = {name: state[name] for name in names}
    for name in ("usage", "exhausted"):  # of each process
        del found["LLMSampleScorer"][name]
    found["LLMSampleScorer"] |= found["LLMSampleScorer"].pop("preferences")
    changes = found["LLMSampleScorer"]["changes"]
    found["LLMSampleScorer"]["changes"] = sorted(json.dumps(change, sort_keys=True) for change in changes)
    return found


def differing(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    return [f"{name}.{key}" for name in one for key in one[name] if not equal(one[name][key], two[name][key])]


@pytest.mark.parametrize("name", SPLIT)
def test_two_processes_decide_what_one_decides(split_folder: Path, name: str) -> None:
    one, two = split_folder / f"{name}-1", split_folder / f"{name}-2"
    for checkpoint in ("step=3", "end-epoch=0", "end-epoch=3", MID_EPOCH, "end-epoch=4"):
        assert differing(saved(one / f"{checkpoint}.ckpt"), saved(two / f"{checkpoint}.ckpt")) == []
    tables = [pd.read_csv(folder / "runs" / "version_0" / "metrics.csv") for folder in (one, two)]
    names = [name for name in tables[0] if name.startswith(("denoise/", "llm/", "audit/", "preferences/"))]
    assert len(names) > 20
    pd.testing.assert_frame_equal(*(table[["epoch", *names]].groupby("epoch").last() for table in tables))
    state = saved(one / "end-epoch=4.ckpt")
    assert {0, 1, 3} <= set(state["SampleRecorder"]["status"].unique().tolist()) and state["GraphPruning"]["out"].any()
    assert any('"revision"' in change for change in state["LLMSampleScorer"]["changes"])
    lines = [path.read_text().splitlines() for path in two.glob("runs/version_0/preferences-rank*.jsonl")]
    assert len(lines) == 2 and all(lines)
    written = sorted(json.dumps(json.loads(line), sort_keys=True) for part in lines for line in part)
    assert written == state["LLMSampleScorer"]["changes"]


def test_preferences_of_one_process_only_are_revised(split_folder: Path, tmp_path: Path) -> None:
    """Whatever all processes must do together, such as asking for the run's folder, must not wait for the idle one."""
    split_fits.fit(str(tmp_path), 1, **ONE_REVISED)
    one, two = tmp_path / "end-epoch=3.ckpt", split_folder / "few-2" / "end-epoch=3.ckpt"
    assert differing(saved(one), saved(two)) == []
    ranks = [path.read_text() for path in (split_folder / "few-2").glob("runs/version_0/preferences-rank*.jsonl")]
    assert sorted('"revision"' in text for text in ranks) == [False, True]


def test_one_process_s_checkpoint_goes_on_with_two(split_folder: Path) -> None:
    one, two = split_folder / "joint-1", split_folder / "end-epoch=2-2"
    for checkpoint in ("step=21", "end-epoch=3", "end-epoch=4"):
        assert differing(saved(one / f"{checkpoint}.ckpt"), saved(two / f"{checkpoint}.ckpt")) == []


def test_one_process_s_checkpoint_within_an_epoch_goes_on_with_two(split_folder: Path) -> None:
    one, two = split_folder / "joint-1", split_folder / f"{MID_EPOCH}-2"
    for checkpoint in ("step=24", "end-epoch=3", "end-epoch=4"):
        assert differing(saved(one / f"{checkpoint}.ckpt"), saved(two / f"{checkpoint}.ckpt")) == []


def test_one_process_s_checkpoint_after_the_last_step_of_an_epoch_goes_on_with_two(split_folder: Path) -> None:
    """What is decided at that epoch's end, which the checkpoint does not have, is decided by the owners alone."""
    one, two = split_folder / "joint-1", split_folder / f"{LAST_STEP}-2"
    assert differing(saved(one / "end-epoch=4.ckpt"), saved(two / "end-epoch=4.ckpt")) == []


@pytest.mark.parametrize("checkpoint", ["end-epoch=2", MID_EPOCH, LAST_STEP])
def test_two_processes_checkpoint_goes_on_with_one(split_folder: Path, tmp_path: Path, checkpoint: str) -> None:
    path = split_folder / "joint-2" / f"{checkpoint}.ckpt"
    split_fits.fit(str(tmp_path), 1, checkpoint=str(path), **SPLIT["joint"])
    assert differing(saved(split_folder / "joint-1" / "end-epoch=4.ckpt"), saved(tmp_path / "end-epoch=4.ckpt")) == []
