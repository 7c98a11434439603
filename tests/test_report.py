"""The report reads what runs leave behind; nothing in it is computed anew."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmhd_pl import report
from llmhd_pl.denoising.store import CANDIDATE, HARD, NOISE


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A run without and a run with LLMHD, as small as they can be."""
    without, with_ = tmp_path / "without", tmp_path / "with"
    without.mkdir()
    with_.mkdir()
    pd.DataFrame([{"epoch": 0, "test/ndcg@10": 0.2}]).to_csv(without / "metrics.csv", index=False)
    rows = [
        {"epoch": epoch, "denoise/dropped": 2.0 + epoch, "denoise/hard": 1.0}
        | {f"audit/dropped_is_noise_{name}": 0.5 for name in ("precision", "recall")}
        for epoch in range(3)
    ]
    pd.DataFrame([*rows, {"epoch": 3, "test/ndcg@10": 0.25}]).to_csv(with_ / "metrics.csv", index=False)
    preferences = [
        {"epoch": 0, "user": 7, "cause": "summary", "after": "Likes boats."},
        {"epoch": 1, "user": 7, "cause": "revision", "disliked": ["Knots"], "before": "Likes boats.", "after": "None."},
    ]
    judgements = [
        {"epoch": 2, "sample": 0, "user": 7, "item": 1, "title": "Knots", "score": 2.5, "kept": False},
        {"epoch": 2, "sample": 1, "user": 7, "item": 2, "title": "Masts", "score": 9.0, "kept": True},
        {"epoch": 2, "sample": 2, "user": 7, "item": 3, "title": "Untold", "score": None, "kept": False},
    ]
    for name, lines in (("preferences", preferences), ("judgements", judgements)):
        (with_ / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    generator = np.random.default_rng(0)
    np.savez(
        with_ / "audit.npz",
        kind=np.arange(90) % 3,
        status=np.zeros(90),
        loss=np.ones(90),
        variance=generator.random(90),
    )
    return without, with_


def test_it_prints_metrics_judgements_and_preferences(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("sys.argv", ["report", *map(str, runs)])
    report.main()
    printed = capsys.readouterr().out
    for wanted in ("0.2000", "0.2500", "+25.0%", "Knots", "2.5", "dropped", "Masts", "kept", "hard", "disliked: Knots"):
        assert wanted in printed
    assert "Untold" not in printed  # nothing was answered
    assert (runs[1] / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_was_not_tested_is_named_and_the_rest_is_shown(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.read_csv(runs[1] / "metrics.csv")
    table.drop(columns="test/ndcg@10").to_csv(runs[1] / "metrics.csv", index=False)
    (runs[1] / "audit.npz").unlink()
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("sys.argv", ["report", *map(str, runs)])
    report.main()
    printed = capsys.readouterr().out
    assert "metrics.csv has no test metrics" in printed and "What denoising gained" not in printed
    assert "Knots" in printed and "No picture: it needs NoiseAudit" in printed


def test_the_picture_shows_what_was_gained_and_what_was_dropped(runs: tuple[Path, Path]) -> None:
    from matplotlib import pyplot

    audit = dict(np.load(runs[1] / "audit.npz"))
    status = np.zeros(90)
    status[2:60:3], status[1:10:3], status[80] = NOISE, CANDIDATE, HARD  # 20 of 30 noisy, 3 of 30 hard ones dropped
    np.savez(runs[1] / "audit.npz", **audit | {"status": status})
    figure, (left, right) = pyplot.subplots(1, 2)
    report.plot_gain(left, *runs)
    assert [bar.get_height() for bar in left.patches] == [0.2, 0.25]
    assert [text.get_text() for text in left.texts] == ["+25%"]
    report.plot_dropped(right, runs[1])
    assert [text.get_text().strip() for text in right.texts] == [
        *("0 of 30 dropped (0%)", "3 of 30 dropped (10%)", "20 of 30 dropped (67%)")
    ]
    assert [label.get_text() for label in right.get_yticklabels()] == ["easy", "hard", "noise"]
    assert right.get_title() == "What was dropped: 87% of it is noise"
    pyplot.close(figure)


def test_a_run_without_decisions_or_tests_has_a_picture_too(runs: tuple[Path, Path]) -> None:
    pd.DataFrame([{"epoch": 0, "val/ndcg@10": 0.2}]).to_csv(runs[0] / "metrics.csv", index=False)
    np.savez(runs[1] / "audit.npz", kind=np.arange(90) % 2 * 2, status=np.zeros(90))
    assert report.plot(*runs).read_bytes().startswith(b"\x89PNG")


def test_what_is_only_known_not_to_be_noise_is_not_called_easy() -> None:
    assert report.kinds(np.array([0, 2, 1])) == ("easy", "hard", "noise")
    assert report.kinds(np.array([0, 2, 0])) == ("not noise", "hard", "noise")
