from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from small_fits import catalog, playback, quiet
from torch import Tensor

from llmhd_pl.callbacks import SampleRecorder, VariancePruning
from llmhd_pl.callbacks.ramps import ramp_length
from llmhd_pl.denoising.store import CANDIDATE, CLEAN, NOISE


class Watch(Callback):
    """Keeps status, weights and the logged numbers of every epoch."""

    def __init__(self, recorder: SampleRecorder) -> None:
        self.recorder = recorder
        self.status: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.logged: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.status.append(self.recorder.store.status.clone())
        self.weights.append(self.recorder.store.weights.clone())

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch:
            self.note(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note(trainer)

    def note(self, trainer: Trainer) -> None:
        values = trainer.callback_metrics
        self.logged.append({name: float(value) for name, value in values.items() if name.startswith("denoise/")})


def run(folder: Path, objective: str = "bpr", epochs: int = 4, **arguments: Any) -> tuple[Any, Watch]:
    data = catalog()
    module, recorder = playback(data, epochs, objective), SampleRecorder(window=3)
    watch = Watch(recorder)
    given = {"max_drop_rate": 0.2, "ramp_iterations": 10, "candidate_fraction": 0.5} | arguments
    quiet(folder, recorder, VariancePruning(**given), watch, max_epochs=epochs).fit(module, data)
    return module, watch


def highest(values: Tensor, count: int) -> Tensor:
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[values.flatten().nan_to_num(-torch.inf).argsort(descending=True, stable=True)[:count]] = True
    return mask.view(values.shape)


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_the_noise_set_of_every_epoch(tmp_path: Path, objective: str) -> None:
    module, watch = run(tmp_path, objective)
    n = module.losses[0].numel()
    for epoch in range(4):
        # Six batches an epoch, ten iterations of ramp: .12, .2, .2, .2
        rate = 0.2 * min(6 * (epoch + 1) / 10, 1)
        losses = module.losses[epoch].clone()
        if objective == "bce" and epoch == 0:
            losses[:, 1] = torch.nan  # nobody knows yet whether the sampled items stay
        noise = highest(losses, round(rate * n))
        assert torch.equal(watch.status[epoch] != CLEAN, noise)
        assert torch.equal(watch.weights[epoch] == 0, noise)  # alone, it drops the whole noise set
        assert torch.equal(watch.weights[epoch] == 1, ~noise)
        if epoch < 3:
            assert torch.equal(module.weights[epoch + 1] == 0, noise)
        assert watch.logged[epoch]["denoise/drop_rate"] == pytest.approx(rate)
        assert watch.logged[epoch]["denoise/noise_set"] == int(noise.sum())
        assert watch.logged[epoch]["denoise/candidates"] == int((watch.status[epoch] == CANDIDATE).sum())
    assert (watch.status[0] != CANDIDATE).all()  # one epoch has no variance
    assert {CLEAN, NOISE, CANDIDATE} == set(watch.status[3].unique().tolist())


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_rate_can_grow_over_epochs(tmp_path: Path, accumulate: int) -> None:
    data = catalog()
    module, recorder = playback(data, 5), SampleRecorder(window=3)
    watch = Watch(recorder)
    callbacks = recorder, VariancePruning(0.2, ramp_iterations=10_000, ramp_epochs=4), watch
    quiet(tmp_path, *callbacks, max_epochs=5, accumulate_grad_batches=accumulate).fit(module, data)
    assert [logged["denoise/drop_rate"] for logged in watch.logged] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2])


def test_an_epoch_without_an_end_has_no_length() -> None:
    trainer: Any = SimpleNamespace(num_training_batches=float("inf"), accumulate_grad_batches=1)
    assert ramp_length(trainer, VariancePruning(ramp_iterations=7)) == 7
    with pytest.raises(ValueError, match=r"ramp_epochs needs epochs that end; give ramp_iterations"):
        ramp_length(trainer, VariancePruning(ramp_epochs=2))


def test_sampled_items_that_are_drawn_anew_are_never_dropped(tmp_path: Path) -> None:
    data = catalog(negative_lifetime=1)
    module, recorder = playback(data, 3, "bce"), SampleRecorder(window=2)
    watch = Watch(recorder)
    quiet(tmp_path, recorder, VariancePruning(0.2, 1), watch, max_epochs=3).fit(module, data)
    for epoch in range(3):
        dropped = watch.weights[epoch] == 0
        assert int(dropped.sum()) == round(0.2 * dropped.numel())  # as many as of all, but observed ones,
        stayed = data.negative_sampler.draw(epoch) == data.negative_sampler.draw(epoch - 1)  # and some by chance
        assert not dropped[~stayed, 1].any() and (epoch == 0 or stayed.any())


