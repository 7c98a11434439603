"""The page of a report, in a real browser."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import chromium, visit
from titles import TITLES

from llmhd_pl import report, report_page
from llmhd_pl.denoising.store import CLEAN, HARD, NOISE
from llmhd_pl.files import json_text
from llmhd_pl.report_page import write_report_page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


JUDGEMENTS = [
    {"epoch": 2, "sample": 0, "user": 7, "user_id": "anna", "item": 1, "item_id": "b1", "title": "Knots", "score": 2.5},
    {"epoch": 2, "sample": 1, "user": 7, "user_id": "anna", "item": 2, "item_id": "b2", "title": "Masts", "score": 9.0},
    {"epoch": 2, "sample": 2, "user": 8, "user_id": "bob", "item": 3, "item_id": "b3", "title": "Sails", "score": None},
    {"epoch": 2, "sample": 9, "user": 8, "user_id": "bob", "item": 1, "item_id": "b1", "title": "Knots", "score": 3.0},
]
PREFERENCES: list[dict[str, Any]] = [
    {"epoch": 0, "user": 7, "cause": "summary", "after": "Likes boats."},
    {"epoch": 1, "user": 7, "cause": "revision", "disliked": ["Knots"], "before": "Likes boats.",
     "after": "Hates knots."},
]  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs; the first of the judged samples is noise, the second hard, the third easy, the fourth unknown."""
    without, with_ = tmp_path / "without", tmp_path / "with"
    for folder, values in ((without, "0.2,0.3"), (with_, "0.25,0.3")):
        folder.mkdir()
        (folder / "metrics.csv").write_text(f"epoch,test/ndcg@10,test/recall@10\n3,{values}\n")
    judgements = [row | {"kept": row["title"] == "Masts"} for row in JUDGEMENTS]
    for name, rows in (("judgements", judgements), ("preferences", PREFERENCES)):
        (with_ / f"{name}.jsonl").write_text("".join(json_text(row) + "\n" for row in rows))
    np.savez(with_ / "audit.npz", kind=[2, 1, 0], status=[NOISE, HARD, CLEAN], loss=np.ones(3))
    return without, with_


