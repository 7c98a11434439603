import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import single_steps
import split_baselines
import torch
import torch.nn.functional as F
from small_fits import catalog, equal, playback, quiet
from torch import Tensor
from torch.utils.data import DataLoader

from llmhd_pl.callbacks import DoubleCorrection
from llmhd_pl.datamodules.train_batches import TrainBatches


def by_hand(losses: Tensor, orders: list[list[Tensor]], epochs: int) -> tuple[Tensor, list[int]]:
    """Weights of every epoch and how often each sample was kept, of losses [epochs, n] or [epochs, n, 2]."""
    n, pointwise = losses.shape[1], losses.dim() == 3
    history: list[list[float]] = [[] for _ in range(n)]
    kept = [0] * n
    weights, step = torch.ones_like(losses), 0
    for epoch in range(epochs):
        variance = 1e-4 * (1 - epoch / (epochs - 1))
        for sample in orders[epoch]:
            rate = 0.2 * min(step / 15, 1)
            step += 1
            bounds = {}
            for b in sample.tolist():
                loss = losses[epoch, b, 0] if pointwise else losses[epoch, b]
                history[b].append(float(torch.log(1 + loss + loss**2 / 2)))
                mean, s = sum(history[b][-3:]) / len(history[b][-3:]), epoch + 1
                log = float(torch.tensor(2.0 * s).log())
                bounds[b] = max(mean - variance * (s + variance * log / s**2) / (kept[b] + 1 - variance), 0)
            size = len(sample) * (2 if pointwise else 1)
            highest = sorted(bounds, key=lambda b: -bounds[b])
            drops = size - int((1 - rate) * size)
            flips = int(0.5 * drops)
            for place, b in enumerate(highest):
                loss = float(losses[epoch, b, 0] if pointwise else losses[epoch, b])
                odds = torch.tensor(loss).neg().exp() / (1 - torch.tensor(loss).neg().exp())
                weight = -float(odds) if place < flips else 0.0 if place < drops else 1.0
                (weights[epoch, :, 0] if pointwise else weights[epoch])[b] = weight
                kept[b] += place >= drops
    return weights, kept


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_a_whole_fit_by_hand(tmp_path: Path, objective: str) -> None:
    """Batches are shuffled anew each epoch: a history kept by place in the epoch fails here."""
    data = catalog()
    module, callback = playback(data, 5, objective), DoubleCorrection(0.2, 15, 0.5)
    trainer = quiet(tmp_path, callback, max_epochs=5)
    trainer.fit(module, data)
    orders = [[batch["sample"] for batch in TrainBatches(data, lambda e=epoch: e)] for epoch in range(5)]
    expected, kept = by_hand(module.losses, orders, 5)
    torch.testing.assert_close(module.weights, expected, rtol=1e-4, atol=1e-5)
    flips = (expected < 0).flatten(1).sum(dim=1).tolist()
    assert 0 < flips[0] < flips[1] < flips[4] and (expected == 0).any()
    assert callback.history is not None and callback.history.kept.tolist() == kept
    assert trainer.callback_metrics["denoise/drop_rate"] == pytest.approx(0.2)
    assert trainer.callback_metrics["denoise/relabel_rate"] == pytest.approx(0.1)


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_the_gradient_of_a_step_is_that_of_the_corrected_batch(objective: str) -> None:
    trainer, callback = single_steps.trainer(step=10), DoubleCorrection(0.5, 10, 0.5)
    model = single_steps.model(objective, trainer)
    callback.setup(trainer, model, "fit")
    positive, negative = single_steps.predictions(model)
    y = positive if objective == "bce" else positive - negative
    order = y.argsort()  # the first epoch's order is that of the losses
    # Half of what goes is flipped: bce 4 of 16 - int(.5 * 16) = 8; bpr 2 of 4.
    flips, drops = (4, 8) if objective == "bce" else (2, 4)
    corrected = [F.softplus(y[order[:flips]]), F.softplus(-y[order[drops:]])]
    corrected += [F.softplus(negative)] if objective == "bce" else []
    _, gradient = single_steps.step(model)
    expected = single_steps.gradient(model, torch.cat(corrected).mean())
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("epoch", "flipped"), [(0, 1), (9, 0)])
def test_sigma_falls_over_the_epochs_of_the_run(epoch: int, flipped: int) -> None:
    """A sample that was never kept has a low bound while sigma^2 is not 0."""
    trainer, callback = single_steps.trainer(step=10, epoch=epoch, max_epochs=10), DoubleCorrection(0.1, 10, 1.0)
    callback.setup(trainer, single_steps.model("bpr", trainer), "fit")
    assert callback.history is not None
    callback.history.seen += 999
    callback.history.kept += 999
    callback.history.kept[single_steps.BATCH["sample"][0]] = 0
    losses = torch.tensor([2.05, 2.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])  # of the mean over the window, .1 and less apart
    weights, _ = callback.weigh(single_steps.BATCH, losses)
    assert (weights < 0).nonzero().flatten().tolist() == [flipped]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    data = catalog()
    loader: Any = DataLoader([{"sample": torch.tensor([1, 0])}], batch_size=None)
    module = playback(data, 1)
    with pytest.raises(RuntimeError, match=r"no train_users.*give num_samples=\.\.\. of DoubleCorrection or of DCF"):
        quiet(tmp_path, DoubleCorrection()).fit(module, loader)
    callback = DoubleCorrection(num_samples=2)
    quiet(tmp_path, callback).fit(module, loader)
    assert callback.history is not None and callback.history.seen.tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="set max_epochs"):
        quiet(tmp_path, DoubleCorrection(), max_epochs=-1, max_steps=3).fit(module, data)
    other = quiet(tmp_path, DoubleCorrection(), enable_checkpointing=True)
    other.fit(playback(data, 1), data)
    other.save_checkpoint(tmp_path / "other.ckpt")
    more = catalog(noise_ratio=0.2)
    with pytest.raises(ValueError, match=r"history of losses belongs to other interactions.*Resume with the same data"):
        quiet(tmp_path, DoubleCorrection(), max_epochs=2).fit(
            playback(more, 2), more, ckpt_path=tmp_path / "other.ckpt"
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fits with one process, in this one, and with two, all in one subprocess; step 16 is within the third epoch."""
    path = tmp_path_factory.mktemp("split")
    split_baselines.fit(str(path / "1"), 1)
    plans = [
        {"folder": str(path / "2"), "processes": 2},
        {"folder": str(path / "1-to-2"), "processes": 2, "checkpoint": str(path / "1" / "step=16.ckpt")},
    ]
    (path / "plan.json").write_text(json.dumps(plans))
    done = subprocess.run(
        [sys.executable, split_baselines.__file__, str(path / "plan.json")],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    split_baselines.fit(str(path / "2-to-1"), 1, str(path / "2" / "step=16.ckpt"))
    split_baselines.fit(str(path / "1-to-1"), 1, str(path / "1" / "step=16.ckpt"))
    return path


def history(path: Path) -> Any:
    return torch.load(path, weights_only=True)["callbacks"]["DoubleCorrection"]


def test_two_processes_decide_what_one_decides(folder: Path) -> None:
    whole = torch.load(folder / "1" / "weights-0.pt")
    parts = [torch.load(folder / "2" / f"weights-{rank}.pt") for rank in range(2)]
    assert all((part < 0).any() and (part == 0).any() and part.isnan().any() for part in parts)
    assert torch.equal(parts[0].where(~parts[0].isnan(), parts[1]), whole)
    for step in (4, 16, 24):
        assert equal(*(history(folder / processes / f"step={step}.ckpt") for processes in ("1", "2")))


@pytest.mark.parametrize("resumed", ["1-to-1", "1-to-2", "2-to-1"])
def test_a_resumed_run_ends_as_if_it_had_not_stopped(folder: Path, resumed: str) -> None:
    for step in (20, 24):
        assert equal(history(folder / "1" / f"step={step}.ckpt"), history(folder / resumed / f"step={step}.ckpt"))
    assert int(history(folder / resumed / "step=24.ckpt")["seen"].min()) == 4