def test_candidates_vary_most_within_the_noise_set(tmp_path: Path) -> None:
    module, watch = run(tmp_path)
    noise = (watch.status[3] != CLEAN).nonzero().flatten()
    expected = torch.zeros(len(watch.status[3]), dtype=torch.bool)
    for scores in (module.positive, module.negative):
        variance = scores[1:4, noise].var(dim=0)
        expected[noise[highest(variance, round(0.5 * len(noise)))]] = True
    assert torch.equal(watch.status[3] == CANDIDATE, expected)


def test_pointwise_candidates_of_each_column(tmp_path: Path) -> None:
    module, watch = run(tmp_path, "bce", candidate_fraction=0.3)
    for column, scores in enumerate((module.positive, module.negative)):
        status = watch.status[3][:, column]
        noise = (status != CLEAN).nonzero().flatten()
        expected = noise[highest(scores[1:4, noise].var(dim=0), round(0.3 * len(noise)))]
        assert (status == CANDIDATE).nonzero().flatten().tolist() == expected.tolist()


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_random_candidates_are_as_many_and_others(tmp_path: Path, objective: str) -> None:
    _, variance = run(tmp_path, objective)
    _, drawn = run(tmp_path, objective, candidates="random", seed=1)
    _, again = run(tmp_path, objective, candidates="random", seed=1)
    _, other = run(tmp_path, objective, candidates="random", seed=2)
    for epoch in range(4):
        statuses = [watch.status[epoch] for watch in (variance, drawn, again, other)]
        assert all(torch.equal(status == CLEAN, statuses[0] == CLEAN) for status in statuses)
        assert len({int((status == CANDIDATE).sum()) for status in statuses}) == 1
        assert torch.equal(statuses[1], statuses[2])
    assert not torch.equal(variance.status[3], drawn.status[3]) and not torch.equal(drawn.status[3], other.status[3])


def test_random_candidates_differ_from_epoch_to_epoch(tmp_path: Path) -> None:
    """With the same noise set, the draw of another epoch is another."""
    data = catalog()
    module, recorder = playback(data, 4), SampleRecorder(window=3)
    module.losses[:] = module.losses[0].clone()
    watch = Watch(recorder)
    quiet(tmp_path, recorder, VariancePruning(0.2, 1, candidates="random"), watch, max_epochs=4).fit(module, data)
    assert torch.equal(watch.status[2] == CLEAN, watch.status[3] == CLEAN)
    assert not torch.equal(watch.status[2], watch.status[3])


def test_samples_that_were_not_seen_are_not_judged(tmp_path: Path) -> None:
    data = catalog()
    module, recorder = playback(data, 1), SampleRecorder()
    quiet(tmp_path, recorder, VariancePruning(1.0, 1), limit_train_batches=2).fit(module, data)
    seen = ~recorder.store.losses.isnan()
    assert int(seen.sum()) == 120
    assert torch.equal(recorder.store.weights == 0, seen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_drop_rate": 1.1}, "max_drop_rate is 1.1; it is a fraction"),
        ({"max_drop_rate": -0.1}, "max_drop_rate is -0.1"),
        ({"candidate_fraction": 2}, "candidate_fraction is 2"),
        ({"max_drop_rate": float("nan")}, "max_drop_rate is nan"),
        ({"ramp_iterations": 0}, "ramp_iterations is 0.*at least 1"),
        ({"ramp_epochs": 0}, "ramp_epochs is 0.*at least 1"),
        ({"candidates": "best"}, "candidates is 'best'; it must be 'variance' or 'random'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VariancePruning(**arguments)


def test_without_the_recorder_or_before_it(tmp_path: Path) -> None:
    data = catalog()
    with pytest.raises(RuntimeError, match=r"VariancePruning needs SampleRecorder: add it .* before it"):
        quiet(tmp_path, VariancePruning()).fit(playback(data, 1), data)
    with pytest.raises(RuntimeError, match="SampleRecorder must come before VariancePruning"):
        quiet(tmp_path, VariancePruning(), SampleRecorder()).fit(playback(data, 1), data)
