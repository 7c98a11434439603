from pathlib import Path
from typing import Any

import pytest
from small_fits import Method, catalog, playback, quiet

from llmhd_pl.callbacks import CostEstimate, LLMSampleScorer, PreferenceUpdater, SampleRecorder, VariancePruning
from llmhd_pl.llm.judge import EmbeddedJudge


def estimated(
    folder: Path,
    capsys: Any,
    *more: Any,
    pruning: VariancePruning | None = None,
    calibrate: bool = False,
    epochs: int = 3,
    objective: str = "bpr",
    lifetime: int = 1,
    **arguments: Any,
) -> dict[str, list[int]]:
    """Calls, cache hits, prompt tokens, answer tokens and unanswered, by template, as they are printed."""
    judge = EmbeddedJudge()
    judge.calibrate = calibrate
    data = catalog(negative_lifetime=lifetime)
    callbacks = [
        SampleRecorder(),
        pruning or VariancePruning(0.2, 1),
        LLMSampleScorer(judge, **arguments),
        *more,
        CostEstimate(),
    ]
    with pytest.raises(SystemExit) as ended:
        quiet(folder, *callbacks, max_epochs=epochs).fit(playback(data, epochs, objective), data)
    assert ended.value.code == 0
    assert "_causal_lm" not in vars(judge) and not judge.usage.templates  # no model was loaded, nothing asked
    rows = [line.strip("│ ").split("│") for line in capsys.readouterr().out.splitlines() if "T_" in line]
    return {row[0].strip(): [int(cell.replace(",", "")) for cell in row[1:]] for row in rows}


def test_nothing_is_asked(tmp_path: Path, capsys: Any) -> None:
    samples = len(catalog().train_users)
    everything = estimated(tmp_path, capsys, scored="all")
    assert everything.keys() == {"T_sum", "T_score"}
    assert everything["T_sum"][0] == 40 and everything["T_score"][:2] == [samples, 0]
    assert 100 * samples < everything["T_score"][2] < 600 * samples
    candidates = estimated(tmp_path, capsys, rule="consistent")["T_score"][0]
    assert 0.1 * samples <= candidates <= 3 * 0.1 * samples  # half of a fifth, in each of three epochs at most
    both = estimated(tmp_path, capsys, rule="paper")["T_score"][0]
    assert candidates < both <= 6 * 0.1 * samples
    updated = estimated(tmp_path, capsys, PreferenceUpdater(1), scored="all")
    assert {"T_FP"} <= updated.keys() and updated["T_score"][0] > samples


def test_the_calibration_is_counted_if_there_is_one(tmp_path: Path, capsys: Any) -> None:
    without, calibrated = (estimated(tmp_path, capsys, calibrate=calibrate) for calibrate in (False, True))
    assert calibrated["T_score"][0] == without["T_score"][0] + 40 * 4 and calibrated["T_sum"] == without["T_sum"]


def test_the_audit_is_counted_if_it_sets_the_drop_rate(tmp_path: Path, capsys: Any) -> None:
    without, audited = (
        estimated(tmp_path, capsys, pruning=VariancePruning(rate, 1, rate_of="interactions")) for rate in (0.2, "auto")
    )  # 0.2 is what is assumed for "auto"
    assert audited["T_score"][0] == without["T_score"][0] + 40 * 5
    assert audited["T_sum"][0] == without["T_sum"][0] + 40
    assert 1.5 < audited["T_sum"][2] / without["T_sum"][2] < 2  # each summary is of one item fewer


def test_a_ramp_of_epochs_asks_as_often_as_one_of_as_many_steps(tmp_path: Path, capsys: Any) -> None:
    batches = -(-len(catalog().train_users) // 60)
    steps, epochs = (
        estimated(tmp_path, capsys, pruning=VariancePruning(0.2, **ramp), rule="consistent")["T_score"]
        for ramp in ({"ramp_iterations": 2 * batches}, {"ramp_epochs": 2})
    )
    assert steps == epochs != estimated(tmp_path, capsys, rule="consistent")["T_score"]


@pytest.mark.parametrize("rate_of", ["samples", "interactions"])
@pytest.mark.parametrize("rule", ["paper", "joint"])
@pytest.mark.parametrize("objective", ["bpr", "bce"])
@pytest.mark.parametrize("lifetime", [1, 3])
def test_a_run_asks_about_as_many_items(
    tmp_path: Path, capsys: Any, objective: str, rule: str, rate_of: Any, lifetime: int
) -> None:
    """A run of two epochs has one with candidates, as a variance needs two predictions."""
    data = catalog(negative_lifetime=lifetime)
    method = Method(pruning={"max_drop_rate": 0.2, "ramp_iterations": 1, "rate_of": rate_of}, rule=rule)
    quiet(tmp_path, *method.without_updates, max_epochs=2).fit(playback(data, 2, objective), data)
    pruning = VariancePruning(0.2, 1, 0.6, rate_of=rate_of)
    expected = estimated(
        tmp_path, capsys, pruning=pruning, rule=rule, epochs=1, objective=objective, lifetime=lifetime
    )["T_score"][0]
    assert len(method.scorer.pairs) == pytest.approx(expected, rel=0.1)


def test_what_it_needs(tmp_path: Path) -> None:
    data, method = catalog(), Method()
    with pytest.raises(RuntimeError, match="LLMSampleScorer must come before CostEstimate"):
        quiet(tmp_path, method.recorder, method.pruning, CostEstimate(), method.llm).fit(playback(data, 1), data)
    with pytest.raises(TypeError, match="FakeScorer asks no language model"):
        quiet(tmp_path, *method.without_updates, CostEstimate()).fit(playback(data, 1), data)
    judge = EmbeddedJudge()
    judge.scoring = "likelihood"
    with pytest.raises(TypeError, match=r"no estimate for scoring='likelihood'.*history_tokens \+ item_tokens = 576 "):
        callbacks = [SampleRecorder(), VariancePruning(0.2, 1), LLMSampleScorer(judge), CostEstimate()]
        quiet(tmp_path, *callbacks).fit(playback(data, 1), data)
