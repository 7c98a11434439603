"""The report reads what runs leave behind; nothing in it is computed anew."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from titles import TITLES, shared_titles

from llmhd_pl import report
from llmhd_pl.denoising.store import CANDIDATE, HARD, NOISE
from llmhd_pl.files import json_text
from llmhd_pl.terminal import printable


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


def test_of_a_judge_without_texts_the_users_are_shown_and_nothing_empty(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "preference" in shown(runs, capsys, monkeypatch, picture=False)
    (runs[1] / "preferences.jsonl").unlink()
    rows = [json.loads(line) for line in (runs[1] / "judgements.jsonl").read_text().splitlines()]
    rows[0]["user_id"] = "anna"
    (runs[1] / "judgements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (runs[1] / "audit.npz").unlink()
    printed = shown(runs, capsys, monkeypatch, picture=False)
    lines = [line for line in printed.splitlines() if re.search("user|Knots|Masts", line)]
    assert [re.split(r" *[│┃] *", line)[1:-1] for line in lines] == [
        ["user", "item", "score", "decision"],
        ["7", "Masts", "9.0", "kept"],
        ["anna", "Knots", "2.5", "dropped"],
    ]
    assert "preference" not in printed
    (runs[1] / "judgements.jsonl").unlink()
    assert "Suspicious samples" not in shown(runs, capsys, monkeypatch, picture=False)


CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "model": {"class_path": "llmhd_pl.MF", "init_args": {"learning_rate": 0.01}},
    "trainer": {"max_epochs": 40, "max_steps": -1, "devices": 1, "logger": {"init_args": {"name": "runs"}}},
    "denoising": None,
}


@pytest.mark.parametrize(
    ("before", "after", "differ"),
    [
        ({}, {}, ""),
        ({}, {"trainer": CONFIG["trainer"] | {"devices": 2, "logger": True}}, ""),
        ({}, {"model": {"class_path": "llmhd_pl.backbones.MF", "init_args": {"learning_rate": 0.01}}}, ""),
        ({}, {"trainer": {"max_epochs": 2, "max_steps": -1}}, "trainer.max_epochs (40 and 2)"),
        ({"seed_everything": 1}, {}, "seed_everything (1 and 0)"),
        ({"denoising": {"class_path": "llmhd_pl.methods.TCE"}}, {}, "denoising (without has TCE too)"),
        (
            {"model": {"class_path": "llmhd_pl.MF", "init_args": {"learning_rate": 0.5}}, "seed_everything": 3},
            {},
            "seed_everything (3 and 0), model.init_args.learning_rate (0.5 and 0.01)",
        ),
    ],
)
def test_what_differs_besides_denoising_is_said(
    runs: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, Any],
    after: dict[str, Any],
    differ: str,
) -> None:
    denoised = {"denoising": {"class_path": "llmhd_pl.methods.LLMHD", "init_args": {"drop_rate": 0.1}}}
    for folder, config in zip(runs, (CONFIG | before, CONFIG | denoised | after), strict=True):
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    printed = shown(runs, capsys, monkeypatch, picture=False)
    said = f"The gain is not that of the denoising alone: the runs also differ in {differ}."
    assert (said in printed) if differ else "the runs also differ" not in printed
    if differ:
        assert said in (runs[1] / "report.html").read_text()


@pytest.mark.parametrize("text", ["", "[", "trainer: 3", "null"])
def test_settings_that_cannot_be_read_are_named(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (runs[0] / "config.yaml").write_text(text)
    assert f"{runs[0] / 'config.yaml'} cannot be read" in shown(runs, capsys, monkeypatch, picture=False)


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


# Runs that were not one uninterrupted process


def shown(
    runs: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    picture: bool = True,
) -> str:
    """What the report prints: no line break in a row, and nothing that a terminal would obey."""
    monkeypatch.setenv("COLUMNS", "400")
    if not picture:  # it takes most of the time
        monkeypatch.setattr(report, "plot", lambda *_: "not drawn")
    report.main([str(run) for run in runs])
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.split("\n"))
    return printed


METRICS: dict[str, tuple[str | None, str | None]] = {
    "no file": (None, None),
    "nothing in it": ("", None),
    "a header alone": ("epoch,test/ndcg@10\n", None),
    "half a header": ("epoch,test/nd", None),
    "no test columns": ("epoch,val/ndcg@10\n0,0.1\n", None),
    "no test rows": ("epoch,test/ndcg@10\n0,\n1,\n", None),
    "half of the only number": ("epoch,test/ndcg@10\n3,0.25", None),
    "half of a later row": ("epoch,test/ndcg@10\n3,0.25\n3,0.2", "0.2500"),
    "tested twice": ("epoch,test/ndcg@10\n3,0.25\n3,0.25\n4,0.28\n", "0.2800"),
    "trained on after the test": ("epoch,test/ndcg@10,val/x\n3,0.25,\n4,,0.1\n", "0.2500"),
    "a row that is too long": ("epoch,test/ndcg@10\n3,0.25\n4,0.26,7,8\n", "0.2500"),
    "the header again": ("epoch,test/ndcg@10\n3,0.25\nepoch,test/ndcg@10\n", "0.2500"),
    "infinity": ("epoch,test/ndcg@10\n3,inf\n", None),
    "a word": ("epoch,test/ndcg@10\n3,banana\n", None),
    "bytes": ("\udcff\udcfe\x00\x01\n\x00\n", None),
    "line breaks of Windows": ("epoch,test/ndcg@10\r\n3,0.25\r\n", "0.2500"),
}


@pytest.mark.parametrize("fault", METRICS)
def test_metrics_of_a_run_that_was_killed_or_resumed(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    content, wanted = METRICS[fault]
    file = runs[1] / "metrics.csv"
    file.unlink() if content is None else file.write_bytes(content.encode(errors="surrogateescape"))
    printed = shown(runs, capsys, monkeypatch)
    assert (wanted in printed) if wanted else (f"{file} has no test metrics" in printed and "gain" not in printed)
    assert "Knots" in printed and "Picture: " in printed


@pytest.mark.parametrize("name", ["judgements", "preferences"])
@pytest.mark.parametrize(
    "line", ['{"epoch": 2, "user": 7, "ti', "null", "[]", "7", "{}", '"a', "\x00\x00", '{"epoch": "2", "user": 7}']
)
@pytest.mark.parametrize("place", ["last", "first"])
def test_a_line_that_is_not_whole_is_left_out_and_named(
    runs: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    line: str,
    place: str,
) -> None:
    file = runs[1] / f"{name}.jsonl"
    whole = file.read_text()
    number = whole.count("\n") + 1 if place == "last" else 1
    file.write_text(whole + line if place == "last" else f"{line}\n{whole}")
    printed = shown(runs, capsys, monkeypatch, picture=False)
    assert printed.count(f"{file}, line {number}, is not whole and is left out") == 1
    assert ("the run was killed" in printed) == (place == "last")
    assert "Knots" in printed and "Masts" in printed and "Likes boats." in printed


def test_all_processes_of_a_run_are_shown_together(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs[1]
    audit = dict(np.load(folder / "audit.npz"))
    status = np.zeros(90)
    status[2:60:3], status[1:10:3] = NOISE, CANDIDATE
    for rank in (0, 1):
        mine = np.arange(90) % 2 == rank
        part = {"status": np.where(mine, status, 0), "loss": np.where(mine, 1, np.nan)}
        np.savez(folder / f"audit-rank{rank}.npz", **audit | part)
        for name in ("judgements", "preferences"):
            lines = (folder / f"{name}.jsonl").read_text().splitlines()
            # The first is known to both: they went on from a checkpoint that has it.
            own = [*lines[:1], *lines[1 + rank :: 2]] if name == "preferences" else lines[rank::2]
            (folder / f"{name}-rank{rank}.jsonl").write_text("".join(line + "\n" for line in own))
    for name in ("judgements.jsonl", "preferences.jsonl", "audit.npz"):
        (folder / name).unlink()
    printed = shown(runs, capsys, monkeypatch)
    assert "Knots" in printed and "Masts" in printed and "1 of 1 revised preferences" in printed
    both = report.read_audit(folder)
    assert both is not None and (both["status"] == status).all()
    assert [row["cause"] for row in report.read_preferences(folder)] == ["summary", "revision"]


def test_of_a_run_that_went_on_with_other_processes_the_last_epoch_is_shown(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"epoch": 9, "sample": 5, "user": 7, "item": 1, "title": "Sails", "score": 3.5, "kept": False}
    (runs[1] / "judgements-rank0.jsonl").write_text(json.dumps(row) + "\n")
    printed = shown(runs, capsys, monkeypatch)
    assert "Sails" in printed and "Masts" not in printed


def spoil(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **dict(np.load(path)) | arrays)


AUDITS: dict[str, Any] = {
    "nothing in it": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:200] + b"\xff\xff" + path.read_bytes()[202:]),
    "a text": lambda path: path.write_text("audit"),
    "a pickle": lambda path: path.write_bytes(b"\x80\x04N."),
    "one array": lambda path: np.save(path.open("wb"), np.ones(3)),
    "no status": lambda path: np.savez(path, kind=np.zeros(90)),
    "other lengths": lambda path: spoil(path, status=np.zeros(89)),
    "two dimensions": lambda path: spoil(
        path, kind=np.zeros((90, 2)), status=np.zeros((90, 2)), loss=np.zeros((90, 2))
    ),
    "kind 3": lambda path: spoil(path, kind=np.full(90, 3)),
    "status -1": lambda path: spoil(path, status=np.full(90, -1)),
    "NaN": lambda path: spoil(path, status=np.full(90, np.nan)),
    "texts": lambda path: spoil(path, kind=np.array(["easy"] * 90)),
    "objects": lambda path: spoil(path, kind=np.array([None] * 90)),
}


@pytest.mark.parametrize("fault", AUDITS)
def test_an_audit_that_cannot_be_right_is_named_and_the_rest_is_shown(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    AUDITS[fault](runs[1] / "audit.npz")
    printed = shown(runs, capsys, monkeypatch)
    assert f"{runs[1] / 'audit.npz'} cannot be read, so nothing is shown of the audit" in printed
    assert "Knots" in printed and "+25.0%" in printed and "No picture" in printed


def test_an_audit_of_other_data_tells_no_truth(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(runs[1] / "audit.npz", kind=np.zeros(1), status=np.zeros(1))  # and sample 1 has been judged
    assert "Masts" in shown(runs, capsys, monkeypatch)


def test_what_cannot_be_read_or_written_is_said(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (runs[1] / "report.png").mkdir()
    assert f"No picture: [Errno 21] {runs[1] / 'report.png'} could not be written" in shown(runs, capsys, monkeypatch)
    with pytest.raises(SystemExit):
        report.main([str(runs[0]), str(runs[1] / "nowhere")])
    assert f"there is no folder {runs[1] / 'nowhere'}: give the folders of two runs" in capsys.readouterr().err


# Titles


@pytest.mark.parametrize("title", TITLES + shared_titles())
def test_a_report_survives_every_title(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, title: str
) -> None:
    files = {}
    for name in ("judgements", "preferences"):
        path = runs[1] / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row |= {key: title for key in ("title", "after", "before") if key in row}
            row |= {"disliked": [title, "Knots"]} if "disliked" in row else {}
        rows[-1]["after"] = f"{title} and boats"
        files[path] = rows
    for write in (json_text, json.dumps, lambda row: json.dumps(row, ensure_ascii=False)):  # by us, and by others
        for path, rows in files.items():
            path.write_bytes("".join(write(row) + "\n" for row in rows).encode(errors="backslashreplace"))
        printed = shown(runs, capsys, monkeypatch, picture=False)
        assert "is left out" not in printed and printed.count("dropped") == 1 and "9.0" in printed
        if len(title) < 100:
            assert printable(f"{title} and boats") in printed and printable(f"disliked: {title}, Knots") in printed


def test_a_report_survives_the_names_of_its_runs(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = "_[off]$x^{", "[bold] \x1b[31m$\\frac$"
    renamed = runs[0].rename(tmp_path / names[0]), runs[1].rename(tmp_path / names[1])
    printed = shown(renamed, capsys, monkeypatch)
    assert names[0] in printed and printable(names[1]) in printed and "Picture: " in printed


def test_a_terminal_that_knows_few_characters_is_no_error(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    row = {"epoch": 2, "sample": 0, "user": 7, "item": 1, "title": "Köln", "score": 2.5, "kept": False}
    (runs[1] / "judgements.jsonl").write_text(json.dumps(row) + "\n")
    report.main([str(run) for run in runs])
    output.flush()
    assert rb"K\xf6ln" in output.buffer.getvalue()  # type: ignore[attr-defined]
