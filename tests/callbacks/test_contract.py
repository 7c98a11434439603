"""The contract with foreign recommenders: samples of any shape, labels, streams, second fits and copies."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from small_fits import NAN, FakeScorer, Method, catalog, playback, quiet
from torch import Tensor
from torch.multiprocessing import ProcessRaisedException
from torch.utils.data import DataLoader, IterableDataset

from llmhd_pl import DCF, LLMHD, MF, RCE, TCE, LexicalScorer, LossDropping, NoiseOracle
from llmhd_pl.callbacks import DoubleCorrection, NoiseAudit, SampleRecorder, TruncatedLoss, VariancePruning
from llmhd_pl.denoising.store import CANDIDATE, CLEAN, HARD, NOISE
from llmhd_pl.llm.judgements import Judgements
from llmhd_pl.sample_weights import SampleWeights

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(have no .val_dataloader|no .validation_step|no .train_dataloader)"),
    pytest.mark.filterwarnings("ignore:.*(optimiser steps to reach|exists and is not empty)"),
    pytest.mark.filterwarnings("ignore:.*IterableDataset.*"),
]
PAD = -1
# Two batches of sequences; sample 6 occurs twice in the second, sample 7 never.
SEQUENCES = [torch.tensor([[PAD, 0, 1], [2, 3, 4]]), torch.tensor([[PAD, PAD, 5], [6, PAD, 6]])]
USERS, ITEMS = [0, 0, 1, 1, 1, 2, 3, 3], [0, 1, 2, 3, 4, 5, 6, 7]
# The loss of the j-th position of every batch is its number plus the tenth of its row, times the epoch plus one.
BASE = torch.tensor([[1.0, 2.0, 3.0], [1.1, 2.1, 3.1]])


class Sequential(LightningModule):
    """Multiplies its losses by the weight in the batch and returns nothing but their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.parameter = torch.nn.Parameter(torch.ones(()))
        self.seen: list[Tensor] = []

    def losses(self) -> Tensor:
        return BASE * (self.current_epoch + 1) * self.parameter

    def weights(self, batch: Any, losses: Tensor) -> Tensor:
        return batch["features"]["weight"]  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = self.losses()
        weights = self.weights(batch, losses)
        self.seen.append(weights.detach().clone().as_subclass(Tensor))
        return (weights * losses).sum() / (batch["features"]["sample"] >= 0).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Asking(SampleWeights, Sequential):
    def weights(self, batch: Any, losses: Tensor) -> Tensor:
        return self.sample_weights(batch, losses)


