import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_fits import catalog, quiet
from torch import Tensor

from llmhd_pl import LLMHD, MF, LossDropping, SampleRecorder, SyntheticCatalog, VariancePruning
from llmhd_pl.llm.accounting import Usage
from llmhd_pl.llm.scorer import Preference, Scorer


class Sure(Scorer):
    """Knows which training interactions are no noise, unless it is told to know nothing; counts what it is asked."""

    learns, leaves_out = False, True

    def __init__(self, data: SyntheticCatalog, knows: bool = True) -> None:
        keys = data.train_users * data.num_items + data.train_items
        self.right = keys[~data.noise_mask] if knows else keys[:0]
        self.items, self.prepared = data.num_items, 0
        self.generator = torch.Generator().manual_seed(0)

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        self.prepared += 1

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        return {user: list(items) for user, items in histories.items()}

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        right = torch.isin(pairs[:, 0] * self.items + pairs[:, 1], self.right)
        return torch.where(right, 9.0, 2.0) + torch.rand(len(pairs), generator=self.generator)

    def revise(self, *arguments: Any) -> dict[int, Preference]:
        return {}


def shop() -> SyntheticCatalog:
    return catalog(misclick_share=0.0, noise_ratio=0.25)


def pruning(callbacks: Sequence[Any]) -> VariancePruning:
    return next(callback for callback in callbacks if isinstance(callback, VariancePruning))


def model(data: SyntheticCatalog, objective: str = "bpr") -> MF:
    return MF(data.num_users, data.num_items, embedding_dim=4, objective=objective)


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_the_audit_sets_the_rate_and_so_much_is_dropped(tmp_path: Path, objective: str) -> None:
    data = shop()
    callbacks = list(LLMHD(Sure(data), drop_rate="auto", ramp_epochs=1, audit=True))
    trainer = quiet(tmp_path, *callbacks, max_epochs=2)
    trainer.fit(model(data, objective), data)
    noise = data.noise_mask.double().mean().item()
    rate = pruning(callbacks).max_drop_rate
    assert rate == pytest.approx(noise, abs=0.1)
    dropped = trainer.callback_metrics["denoise/dropped"].item()
    assert dropped == round(rate * len(data.train_users))


class Paid(Sure):
    """The same, but it counts its questions, so that it is asked about a sample."""

    def __init__(self, data: SyntheticCatalog, leaves_out: bool) -> None:
        super().__init__(data)
        self.usage, self.leaves_out = Usage(), leaves_out


@pytest.mark.parametrize("right", [None, 0.2])
@pytest.mark.parametrize("leaves_out", [True, False])
def test_a_sample_stands_for_the_rest(tmp_path: Path, leaves_out: bool, right: float | None) -> None:
    data = SyntheticCatalog(700, 120, 5, 12, misclick_share=0.0, noise_ratio=0.25, batch_size=4096)
    data.setup()
    rates = []
    for judge in (Sure(data), Paid(data, leaves_out)):
        callbacks = list(LLMHD(judge, drop_rate="auto", false_discoveries=right))
        quiet(tmp_path, *callbacks).fit(model(data), data)
        rates.append(pruning(callbacks).max_drop_rate)
    assert rates[0] == pytest.approx(rates[1], abs=0.12)  # 500 of 5,500 with 4 references: a deviation of .045
    assert min(rates) > 0.1


def test_with_a_bound_on_false_discoveries_less_is_dropped(tmp_path: Path) -> None:
    data = shop()
    rates = []
    for right in (None, 0.01):
        callbacks = list(LLMHD(Sure(data), drop_rate="auto", false_discoveries=right))
        quiet(tmp_path, *callbacks).fit(model(data), data)
        rates.append(pruning(callbacks).max_drop_rate)
    assert 0 < rates[1] < rates[0]


def test_a_judge_that_cannot_tell_drops_nothing_and_says_so(tmp_path: Path) -> None:
    data = shop()
    callbacks = list(LLMHD(Sure(data, knows=False), drop_rate="auto", ramp_epochs=1))
    trainer = quiet(tmp_path, *callbacks, max_epochs=2)
    with pytest.warns(UserWarning, match=r"drop rate is 0, .*cannot tell.*Give the drop rate as a number"):
        trainer.fit(model(data), data)
    assert pruning(callbacks).max_drop_rate == 0
    assert trainer.callback_metrics["denoise/dropped"] == 0


def test_a_run_that_is_resumed_keeps_its_rate_and_asks_no_more(tmp_path: Path) -> None:
    data = shop()
    first = list(LLMHD(Sure(data), drop_rate="auto"))
    trainer = quiet(tmp_path, *first)
    trainer.fit(model(data), data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    nothing = Sure(data, knows=False)
    resumed = list(LLMHD(nothing, drop_rate="auto"))
    quiet(tmp_path, *resumed, max_epochs=2).fit(model(data), data, ckpt_path=tmp_path / "last.ckpt")
    assert pruning(resumed).max_drop_rate == pruning(first).max_drop_rate > 0
    assert nothing.prepared == 1  # for the run itself


def test_other_interactions_are_audited_anew(tmp_path: Path) -> None:
    data, other = shop(), catalog(misclick_share=0.0, seed=1)  # nothing is planted in the other one
    judge = Sure(data)
    callbacks = list(LLMHD(judge, drop_rate="auto"))
    quiet(tmp_path, *callbacks).fit(model(data), data)
    first = pruning(callbacks).max_drop_rate
    judge.right = Sure(other).right
    quiet(tmp_path, *callbacks).fit(model(other), other)
    assert pruning(callbacks).max_drop_rate < first / 2


def test_two_processes_drop_what_one_drops_after_one_audit(tmp_path: Path) -> None:
    said = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("split_audit.py")), str(folder), str(processes)],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        said[processes] = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]
    (one,), two = said[1], said[2]
    assert one["rate"] > 0.1
    assert [rank["rate"] for rank in two] == [one["rate"]] * 2
    assert [rank["dropped"] for rank in two] == [one["dropped"]] * 2
    assert [rank["prepared"] for rank in two] == [one["prepared"], 1]  # the first rank audits, for all of them


def test_auto_needs_a_judge(tmp_path: Path) -> None:
    data = shop()
    alone = [SampleRecorder(), VariancePruning("auto", rate_of="interactions")]
    with pytest.raises(RuntimeError, match="VariancePruning with max_drop_rate='auto' needs a judge"):
        quiet(tmp_path, *alone).fit(model(data), data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_drop_rate": "auto"}, "set rate_of='interactions'"),
        ({"max_drop_rate": 0.1, "false_discoveries": 0.1}, "false_discoveries is 0.1"),
        ({"max_drop_rate": "auto", "rate_of": "interactions", "false_discoveries": 2.0}, "false_discoveries is 2.0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VariancePruning(**arguments)


def test_loss_dropping_has_nobody_to_ask(tmp_path: Path) -> None:
    data = shop()
    with pytest.raises(RuntimeError, match="needs a judge"):
        quiet(tmp_path, *LossDropping(drop_rate="auto")).fit(model(data), data)  # type: ignore[arg-type]
