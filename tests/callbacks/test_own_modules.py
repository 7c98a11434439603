"""What modules of one's own do besides: validate with the same step, optimise by themselves, label and repeat rows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import Callback, GradientAccumulationScheduler, StochasticWeightAveraging
from small_fits import quiet
from torch import Tensor
from torch.multiprocessing import ProcessRaisedException
from torch.utils.data import DataLoader, IterableDataset

from llmhd_pl import DCF, RCE, TCE, LossDropping, NoiseOracle
from llmhd_pl.callbacks import DoubleCorrection, Oracle, SampleRecorder, TruncatedLoss, VariancePruning
from llmhd_pl.sample_weights import SampleWeights

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(have no .val_dataloader|no .validation_step|many workers)"),
    pytest.mark.filterwarnings("ignore:.*(the drop rate takes|sync_dist|IterableDataset|Swapping scheduler)"),
]
N = 40


def loader(size: int = 10, **columns: Any) -> Any:
    rows = [{"sample": torch.tensor(s)} | {k: v[s] for k, v in columns.items()} for s in range(N)]
    return DataLoader(rows, batch_size=size)  # type: ignore[arg-type]


class Own(SampleWeights, LightningModule):
    """The loss of sample s is (s + 1) / N; one step for training and validation."""

    def __init__(self) -> None:
        super().__init__()
        self.parameter = torch.nn.Parameter(torch.ones(()))
        self.validated: list[float] = []
        self.weights: list[Tensor] = []

    def losses(self, batch: Any) -> Tensor:
        return (batch["sample"] + 1) / N * self.parameter  # type: ignore[no-any-return]

    def step(self, batch: Any) -> Tensor:
        losses = self.losses(batch)
        self.weights.append(self.sample_weights(batch, losses))
        return (self.weights[-1] * losses).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.step(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(float(self.step(batch)))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


METHODS: list[Any] = [
    lambda: [TruncatedLoss(0.5, 1)],
    RCE,
    lambda: [DoubleCorrection(0.5, 1, num_samples=N)],
    lambda: LossDropping(0.5, ramp_epochs=1, users=[0] * N, items=list(range(N))),
]


def test_dcf_takes_the_number_of_samples_where_there_is_no_data_module(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"give num_samples=\.\.\. of DoubleCorrection or of DCF\."):
        quiet(tmp_path, *DCF()).fit(Own(), loader())
    module = Own()
    quiet(tmp_path, *DCF(0.5, ramp_iterations=1, num_samples=N), max_epochs=2).fit(module, loader())
    assert any((weights < 0.99).any() for weights in module.weights)


class Unweighted(Own):
    """Asks for weights, and does not multiply its losses by them."""

    def step(self, batch: Any) -> Tensor:
        super().step(batch)
        return self.losses(batch).mean()


@pytest.mark.parametrize("kind", [Own, Unweighted])
def test_if_all_is_noise_the_loss_shows_whether_the_weights_arrive(tmp_path: Path, kind: Any) -> None:
    """As docs/denoising.md advises."""

    losses = []

    class Noting(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            losses.append(float(outputs["loss"]))

    quiet(tmp_path, *NoiseOracle(noise=[1] * N), Noting()).fit(kind(), loader())
    assert {loss == 0 for loss in losses} == {kind is Own}


class Tuples(Own):
    """Its batches are tuples, whose first entry is the samples, and whose second is a weight."""

    def losses(self, batch: Any) -> Tensor:
        return super().losses({"sample": batch[0]})


def tuples() -> Any:
    return DataLoader([(torch.tensor(s), torch.ones(())) for s in range(N)], batch_size=10)  # type: ignore[arg-type]


def test_a_number_is_no_key_of_a_tuple_and_a_path_is(tmp_path: Path) -> None:
    module = Tuples()
    quiet(tmp_path, *dropping(ramp_epochs=1, sample_key=(0,)), max_epochs=2).fit(module, tuples())
    assert sum(int((weights == 0).sum()) for weights in module.weights) == 0.4 * N
    wrong: Any = 0
    for given in ({"sample_key": wrong}, {"sample_key": (0,), "weight_key": wrong}):
        with pytest.raises(TypeError, match=r"0 is no place in a batch\. Give a name.*\(0,\) for the first"):
            quiet(tmp_path, *dropping(**given)).fit(Tuples(), tuples())


class Nameless(Own):
    """Its validation batches say nothing of samples."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        losses = self.losses({"sample": batch})
        self.validated.append(float((self.sample_weights({"item": batch}, losses) * losses).mean()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sanity", [0, 2])
def test_validation_losses_are_not_denoised_and_leave_no_trace(tmp_path: Path, method: Any, sanity: int) -> None:
    callbacks = [*method()]
    arguments = {"max_epochs": 3, "limit_val_batches": 1.0, "num_sanity_val_steps": sanity}
    module = Own()
    quiet(tmp_path, *callbacks, **arguments).fit(module, loader(), loader(N))
    assert module.validated == pytest.approx([(N + 1) / 2 / N] * len(module.validated))
    assert any((weights < 0.99).any() for weights in module.weights)  # in training they are
    if isinstance(callbacks[0], DoubleCorrection):
        assert callbacks[0].history is not None and callbacks[0].history.seen.tolist() == [3] * N
    nameless, bare = Nameless(), DataLoader(torch.arange(N), batch_size=N)  # type: ignore[arg-type]
    quiet(tmp_path, *method(), **arguments).fit(nameless, loader(), bare)
    assert nameless.validated == pytest.approx([(N + 1) / 2 / N] * len(nameless.validated))


class ByItself(Own):
    """Optimises by itself: by Lightning's optimiser, by the plain one, or only after every second batch."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.automatic_optimization = how, False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.step(batch))
        optimizer: Any = self.optimizers(use_pl_optimizer=self.how != "plain")
        if self.how != "every second" or batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


def dropping(**arguments: Any) -> Any:
    return LossDropping(0.4, users=[0] * N, items=list(range(N)), **arguments)


@pytest.mark.parametrize("how", ["Lightning's", "plain", "every second"])
def test_a_ramp_of_epochs_does_not_depend_on_who_counts_steps(tmp_path: Path, how: str) -> None:
    truncated, (recorder, pruning) = TruncatedLoss(0.4, ramp_epochs=4), dropping(ramp_epochs=4)
    trainer = quiet(tmp_path, truncated, recorder, pruning, max_epochs=2)
    trainer.fit(ByItself(how), loader())
    assert truncated.drop_rate == pytest.approx(0.2)
    assert trainer.callback_metrics["denoise/dropped"] == round(0.2 * N)


def test_a_ramp_of_epochs_does_not_depend_on_how_gradients_are_accumulated(tmp_path: Path) -> None:
    rates: list[float] = []

    class Noting(TruncatedLoss):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            rates.append(self.drop_rate)

    quiet(tmp_path, Noting(0.4, ramp_epochs=4), GradientAccumulationScheduler({0: 4, 2: 1}), max_epochs=4).fit(
        Own(), loader()
    )
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    "method",
    [
        lambda: [TruncatedLoss(0.4, 8)],
        lambda: dropping(ramp_iterations=8),
        lambda: dropping(ramp_iterations=8, decide_every=2),
    ],
)
def test_steps_that_nobody_counts_are_named(tmp_path: Path, method: Any) -> None:
    with pytest.raises(RuntimeError, match=r"counted no optimiser step in 4 batches.*without use_pl_optimizer=False"):
        quiet(tmp_path, *method(), max_epochs=2).fit(ByItself("plain"), loader())
    quiet(tmp_path, *method(), max_epochs=2).fit(ByItself("every second"), loader())


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return ({"sample": torch.tensor(sample)} for sample in range(N))


@pytest.mark.filterwarnings("error:.*the drop rate takes")
def test_a_stream_is_not_called_too_short(tmp_path: Path) -> None:
    quiet(tmp_path, TruncatedLoss(0.4, 2)).fit(Own(), DataLoader(Stream(), batch_size=10))


@pytest.mark.parametrize("rate_of", ["samples", "interactions"])
@pytest.mark.parametrize("name", ["label", "target"])
def test_of_labelled_rows_only_clicks_are_dropped(tmp_path: Path, name: str, rate_of: Any) -> None:
    """The losses of non-clicks are the highest; two of each batch of ten rows are clicks."""
    labels = torch.tensor([1] * 2 + [0] * 8).repeat(N // 10)
    for callback in (
        TruncatedLoss(0.5, 1, rate_of=rate_of),
        DoubleCorrection(0.5, 1, 0.0, num_samples=N, rate_of=rate_of),
    ):
        module = Own()
        quiet(tmp_path, callback, max_epochs=2).fit(module, loader(**{name: labels}))
        weights = torch.cat(module.weights[-4:])
        assert (weights[labels == 0] == 1).all()
        # "samples": five of ten rows, of which two can be dropped; "interactions": one of two.
        assert int((weights == 0).sum()) == (8 if rate_of == "samples" else 4)


def test_numbers_that_only_look_like_labels_are_none(tmp_path: Path) -> None:
    module = Own()
    quiet(tmp_path, TruncatedLoss(0.5, 1), max_epochs=2).fit(module, loader(target=torch.arange(N) % 5))
    assert int((torch.cat(module.weights[-4:]) == 0).sum()) == N // 2


def test_what_is_0_and_1_in_one_process_alone_is_no_label(tmp_path: Path) -> None:
    """Ratings of 1 in one process, of all kinds in the other: if they decided apart, they would wait for ever."""

    class Split(Own):
        def train_dataloader(self) -> Any:
            samples = torch.arange(N)[self.trainer.global_rank :: 2]
            ratings = torch.ones(N // 2) if self.trainer.global_rank == 0 else torch.arange(N // 2) % 5
            return DataLoader([{"sample": samples, "target": ratings}] * 2, batch_size=None)  # type: ignore[arg-type]

    callbacks = [TruncatedLoss(0.5, 1, rate_of="interactions"), DoubleCorrection(0.5, 1, num_samples=N)]
    options = {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": False}
    trainer = quiet(tmp_path, *callbacks, max_epochs=2, **options)
    trainer.fit(Split())
    assert trainer.callback_metrics["denoise/drop_rate"] == 0.5


def test_dcf_takes_several_negatives_per_row(tmp_path: Path) -> None:
    callback = DoubleCorrection(0.5, 1, num_samples=N)
    quiet(tmp_path, callback).fit(Own(), loader(negative=torch.zeros(N, 3, dtype=torch.int64)))
    assert callback.history is not None and callback.history.seen.tolist() == [1] * N


class Weighted(Own):
    """Divides by what is kept, as the documentation says."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        weights, counts = self.weights_and_counts(batch, losses)
        return (weights * losses).sum() / counts.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("method", [TCE(0.01, ramp_iterations=1), [DoubleCorrection(0.01, 1, num_samples=N)]])
def test_a_last_batch_of_one_row_is_not_emptied(tmp_path: Path, method: Any) -> None:
    module = Weighted()
    quiet(tmp_path, *method, max_epochs=2).fit(module, loader(13))  # 13, 13, 13, 1
    assert module.parameter.isfinite()


class Numbered(Own):
    def __init__(self, sample: list[int], losses: list[float], outputs: bool = False) -> None:
        super().__init__()
        self.sample, self.given, self.outputs = torch.tensor(sample), torch.tensor(losses), outputs

    def train_dataloader(self) -> Any:
        batch = {"sample": self.sample, "negative": self.sample.clamp(min=0)}
        return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = self.given * self.parameter
        weights = self.sample_weights(batch, losses)
        if not self.outputs:
            return (weights * losses).mean()
        weighted = (weights * losses).detach()
        scores = {"positive_score": -losses.detach(), "negative_score": losses.detach()}
        return {"loss": (weights * losses).mean(), "losses": weighted, **scores}


@pytest.mark.parametrize("outputs", [False, True])
def test_a_sample_in_several_rows_has_the_mean_of_its_losses(tmp_path: Path, outputs: bool) -> None:
    recorder = SampleRecorder(users=[0, 0, 0], items=[0, 1, 2])
    quiet(tmp_path, recorder).fit(Numbered([0, 1, 0, 2, 0], [1.0, 5.0, 2.0, 3.0, 6.0], outputs))
    assert recorder.store.losses.tolist() == [3.0, 5.0, 3.0]
    assert recorder.store.positive[0].tolist() == [-3.0, -5.0, -3.0]
    correction = DoubleCorrection(0.0, 1, num_samples=3)
    quiet(tmp_path, correction).fit(Numbered([0, 1, 0, 2, 0], [1.0, 5.0, 2.0, 3.0, 6.0], outputs))
    assert correction.history is not None and correction.history.seen.tolist() == [1, 1, 1]
    once = torch.log1p(torch.tensor([3.0, 5.0, 3.0]) + torch.tensor([4.5, 12.5, 4.5]))
    torch.testing.assert_close(correction.history.damped[0], once)


@pytest.mark.parametrize("padding", [[], [-1]])
def test_weighted_losses_that_are_returned_are_not_recorded(tmp_path: Path, padding: list[int]) -> None:
    recorder, pruning = LossDropping(0.34, ramp_iterations=1, users=[0] * 3, items=[0, 1, 2])
    module = Numbered([0, 1, 2, *padding], [1.0, 2.0, 3.0, 9.0][: 3 + len(padding)], outputs=True)
    quiet(tmp_path, recorder, pruning, max_epochs=3).fit(module)
    assert recorder.store.losses.tolist() == [1.0, 2.0, 3.0] and recorder.store.weights.tolist() == [1, 1, 0]


@pytest.mark.parametrize("method", [[DoubleCorrection(0.2, num_samples=3)], [Oracle(noise=[0, 1, 0])], SampleRecorder])
def test_a_number_that_is_no_sample_is_named(tmp_path: Path, method: Any) -> None:
    """Minus 100 is the padding of PyTorch's losses; as an index it would be another sample."""
    callbacks = [SampleRecorder(users=[0] * 3, items=[0, 1, 2])] if method is SampleRecorder else method
    with pytest.raises(IndexError, match="names sample -2, but there are 3 training interactions"):
        quiet(tmp_path, *callbacks).fit(Numbered([0, 1, -2], [1.0, 2.0, 3.0]))


def test_dcf_without_samples_says_so(tmp_path: Path) -> None:
    batches: Any = DataLoader([{"sample": torch.tensor([0]), "item": torch.tensor([0])}], batch_size=None)

    class Without(Own):
        def step(self, batch: Any) -> Tensor:
            return (self.sample_weights({}, self.losses(batch)) * self.losses(batch)).mean()

    with pytest.raises(RuntimeError, match="The training batch has no sample"):
        quiet(tmp_path, DoubleCorrection(0.2, num_samples=3)).fit(Without(), batches)


def test_dcf_refuses_samples_of_two_processes(tmp_path: Path) -> None:
    trainer = quiet(
        tmp_path, DoubleCorrection(0.2, num_samples=N), devices=2, strategy="ddp_fork", use_distributed_sampler=False
    )
    with pytest.raises(ProcessRaisedException, match=r"Sample \d was trained on by 2 processes\. .*users"):
        trainer.fit(Own(), loader())


class Normalised(LightningModule):
    """Multiplies by the weight in the batch, and has something for the averaging of weights to do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.parameter = torch.nn.BatchNorm1d(1), torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = (self.norm(batch["sample"][:, None].float())[:, 0] * self.parameter) ** 2
        return (batch["weight"] * losses).mean()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_the_epoch_that_fits_batchnorm_to_averaged_weights_is_passed_over(tmp_path: Path) -> None:
    averaging = StochasticWeightAveraging(1e-3, swa_epoch_start=2)
    recorder, pruning = dropping(ramp_epochs=1, weight_key="weight")
    quiet(tmp_path, recorder, pruning, averaging, max_epochs=4).fit(Normalised(), loader(weight=torch.ones(N)))
    assert (recorder.store.weights == 0).sum() == 16


def test_labels_in_another_order_are_named(tmp_path: Path) -> None:
    labels = torch.arange(N) % 2
    arguments = {"users": [0] * N, "items": list(range(N))}
    quiet(tmp_path, SampleRecorder(labels=labels, **arguments)).fit(Own(), loader(label=labels))
    with pytest.raises(
        RuntimeError, match=r"batch\['label'\] is 0 for sample 0, and labels\[0\] is 1: .* another order"
    ):
        quiet(tmp_path, SampleRecorder(labels=1 - labels, **arguments)).fit(Own(), loader(label=labels))


def test_of_a_pointwise_objective_only_observed_items_are_dropped(tmp_path: Path) -> None:
    """Though sampled items stay for five epochs, and have the highest losses: the rate is one of interactions."""

    class Pairs(Own):
        def losses(self, batch: Any) -> Tensor:
            own = super().losses(batch)
            return torch.stack([own, own + 1], dim=1)

    batch = {"sample": torch.arange(N), "negative": torch.arange(N)}
    batches: Any = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    recorder, pruning = dropping(ramp_epochs=1)
    quiet(tmp_path, recorder, pruning, max_epochs=4).fit(Pairs(), batches)
    assert (recorder.store.weights == 0).sum(dim=0).tolist() == [16, 0]
    recorder, pruning = SampleRecorder(users=[0] * N, items=list(range(N))), VariancePruning(0.4, 1)
    quiet(tmp_path, recorder, pruning, max_epochs=4).fit(Pairs(), batches)
    assert (recorder.store.weights == 0).sum(dim=0).tolist() == [0, 32]