class Alone(Asking):
    """Optimises by itself, and returns nothing at all."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def sequences(own: float | None = 1.0) -> Any:
    batches = []
    for sample in SEQUENCES:
        features = {"sample": sample}
        if own is not None:
            features["weight"] = torch.full(sample.shape, own)
        batches.append({"features": features})
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def recorder(**arguments: Any) -> SampleRecorder:
    given = {"users": USERS, "items": ITEMS, "sample_key": ("features", "sample")}
    return SampleRecorder(**(given | arguments))  # type: ignore[arg-type]


class Decide(Callback):
    """Drops samples 1, 3 and 6 once an epoch is over."""

    def __init__(self, recorder: SampleRecorder) -> None:
        self.recorder = recorder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.recorder.store.weights[[1, 3, 6]] = 0


@pytest.mark.parametrize("module", [Sequential, Asking, Alone])
@pytest.mark.parametrize("arguments", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_samples_of_any_shape_with_padding(tmp_path: Path, module: type[Sequential], arguments: dict[str, Any]) -> None:
    if module is Alone and "accumulate_grad_batches" in arguments:
        pytest.skip("Lightning refuses it with manual optimisation")
    key = None if issubclass(module, SampleWeights) else ("features", "weight")
    model, samples = module(), recorder(weight_key=key)
    quiet(tmp_path, samples, Decide(samples), max_epochs=2, **arguments).fit(model, sequences())
    # By hand: positions of SEQUENCES in BASE, times two in the second epoch; 6 has the mean of 1.1 and 3.1.
    expected = [4.0, 6.0, 2.2, 4.2, 6.2, 6.0, 4.2, NAN]
    assert samples.store.losses.tolist() == pytest.approx(expected, nan_ok=True, rel=1e-6)
    assert samples.store.positive[1].tolist() == pytest.approx([-loss for loss in expected], nan_ok=True, rel=1e-6)
    assert samples.store.positive[0, :2].tolist() == pytest.approx([-2.0, -3.0])
    first, second = model.seen[:2], model.seen[2:]
    assert all((weights == 1).all() for weights in first)
    assert second[0].tolist() == [[1, 1, 0], [1, 0, 1]] and second[1].tolist() == [[1, 1, 1], [0, 1, 0]]


def test_a_batch_s_own_weights_stay_and_are_not_multiplied_twice(tmp_path: Path) -> None:
    """The loader gives the very same tensors in every epoch."""
    loader, samples = sequences(own=0.5), recorder(weight_key=("features", "weight"))
    model = Sequential()
    quiet(tmp_path, samples, Decide(samples), max_epochs=4).fit(model, loader)
    for weights in model.seen[2::2]:
        assert weights.tolist() == [[0.5, 0.5, 0], [0.5, 0, 0.5]]
    assert samples.store.losses[:2].tolist() == pytest.approx([8.0, 12.0])  # the losses, not the weighted ones
    for batch in loader:
        assert type(batch["features"]["weight"]) is Tensor and (batch["features"]["weight"] == 0.5).all()
    absent = sequences(own=None)
    quiet(tmp_path, recorder(weight_key=("features", "weight"))).fit(Sequential(), absent)
    assert all(set(batch["features"]) == {"sample"} for batch in absent)


def test_a_score_and_samples_given_to_the_call(tmp_path: Path) -> None:
    class Given(Asking):
        def weights(self, batch: Any, losses: Tensor) -> Tensor:
            return self.sample_weights(None, losses, sample=batch["features"]["sample"], score=losses.sqrt())

    samples = recorder(sample_key="nowhere")
    quiet(tmp_path, samples).fit(Given(), sequences())
    assert samples.store.positive[0, :3].tolist() == pytest.approx([2**0.5, 3**0.5, 1.1**0.5])


@pytest.mark.parametrize("method", [TCE, RCE])
def test_the_baselines_weigh_sequences_without_their_padding(tmp_path: Path, method: Any) -> None:
    """T-CE at its full rate of .5 keeps two of the five and one of the three losses, whatever stands in the padding."""
    (callback,) = method(drop_rate=0.5, ramp_iterations=1) if method is TCE else method()

    class Flat(Asking):
        sample_key = ("features", "sample")

    model = Flat()
    quiet(tmp_path, callback, max_epochs=2).fit(model, sequences())
    assert model.seen[2][0, 0] == 1 and (model.seen[3][0, :2] == 1).all()
    if method is TCE:
        assert model.seen[2].tolist() == [[1, 1, 0], [1, 0, 0]] and model.seen[3].tolist() == [[1, 1, 0], [1, 1, 0]]


@pytest.mark.parametrize("module", [Sequential, Asking])
def test_a_loss_that_is_not_a_number_ends_the_run(tmp_path: Path, module: type[Sequential]) -> None:
    """It is not taken for one that does not count."""

    class Diverged(module):  # type: ignore[misc, valid-type]
        def losses(self) -> Tensor:
            return super().losses() * torch.tensor([1.0, NAN, 1.0])

    key = None if module is Asking else ("features", "weight")
    with pytest.raises(FloatingPointError, match=r"Epoch 0, step 0: the losses or predictions.*not finite"):
        quiet(tmp_path, recorder(weight_key=key)).fit(Diverged(), sequences())


def test_an_objective_s_name_does_not_hinder_a_resumed_run(tmp_path: Path) -> None:
    for checkpoint in (None, tmp_path / "one.ckpt"):
        model, samples = Sequential(), recorder(weight_key=("features", "weight"))
        model.save_hyperparameters({"objective": "bce"})
        trainer = quiet(tmp_path, samples, Own(tmp_path / "one.ckpt"), max_epochs=1 if checkpoint is None else 2)
        trainer.fit(model, sequences(), ckpt_path=checkpoint)
    assert samples.store.epoch == 1 and samples.store.losses.tolist()[:2] == [4.0, 6.0]


@pytest.mark.parametrize("mixin", [False, True])
def test_an_objective_s_name_does_not_make_two_losses(tmp_path: Path, mixin: bool) -> None:
    """hparams.objective = "bce" promises losses of observed and sampled items, which labelled rows do not have."""
    model, samples = (
        (Asking() if mixin else Sequential()),
        recorder(weight_key=None if mixin else ("features", "weight")),
    )
    model.save_hyperparameters({"objective": "bce"})
    quiet(tmp_path, samples, Decide(samples), max_epochs=2).fit(model, sequences())
    assert samples.store.losses.shape == (8,) and model.seen[2].tolist() == [[1, 1, 0], [1, 0, 1]]


class Own(Callback):
    """Saves what two processes know together."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)


