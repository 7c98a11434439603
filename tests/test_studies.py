"""The studies' parts, on less data; their figures stand in docs/studies."""

import sys
from pathlib import Path
from typing import Any

import pytest

from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.llm.lexical import LexicalScorer
from llmhd_pl.llm.prompts import Prompts

sys.path.insert(0, str(Path(__file__).parent.parent / "studies"))
import drift
import prompts
import variance


def test_updates_are_never_told_of_what_preferences_are_judged_by() -> None:
    readers = drift.Readers(20)
    judged = {tuple(pair) for pair in [*readers.liked.tolist(), *readers.not_liked.tolist()]}
    for user in readers.histories:
        tastes = set(readers.data.tastes[user].tolist())
        for update in range(1, 11):
            for truth in (1.0, 0.0):
                disliked, liked = readers.told(user, truth, update)
                assert not judged & {(user, item) for item in disliked + liked}
                assert all((int(readers.data.topics[item]) in tastes) == (truth == 1) for item in liked)
                assert all((int(readers.data.topics[item]) in tastes) == (truth == 0) for item in disliked)


def test_wrong_flags_spoil_what_correct_flags_improve() -> None:
    readers, scorer = drift.Readers(40), LexicalScorer()
    scorer.prepare(readers.data.interactions.items, readers.train)
    correct, wrong = (drift.study(scorer, readers, truth) for truth in (1.0, 0.0))
    assert [row["update"] for row in correct] == list(range(11))
    assert correct[0] == wrong[0] and correct[0]["as before"] == correct[0]["as in the beginning"] == 1
    assert correct[10]["AUC"] > correct[0]["AUC"] > wrong[10]["AUC"]


def test_other_wordings_are_whole_prompts(tmp_path: Path) -> None:
    hashes = {Prompts.load("books").hash}
    for text in (prompts.reworded(), prompts.upside_down()):
        path = tmp_path / f"{len(hashes)}.toml"
        path.write_text(text, encoding="utf-8")
        hashes.add(Prompts.load(str(path)).hash)
    assert len(hashes) == 3
    scale = [line for line in prompts.upside_down().splitlines() if line[:2] in ("10", "9:", "1:")]
    assert [line.partition(":")[0] for line in scale] == ["10", "9", "1"]


def test_variances_of_the_kinds_are_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(variance, "EPOCHS", (3, 6))
    data = SyntheticCatalog(60, 80, num_topics=8, books_per_reader=12, misclick_share=0.4, negative_lifetime=1)
    look = variance.study(data, "MF", seed=0)
    assert [(row["epochs"], row["m"]) for row in look.rows] == [(e, m) for e in (3, 6) for m in variance.WINDOWS]
    assert all(0 <= row["AUC, all"] <= 1 for row in look.rows)
    assert [len(look.shown[kind]) for kind in ("easy", "hard", "noise")] == [
        int((data.train_kinds == kind).sum()) for kind in range(3)
    ]