def test_it_shows_what_was_gained_dropped_judged_and_preferred(
    browser: Any, runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    report.main([str(run) for run in runs])
    assert capsys.readouterr().out.splitlines()[-1] == f"Page: {runs[1] / 'report.html'}"
    with visit(browser, runs[1] / "report.html") as seen:
        assert seen.page.title() == "Report of with, compared with without"
        assert seen.texts("h1") == ["ndcg@10 went from 0.2000 to 0.2500 (+25.0\u00a0%)"]
        rows = [re.sub(r"\s+", " ", row) for row in seen.texts(".small tbody tr")]
        assert rows == [
            *("ndcg@10 0.2000 0.2500 +25.0 %", "recall@10 0.3000 0.3000 +0.0 %"),
            *("easy 1 0 0 %", "hard 1 0 0 %", "noise 1 1 100 %"),
        ]
        assert seen.column("item") == ["Knots", "Knots", "Masts", "Sails"]  # the lowest score first, none last
        assert seen.column("user") == ["anna", "bob", "anna", "bob"]
        seen.page.get_by_role("button", name="Score", exact=True).click()
        assert seen.column("score") == ["9.0", "3.0", "2.5", ""]
        seen.page.get_by_role("button", name="Score", exact=True).click()
        assert seen.column("decision") == ["dropped", "dropped", "kept", "dropped"]
        assert seen.column("truth") == ["noise", "unknown", "hard", "easy"]
        preferences = seen.page.locator("section").last
        assert preferences.locator("td.before").all_inner_texts() == ["Likes boats.", "\N{EN DASH}"]
        assert preferences.locator("td.cause").all_inner_texts() == ["revision; disliked: Knots", "summary"]
        assert preferences.locator("td.after").all_inner_texts() == ["Hates knots.", "Likes boats."]


def test_the_samples_can_be_filtered_opened_and_exported(browser: Any, runs: tuple[Path, Path], tmp_path: Path) -> None:
    write_report_page(runs[1] / "report.html", *runs)
    with visit(browser, runs[1] / "report.html", width=400) as seen:
        seen.page.get_by_label("Decision").select_option("kept")
        assert seen.column("item") == ["Masts"]
        seen.page.locator(".open button").first.click()
        details = seen.texts(".details")[0]
        for wanted in ("anna", "Hates knots.", "b2", "Masts", "Other samples of anna (1)", "Knots", "dropped", "noise"):
            assert wanted in details
        assert seen.page.evaluate("document.documentElement.scrollWidth") == 400
        seen.page.get_by_label("Decision").select_option("")
        seen.page.get_by_label("Truth").select_option("unknown")
        seen.page.get_by_role("button", name="Select all 1").first.click()
        with seen.page.expect_download() as download:
            seen.page.get_by_role("button", name="Export 1").click()
        download.value.save_as(tmp_path / "samples.csv")
    with (tmp_path / "samples.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"user_id": "bob", "item_id": "b1", "title": "Knots", "score": "3", "decision": "dropped"}
            | {"truth": "unknown"}
        ]


def test_of_many_samples_those_with_the_lowest_scores_are_on_the_page(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (runs[1] / "judgements.jsonl").open("a") as file:  # a second one without a score
        file.write(json.dumps(JUDGEMENTS[2] | {"sample": 3, "kept": True}) + "\n")
    with (runs[1] / "preferences.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 3, "user": 8, "cause": "summary", "after": "Likes sails."}) + "\n")
    monkeypatch.setattr(report_page, "MOST_ROWS", 2)
    write_report_page(runs[1] / "report.html", *runs)
    found = re.search(r'id="data">(.*?)</script>', (runs[1] / "report.html").read_text(), re.DOTALL)
    assert found is not None
    samples, preferences = json.loads(found[1])["explorers"]
    assert samples["columns"][2]["values"] == [2.5, 3.0]
    assert samples["note"].startswith("Only the 2 with the lowest scores of all 5 samples are on this page.")
    assert preferences["columns"][0]["values"] == [1, 3]
    assert preferences["note"].startswith("Only the last 2 of all 3 preferences are on this page.")


def test_search_finds_a_user_by_what_was_told_of_them(browser: Any, runs: tuple[Path, Path]) -> None:
    write_report_page(runs[1] / "report.html", *runs)
    with visit(browser, runs[1] / "report.html") as seen:
        seen.page.get_by_label("Search").first.fill("hates")
        seen.page.wait_for_timeout(200)
        assert seen.column("user") == ["anna", "anna"]


def test_of_a_run_that_was_killed_it_shows_what_there_is(
    browser: Any, runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (runs[0] / "metrics.csv").unlink()
    (runs[1] / "audit.npz").unlink()
    with (runs[1] / "judgements.jsonl").open("a") as file:
        file.write('{"epoch": 2, "user": 7, "ti')
    report.main([str(run) for run in runs])
    with visit(browser, runs[1] / "report.html") as seen:
        assert seen.texts("h1") == ["What denoising did"]
        first, second = seen.texts(".warning")
        assert first == f"{runs[0] / 'metrics.csv'} has no test metrics."
        assert "line 5, is not whole and is left out" in second
        assert not seen.page.locator(".small").count() and "Truth" not in seen.texts("th")
        assert len(seen.column("item")) == 4


def test_of_two_empty_folders_it_says_that_there_is_nothing(browser: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    write_report_page(tmp_path / "b" / "report.html", tmp_path / "a", tmp_path / "b")
    with visit(browser, tmp_path / "b" / "report.html") as seen:
        (nothing,) = seen.texts(".empty")  # and none of the preferences, which many judges have not as texts
        assert nothing.startswith("The run has judged nothing")
        assert len(seen.texts(".warning")) == 2


def test_hostile_texts_are_shown_and_never_run(browser: Any, runs: tuple[Path, Path]) -> None:
    hostile = ["<img src=x onerror=alert(2)>", "</script><script>alert(1)</script>", *reversed(TITLES)]
    for name in ("judgements", "preferences"):
        path = runs[1] / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        texts = ("title", "user_id", "item_id", "before", "after", "disliked")
        many = [
            row | {key: [text] if key == "disliked" else text for key in texts if key in row} | {"sample": number}
            for number, text in enumerate(hostile)
            for row in rows
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in many))
    named = runs[1].rename(runs[1].with_name("<b onclick=alert(3)>"))
    write_report_page(named / "report.html", runs[0], named, ["<i>bad</i>"])
    with visit(browser, named / "report.html") as seen:
        assert seen.texts(".kind")[0].startswith("Report of <b onclick=alert(3)>")
        assert seen.texts(".warning") == ["<i>bad</i>"]
        assert not seen.page.locator("img, b, main i").count()
        seen.page.get_by_label("Search").first.fill("onerror")
        seen.page.wait_for_timeout(200)
        seen.page.locator(".open button").first.click()
        assert set(seen.column("item")) == {"<img src=x onerror=alert(2)>"}


def test_a_page_that_cannot_be_written_is_named(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    (runs[1] / "report.html").mkdir()
    report.main([str(run) for run in runs])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"No page: [Errno 21] {runs[1] / 'report.html'} could not be written")