class Ranks(Sequential):
    """Process r trains on the r-th batch; one process on both."""

    def train_dataloader(self) -> Any:
        batches = list(sequences(own=0.5))
        if self.trainer.world_size > 1:
            batches = [batches[self.trainer.global_rank]] * 2
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def test_two_processes_see_what_one_sees(tmp_path: Path) -> None:
    states = []
    for devices in (1, 2):
        samples = recorder(weight_key=("features", "weight"))
        pruning = VariancePruning(0.3, ramp_iterations=1)
        path = tmp_path / f"{devices}.ckpt"
        trainer = quiet(
            tmp_path, samples, pruning, Own(path), max_epochs=3, devices=devices,
            strategy="auto" if devices == 1 else "ddp_fork", use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(Ranks())
        states.append(torch.load(path, weights_only=True)["callbacks"]["SampleRecorder"])
    for name in ("losses", "positive", "weights", "status"):
        assert torch.equal(states[0][name].nan_to_num(-9.0), states[1][name].nan_to_num(-9.0)), name
    assert (states[0]["weights"] == 0).sum() == 2  # .3 of the seven that are seen


@pytest.mark.parametrize("of_an_earlier_fit", [False, True])
def test_a_sample_of_two_processes_is_refused(tmp_path: Path, of_an_earlier_fit: bool) -> None:
    """What one process has seen in an earlier fit is known to both: their sums would count it twice."""

    class Everything(Sequential):
        def train_dataloader(self) -> Any:
            return DataLoader(list(sequences(own=0.5)), batch_size=None)  # type: ignore[arg-type]

    samples = recorder(weight_key=("features", "weight"))
    module: Sequential = Everything()
    if of_an_earlier_fit:
        module = Ranks()
        quiet(tmp_path, samples, max_epochs=1).fit(module)
    trainer = quiet(tmp_path, samples, max_epochs=1, devices=2, strategy="ddp_fork", use_distributed_sampler=False)
    with pytest.raises(ProcessRaisedException, match=r"Sample \d was trained on by 2 processes\. .*users"):
        trainer.fit(module)


# --- Silent harm ------------------------------------------------------------------------------------------------------


def rows(**columns: Any) -> Any:
    batch = {name: torch.as_tensor(values) for name, values in columns.items()}
    return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]


class Rows(SampleWeights, LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.parameter = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = torch.arange(1.0, 1.0 + len(batch["sample"])) * self.parameter
        return (self.sample_weights(batch, losses) * losses).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"sample": [0, 3]}, IndexError, r"names sample 3, but there are 3 .*from 0"),
        ({"sample": [0, -2]}, IndexError, r"names sample -2"),
        ({"sample": [0.0, 1.0]}, RuntimeError, r"batch\['sample'\], are torch.float32; .*torch.int64"),
        ({"sample": [0, 1], "label": [1, 0]}, RuntimeError, r"batch\['label'\] has labels .*labels=\.\.\."),
        (
            {"sample": [0, 1, 2], "user": [7, 7, 8]},
            RuntimeError,
            r"user 7 .*belong to the users 0 and 1.*another order",
        ),
        ({"sample": [0, 1, 2], "item": [4, 5, 5]}, RuntimeError, r"item 5 .*belong to the items 1 and 2"),
        ({"sample": [PAD, PAD]}, RuntimeError, r"Nothing was recorded in epoch 0.*None in every step.*padding"),
    ],
)
def test_what_comes_in_is_checked(tmp_path: Path, columns: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        quiet(tmp_path, SampleRecorder(users=[0, 1, 1], items=[0, 1, 2])).fit(Rows(), rows(**columns))


class Weighted(Rows):
    """Multiplies by the weight in the batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = torch.arange(1.0, 1.0 + len(batch["sample"])) * self.parameter
        return {"loss": (batch["weight"] * losses).mean()}


@pytest.mark.parametrize("wrong", [3, -2])
@pytest.mark.parametrize("module", [Rows, Weighted])
def test_every_batch_is_checked_for_samples_that_there_are_not(tmp_path: Path, module: Any, wrong: int) -> None:
    batches = [{"sample": torch.tensor([0, PAD, 1]), "weight": torch.ones(3)} for _ in range(30)]
    batches[-1]["sample"] = torch.tensor([0, wrong, 1])
    recorder = SampleRecorder(users=[0, 1, 1], items=[0, 1, 2], weight_key="weight" if module is Weighted else None)
    with pytest.raises(IndexError, match=f"names sample {wrong}, but there are 3 .*-1 is padding"):
        quiet(tmp_path, recorder).fit(module(), DataLoader(batches, batch_size=None))  # type: ignore[arg-type]


def test_padding_is_refused_in_every_batch_of_a_module_without_any(tmp_path: Path) -> None:
    class Unpadded(Weighted):
        never_padded = True

    batches = [{"sample": torch.tensor([0, 2, 1]), "weight": torch.ones(3)} for _ in range(30)]
    batches[-1]["sample"] = torch.tensor([0, PAD, 1])
    recorder = SampleRecorder(users=[0, 1, 1], items=[0, 1, 2], weight_key="weight")
    with pytest.raises(IndexError, match=r"names sample -1, .*no padding, because the module says never_padded"):
        quiet(tmp_path, recorder).fit(Unpadded(), DataLoader(batches, batch_size=None))  # type: ignore[arg-type]


def test_users_by_numbers_of_the_batch_s_own(tmp_path: Path) -> None:
    columns = {"sample": [2, 0, 1], "user": [9, 3, 9], "item": [30, 10, 20]}  # another numbering, the same users
    quiet(tmp_path, SampleRecorder(users=[0, 1, 1], items=[0, 1, 2])).fit(Rows(), rows(**columns))


def test_a_step_that_always_returns_none_is_an_error(tmp_path: Path) -> None:
    class Silent(Rows):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match=r"Nothing was recorded in epoch 0.*Silent.*automatic_optimization = False"):
        quiet(tmp_path, SampleRecorder(users=[0], items=[0])).fit(Silent(), rows(sample=[0]))


def test_a_graph_of_given_interactions_is_pruned_in_evaluation_too(tmp_path: Path) -> None:
    class Graph(Rows):
        def set_graph(self, users: Tensor, items: Tensor) -> None:
            self.edges = torch.stack([users, items], dim=1).tolist()

        def test_step(self, batch: Any, batch_idx: int) -> None:
            assert self.edges == [[0, 0], [1, 1]]

    model, loader = Graph(), rows(sample=[0, 1, 2])
    method = LossDropping(0.34, ramp_iterations=1, graph_patience=1, users=range(3), items=range(3))
    trainer = quiet(tmp_path, *method, max_epochs=2)
    trainer.fit(model, loader)
    model.set_graph(torch.arange(3), torch.arange(3))  # as a model that is built anew
    trainer.test(model, loader, verbose=False)


def test_a_dummy_negative_is_named(tmp_path: Path) -> None:
    size = 40
    loader = rows(sample=torch.arange(size), negative=torch.zeros(size, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=r"sampled item of all 40 samples.*is item 0\. A dummy is not needed"):
        quiet(tmp_path, SampleRecorder(users=range(size), items=range(size))).fit(Rows(), loader)


def test_equal_losses_select_nothing_and_say_so(tmp_path: Path) -> None:
    """Otherwise the row numbers would decide."""

    class Constant(Rows):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            losses = torch.ones(len(batch["sample"])) * self.parameter
            return (self.sample_weights(batch, losses) * losses).mean()

    samples = SampleRecorder(users=range(9), items=range(9))
    with pytest.warns(UserWarning, match="all losses of epoch 0 are equal"):
        quiet(tmp_path, samples, VariancePruning(0.5, ramp_iterations=1)).fit(Constant(), rows(sample=torch.arange(9)))
    assert (samples.store.weights == 1).all()


def test_weighted_losses_that_a_step_returns_are_not_taken_for_losses(tmp_path: Path) -> None:
    class Returning(Rows):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            losses = torch.arange(1.0, 1.0 + len(batch["sample"])) * self.parameter
            weighted = self.sample_weights(batch, losses) * losses
            score = torch.zeros(len(losses))
            given = {"losses": weighted.detach(), "positive_score": score, "negative_score": score}
            return {"loss": weighted.mean(), **given}

    samples = SampleRecorder(users=range(3), items=range(3))
    loader = rows(sample=torch.arange(3), negative=torch.tensor([2, 0, 1]))

    class Drop(Callback):
        def on_train_epoch_end(self, *rest: Any) -> None:
            samples.store.weights[1] = 0

    quiet(tmp_path, samples, Drop(), max_epochs=2).fit(Returning(), loader)
    assert samples.store.losses.tolist() == [1.0, 2.0, 3.0]


def test_the_rule_paper_needs_sampled_items(tmp_path: Path) -> None:
    callbacks = [
        SampleRecorder(users=range(4), items=range(4)),
        *Method(rule="paper").callbacks[1:3],
    ]
    callbacks[2].texts = [{"title": str(item)} for item in range(4)]  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"rule 'paper' compares .* no 'negative'\. Use the rule 'joint'"):
        quiet(tmp_path, *callbacks).fit(Rows(), rows(sample=torch.arange(4)))


def test_losses_of_pairs_need_sampled_items(tmp_path: Path) -> None:
    class Pairs(Rows):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            losses = torch.ones(len(batch["sample"]), 2) * self.parameter
            return (self.sample_weights(batch, losses) * losses).mean()

    with pytest.raises(RuntimeError, match=r"shape \[B, 2\] are those of an observed and a sampled item"):
        quiet(tmp_path, SampleRecorder(users=range(4), items=range(4))).fit(Pairs(), rows(sample=torch.arange(4)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, losses: torch.einsum("bl,bl->", w, losses), r"did not multiply .*used by: einsum.*SampleWeights"),
        (lambda w, losses: (w[..., None] * losses[..., None].expand(2, 3, 8)).mean(), r"by 8 numbers"),
    ],
)
def test_a_product_that_cannot_be_read_is_named(tmp_path: Path, change: Any, message: str) -> None:
    class Other(Sequential):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return change(batch["features"]["weight"], self.losses())

    with pytest.raises(RuntimeError, match=message):
        quiet(tmp_path, recorder(weight_key=("features", "weight"))).fit(Other(), sequences())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_product_is_explained(tmp_path: Path, backend: str) -> None:
    class Compiled(Sequential):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            product = torch.compile(lambda w, losses: (w * losses).mean(), backend=backend)
            return product(batch["features"]["weight"], self.losses())

    with pytest.raises((RuntimeError, TypeError)) as error:
        quiet(tmp_path, recorder(weight_key=("features", "weight"))).fit(Compiled(), sequences())
    said = [str(error.value), *getattr(error.value, "__notes__", [])]
    assert any("torch.compile" in text and "inherit llmhd_pl.SampleWeights" in text for text in said)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("features", "nothing", "weight"), r"batch\['features'\]\['nothing'\]\['weight'\] cannot be written to"),
        (("features", "flat"), r"batch\['features'\]\['flat'\] is \[3\], but .* \[2, 3\].*one shape"),
    ],
)
def test_a_weight_that_does_not_fit_is_named(tmp_path: Path, key: Any, message: str) -> None:
    batches = [{"features": {"sample": SEQUENCES[0], "flat": torch.ones(3)}}]
    loader: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=message):
        quiet(tmp_path, recorder(weight_key=key)).fit(Sequential(), loader)


# --- Labels -----------------------------------------------------------------------------------------------------------


def test_labels_are_ranked_each_for_itself(tmp_path: Path) -> None:
    """Losses are 1 to 8; the first five samples are likes. Half of the likes and half of the others are dropped."""
    labels, table = [1, 1, 1, 1, 0, 0, 0, 0], pd.DataFrame({"user": [0, 0, 1, 1] * 2, "item": range(8)})
    method = LossDropping(0.5, ramp_iterations=1, users=table.user, items=table.item, labels=labels)
    trainer = quiet(tmp_path, *method)
    trainer.fit(Rows(), rows(sample=torch.arange(8), label=labels))
    (samples,) = (callback for callback in trainer.callbacks if isinstance(callback, SampleRecorder))  # type: ignore[attr-defined]
    assert samples.store.weights.tolist() == [1, 1, 0, 0, 1, 1, 0, 0]  # not the last four


def test_the_judge_agrees_with_a_label_and_knows_users_by_their_likes(tmp_path: Path) -> None:
    """User 2 has no like, so that nothing is known and the loss alone decides about sample 6."""
    users, items, labels = [0, 0, 0, 1, 1, 1, 2], [0, 1, 2, 3, 4, 5, 6], [1, 1, 0, 1, 0, 0, 0]
    # Fitting: 1 and 5. So 0 and 3 are likes that do not fit, and 5 is a dislike that does.
    scorer = FakeScorer(lambda user, item, preference: 9.0 if item in (1, 5) else 2.0)
    texts = [{"title": f"item {item}"} for item in range(7)]
    method = LLMHD(
        scorer, drop_rate=0.5, ramp_iterations=1, score_weight=100.0, scored="all",
        users=users, items=items, labels=np.array(labels), texts=texts, audit=True, noise=[1, 0, 0, 0, 0, 1, 0],
    )  # fmt: skip
    trainer = quiet(tmp_path, *method)
    trainer.fit(Rows(), rows(sample=torch.arange(7), label=labels))
    samples = trainer.callbacks[0]  # type: ignore[attr-defined]
    # Half of three is two (half to even: 1.5), half of four is two: of the likes 0 and 3, of the others 5 and 6, whose
    # score is missing and so average.
    assert samples.store.weights.tolist() == [0, 1, 1, 0, 1, 0, 0]
    assert scorer.histories == {0: [0, 1], 1: [3]} and scorer.prepared[0][1].tolist() == [[0, 0], [0, 1], [1, 3]]
    assert (2, 6) not in scorer.pairs and len(scorer.pairs) == 6
    assert float(trainer.callback_metrics["audit/dropped_is_noise_recall"]) == 1.0
    lines = [json.loads(line) for line in (tmp_path / "judgements.jsonl").read_text().splitlines()]
    assert {line["sample"]: line["label"] for line in lines}.items() <= dict(enumerate(labels)).items() and lines


@pytest.mark.parametrize(("rule", "hard"), [("consistent", [0, 3]), ("paper", [1, 3])])
def test_rules_for_labels(rule: Any, hard: list[int]) -> None:
    """Likes 0 (fits) and 1 (does not), dislikes 2 (fits) and 3 (does not, but more than eps_neg = 2)."""
    from llmhd_pl.denoising.epoch import Epoch
    from llmhd_pl.denoising.rules import decide
    from llmhd_pl.denoising.store import SampleStore

    store = SampleStore(4)
    store.status.fill_(CANDIDATE)
    epoch = Epoch(store, torch.arange(4), torch.arange(4), labels=torch.tensor([1, 1, 0, 0]))
    scores = torch.tensor([9.0, 3.0, 9.0, 2.5])
    status = decide(rule, epoch, scores, torch.full((4,), NAN))
    if rule == "paper":  # eps_pos = 8, eps_neg = 2 at the start: what does not fit a like, what fits a dislike
        hard = [1, 2, 3]
    assert status.tolist() == [HARD if sample in hard else NOISE for sample in range(4)]


def test_judgements_of_a_user_without_likes_are_no_answers() -> None:
    scorer = FakeScorer()
    judgements = Judgements(scorer, [{}, {}], torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([1, 0]))
    judgements.prepare()
    assert judgements.score(0, torch.tensor([1, 0]), torch.tensor([0, 1])).tolist() == pytest.approx(
        [NAN, 5.0], nan_ok=True
    )
    assert judgements.revise(0, {}, {1: [0]}) == set()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels": [0, 2, 1]}, TypeError, r"labels must be 0 or 1.*labels\[1\] is .*2.*threshold"),
        ({"noise": [0.5, 0, 1]}, TypeError, r"noise must be 0 or 1"),
        ({"keep": 0}, ValueError, "keep is 0.*1 to the window, 5"),
        ({"keep": 6}, ValueError, "keep is 6"),
        ({"decide_every": 0}, ValueError, "decide_every is 0"),
    ],
)
def test_bad_arguments_of_the_contract(arguments: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        SampleRecorder(users=[0, 0, 0], items=[0, 1, 2], **arguments)


@pytest.mark.parametrize("name", ["labels", "noise"])
def test_labels_of_other_interactions(tmp_path: Path, name: str) -> None:
    samples = SampleRecorder(users=[0, 0], items=[0, 1], **{name: [1]})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"1 {name} for 2 training interactions"):
        quiet(tmp_path, samples).fit(Rows(), rows(sample=[0, 1]))


# --- Decisions that stay ----------------------------------------------------------------------------------------------


class Turns(Rows):
    """Epoch e sees every sample but those that are e modulo 3, the highest loss being that of the highest number."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        there = batch["sample"] % 3 != self.current_epoch % 3
        losses = (batch["sample"] + 1.0) * self.parameter
        return (self.sample_weights(batch, losses, batch["sample"].where(there, -1)) * losses).mean()


@pytest.mark.parametrize(("keep", "dropped"), [(1, [[7, 8], [6, 8], [6, 7]]), (2, [[7, 8], [7, 8], [7, 8]])])
def test_a_sample_that_an_epoch_does_not_see_keeps_its_decision(
    tmp_path: Path, keep: int, dropped: list[list[int]]
) -> None:
    """Without it, 8 would be kept after epoch 2, which does not see it, and 7 after epoch 1."""
    samples = SampleRecorder(users=range(9), items=range(9), keep=keep)
    seen: list[list[int]] = []

    class Note(Callback):
        def on_train_epoch_end(self, *rest: Any) -> None:
            seen.append((samples.store.weights == 0).nonzero().flatten().tolist())

    pruning = VariancePruning(2 / 9 if keep == 2 else 1 / 3, ramp_iterations=1)
    quiet(tmp_path, samples, pruning, Note(), max_epochs=3).fit(Turns(), rows(sample=torch.arange(9)))
    assert seen[1:] == dropped[1:]
    assert SampleRecorder(window=4).keep == 4  # the default


class Stream(IterableDataset[dict[str, Tensor]]):
    """Samples 0 to 5, two in each batch, without end."""

    def __iter__(self) -> Any:
        step = 0
        while True:
            yield {"sample": torch.tensor([2 * step % 6, (2 * step + 1) % 6])}
            step += 1


class Streaming(Rows):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = (batch["sample"] + 1.0) * self.parameter
        return (self.sample_weights(batch, losses) * losses).mean()


def streamed(folder: Path, steps: int, checkpoint: Any = None) -> Trainer:
    method = LossDropping(0.34, ramp_iterations=1, decide_every=3, users=range(6), items=range(6))
    keep = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer = quiet(folder, *method, keep, max_epochs=-1, max_steps=steps, enable_checkpointing=True)
    trainer.fit(Streaming(), DataLoader(Stream(), batch_size=None), ckpt_path=checkpoint)
    return trainer


def test_a_stream_decides_every_so_many_steps(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no length and the run ends after max_steps.*decide_every"):
        quiet(tmp_path, SampleRecorder(users=[0], items=[0]), max_epochs=-1, max_steps=3).fit(
            Streaming(), DataLoader(Stream(), batch_size=None)
        )
    states = {}
    trainer = streamed(tmp_path, 8)
    for step in (2, 3, 5, 6):
        states[step] = torch.load(tmp_path / f"step={step}.ckpt")["callbacks"]["SampleRecorder"]
    assert [states[step]["epoch"] for step in states] == [0, 1, 1, 2]  # a new count after each decision
    dropped = {step: (state["weights"] == 0).nonzero().flatten().tolist() for step, state in states.items()}
    assert dropped == {2: [], 3: [4, 5], 5: [4, 5], 6: [4, 5]}
    whole = trainer.callbacks[0].state_dict()  # type: ignore[attr-defined]
    again = streamed(tmp_path / "again", 8, tmp_path / "step=5.ckpt").callbacks[0].state_dict()  # type: ignore[attr-defined]
    for name in ("epoch", "decided", "decided_at", "last_step"):
        assert whole[name] == again[name], name
    assert torch.equal(whole["weights"], again["weights"])


# --- Second fits and copies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_trainer", [True, False])
def test_a_second_fit_of_the_module_goes_on(tmp_path: Path, same_trainer: bool) -> None:
    """Two fits of two epochs leave what one fit of four epochs leaves."""
    data, kinds = catalog(negative_lifetime=4), (SampleRecorder, VariancePruning)
    whole, parts = playback(data, 4), playback(data, 4)
    once, twice = Method(), Method()
    quiet(tmp_path, *once.callbacks, max_epochs=4).fit(whole, data)
    trainer = quiet(tmp_path, *twice.callbacks, max_epochs=2)
    trainer.fit(parts, data)
    asked = len(twice.scorer.pairs)
    assert asked and (twice.recorder.store.weights == 0).any()
    if same_trainer:
        trainer.fit_loop.max_epochs = 4
        trainer.fit(parts, data)
        for name in ("losses", "positive", "weights", "status"):
            one, two = (getattr(method.recorder.store, name) for method in (once, twice))
            assert torch.equal(one.nan_to_num(-9.0), two.nan_to_num(-9.0)), name
        assert twice.scorer.pairs == once.scorer.pairs
    else:  # the trainer counts from 0 again; the module plays back its first epochs
        quiet(tmp_path, *twice.callbacks, max_epochs=2).fit(parts, data)
        assert twice.recorder.store.epoch == 3 and twice.recorder.steps == 24
        assert not twice.recorder.store.positive.isnan().any(dim=1).all()
    assert all(isinstance(callback, kind) for callback, kind in zip(twice.callbacks, kinds, strict=False))
    other = playback(data, 4)
    quiet(tmp_path, *twice.callbacks, max_epochs=1).fit(other, data)
    assert twice.recorder.store.epoch == 0 and (other.weights[0] == 1).all()  # another module starts anew


def test_a_second_fit_on_other_interactions_starts_anew(tmp_path: Path) -> None:
    module, method = playback(catalog(seed=1), 2), Method()
    quiet(tmp_path, *method.callbacks).fit(module, catalog())
    quiet(tmp_path, *method.callbacks).fit(module, catalog(seed=1))
    assert method.recorder.store.epoch == 0


@pytest.mark.parametrize("kind", [TruncatedLoss, DoubleCorrection])
def test_the_ramp_of_a_baseline_goes_on_in_a_second_fit(tmp_path: Path, kind: Any) -> None:
    data = catalog()
    callback, module = kind(0.5, ramp_iterations=24), playback(data, 2)
    for steps in (6, 12):
        quiet(tmp_path, callback).fit(module, data)
        assert callback.drop_rate == pytest.approx(0.5 * steps / 24)
    quiet(tmp_path, callback).fit(playback(data, 2), data)
    assert callback.drop_rate == pytest.approx(0.5 * 6 / 24)


@pytest.mark.parametrize("kind", [TruncatedLoss, DoubleCorrection])
def test_the_ramp_goes_on_after_a_fit_that_was_broken_off(tmp_path: Path, kind: Any) -> None:
    class Breaks(Callback):
        def on_train_batch_end(self, *arguments: Any) -> None:
            if arguments[-1] == 3:
                raise ArithmeticError

    data = catalog()
    callback, module = kind(0.5, ramp_iterations=24), playback(data, 2)
    with pytest.raises(ArithmeticError):
        quiet(tmp_path, callback, Breaks()).fit(module, data)
    quiet(tmp_path, callback).fit(module, data)
    assert callback.drop_rate == pytest.approx(0.5 * (4 + 6) / 24)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("kind", [TruncatedLoss, DoubleCorrection])
def test_the_ramp_of_an_earlier_checkpoint_goes_on_from_there(tmp_path: Path, kind: Any, same: bool) -> None:
    """As in a notebook, where the objects of the fit are still there when one of its checkpoints is resumed."""
    data = catalog()
    callback, module = kind(0.5, ramp_iterations=36), playback(data, 4)
    saved = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    quiet(tmp_path, callback, saved, max_epochs=4, enable_checkpointing=True).fit(module, data)
    if not same:
        callback, module = kind(0.5, ramp_iterations=36), playback(data, 4)
    quiet(tmp_path, callback, max_epochs=3).fit(module, data, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert callback.drop_rate == pytest.approx(0.5 * 18 / 36)


@pytest.mark.parametrize("step", [15, 18])  # of six steps per epoch
def test_a_checkpoint_of_the_same_objects_takes_no_decision_more(tmp_path: Path, step: int) -> None:
    data, decided = catalog(), []

    class Spied(VariancePruning):
        def at_epoch_end(self, trainer: Any, *arguments: Any) -> None:
            decided.append(trainer.global_step)
            super().at_epoch_end(trainer, *arguments)

    callbacks, model = [SampleRecorder(), Spied(0.3, 12)], MF(data.num_users, data.num_items)
    saved = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=3)
    quiet(tmp_path, *callbacks, saved, max_epochs=5, enable_checkpointing=True).fit(model, data)
    once = [parameter.clone() for parameter in model.parameters()]
    decided.clear()
    quiet(tmp_path, *callbacks, max_epochs=5).fit(model, data, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert decided == [18, 24, 30]
    assert all(torch.equal(one, two) for one, two in zip(once, model.parameters(), strict=True))


class TwoOptimisers(SampleWeights, LightningModule):
    """Optimises by itself, with one optimiser or two, and returns nothing."""

    def __init__(self, optimisers: int, asks: bool = True) -> None:
        super().__init__()
        self.number, self.asks, self.automatic_optimization = optimisers, asks, False
        self.tables = torch.nn.ParameterList([torch.rand(40), torch.rand(40)])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        losses = sum(table[batch["sample"]] for table in self.tables) ** 2
        weights = self.sample_weights(batch, losses) if self.asks else torch.ones(())
        self.manual_backward((weights * losses).mean())
        optimisers: Any = self.optimizers()
        for optimiser in optimisers if isinstance(optimisers, list) else [optimisers]:
            optimiser.step()
            optimiser.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([table], lr=0.01) for table in self.tables[: self.number]]


def forty() -> Any:
    return DataLoader([{"sample": sample} for sample in range(40)], batch_size=10)


@pytest.mark.parametrize("optimisers", [1, 2])
def test_a_ramp_of_epochs_is_as_long_with_two_optimisers(tmp_path: Path, optimisers: int) -> None:
    callback = TruncatedLoss(0.4, ramp_epochs=8)
    message = "takes 8 epochs to reach .* at most 2: it ends"
    with pytest.warns(UserWarning, match=message):
        quiet(tmp_path, callback, max_epochs=2).fit(TwoOptimisers(optimisers), forty())
    assert callback.drop_rate == pytest.approx(0.1)


BATCHWISE: list[Any] = [TCE(0.5), RCE(), lambda: [DoubleCorrection(0.5, num_samples=40)]]


@pytest.mark.parametrize("method", BATCHWISE)
def test_a_step_that_optimises_by_itself_and_asks_for_no_weights_is_named(tmp_path: Path, method: Any) -> None:
    callbacks = method() if callable(method) else method
    with pytest.raises(RuntimeError, match=r"did not call self\.sample_weights"):
        quiet(tmp_path, *callbacks).fit(TwoOptimisers(1, asks=False), forty())


METHODS: list[Any] = [TCE, RCE, DCF, NoiseOracle, LossDropping, lambda: LLMHD(LexicalScorer(), confidence_epochs=1)]


@pytest.mark.parametrize("method", METHODS)
def test_copies_of_all_callbacks(tmp_path: Path, method: Any) -> None:
    """Libraries train with a copy of the trainer; a copy of a trained callback goes its own way."""
    data = catalog()
    trainer = quiet(tmp_path, *method(), max_epochs=2)
    copied = copy.deepcopy(trainer)
    copied.fit(playback(data, 2), data)
    for callback in copied.callbacks:  # type: ignore[attr-defined]
        again = copy.deepcopy(callback)
        assert again is not callback and getattr(again, "_trainer", None) is getattr(callback, "_trainer", None)
        module = copied.lightning_module  # shared by the copy of a callback alone, but copied where all is copied
        assert again.log.__self__ is module and copy.deepcopy([callback, module])[1] is not module
        if hasattr(callback, "scorer"):
            assert again.scorer is callback.scorer  # a model of gigabytes, its cache and budget
        if isinstance(callback, SampleRecorder):
            again.store.weights.fill_(7)
            assert not (callback.store.weights == 7).any()
    pristine = trainer.callbacks[0]  # type: ignore[attr-defined]
    assert getattr(pristine, "_trainer", None) is None


def test_noise_is_known_without_a_data_module(tmp_path: Path) -> None:
    trainer = quiet(tmp_path, *LossDropping(0.5, ramp_iterations=1, users=range(4), items=range(4), noise=[0, 0, 1, 0],
                                            audit=True))  # fmt: skip
    trainer.fit(Rows(), rows(sample=torch.arange(4)))
    assert float(trainer.callback_metrics["audit/dropped_is_noise_precision"]) == 0.5
    (oracle,) = NoiseOracle(noise=[0, 1, 0, 0])
    model = Rows()
    quiet(tmp_path, oracle).fit(model, rows(sample=torch.arange(4)))
    with pytest.raises(RuntimeError, match=r"needs the truth.*noise=\.\.\."):
        quiet(tmp_path, SampleRecorder(users=range(4), items=range(4)), NoiseAudit()).fit(Rows(), rows(sample=[0]))
    assert CLEAN == 0


class Blanking(Callback):
    """Makes padding of the last sample."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        last = len(trainer.datamodule.train_users) - 1
        batch["sample"] = batch["sample"].where(batch["sample"] != last, PAD)


class Padded(MF):
    never_padded = False


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_padding_beside_returned_losses_is_not_the_last_sample(tmp_path: Path, objective: Any) -> None:
    data, recorder = catalog(), SampleRecorder()
    module = Padded(data.num_users, data.num_items, embedding_dim=4, objective=objective)
    quiet(tmp_path, Blanking(), recorder).fit(module, data)
    unseen = recorder.store.losses.isnan().view(len(data.train_users), -1).any(dim=1)
    assert unseen.nonzero().flatten().tolist() == [len(data.train_users) - 1]


def test_padding_is_refused_where_a_module_says_that_there_is_none(tmp_path: Path) -> None:
    data = catalog()
    module = MF(data.num_users, data.num_items, embedding_dim=4)
    for callbacks in ([SampleRecorder()], DCF(0.2)):
        with pytest.raises(RuntimeError, match=r"MF says never_padded.* has padding.*never_padded = False"):
            quiet(tmp_path, Blanking(), *callbacks).fit(module, data)
