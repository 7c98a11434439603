import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmhd_pl.llm import answer_file
from llmhd_pl.llm.cache import Answer, AnswerCache


def answers(*prompts: str, answer: str = "<s>7</s>") -> list[Answer]:
    return [Answer(prompt, answer, 12, 3) for prompt in prompts]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "answers.sqlite"


def test_a_system_without_file_locks_can_replay_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AnswerCache(path) as cache:
        cache.put("model", "T_score", answers("a"))
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(RuntimeError, match="Linux, macOS or WSL"):
        AnswerCache(path)
    with AnswerCache(path, replay=True) as cache:
        assert cache.get("model", ["a"]) == {"a": "<s>7</s>"}


def test_another_programs_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "photos.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
    connection.close()
    before = path.read_bytes()
    for replay in (False, True):
        with pytest.raises(ValueError, match=r"photos.sqlite is an SQLite file, but not an answer cache"):
            AnswerCache(path, replay)
    assert path.read_bytes() == before


# Corrupt files


def garbage(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"no database " * 1000)


def truncated(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def torn_page(path: Path) -> None:
    """The first pages are whole, so that nothing but a check of all pages sees it."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 3 * 4096)
        file.write(os.urandom(2 * 4096))


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


DAMAGES = (garbage, truncated, torn_page, cut_header)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupt_file_is_set_aside_with_a_warning(path: Path, damage: Callable[[Path], None]) -> None:
    for number in (1, 2):
        with AnswerCache(path) as cache:
            cache.put("model", "T_score", answers(*(f"prompt {n} {'word ' * 50}" for n in range(500))))
        damage(path)
        damaged = path.read_bytes()
        aside = path.with_name(f"answers.sqlite.corrupt-{number}")
        with pytest.warns(UserWarning, match="is corrupt") as caught:
            cache = AnswerCache(path)
        (warning,) = caught
        assert f"{path} is corrupt" in str(warning.message) and f"renamed to {aside}," in str(warning.message)
        assert warning.filename == __file__
        assert aside.read_bytes() == damaged
        assert len(cache) == 0
        cache.put("model", "T_score", answers("a"))
        cache.close()
    assert path.with_name("answers.sqlite.corrupt-1").exists()  # the second did not replace the first


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupt_file_is_not_replayed_and_stays(path: Path, damage: Callable[[Path], None]) -> None:
    with AnswerCache(path) as cache:
        cache.put("model", "T_score", answers(*(f"prompt {n} {'word ' * 50}" for n in range(500))))
    damage(path)
    with pytest.raises(ValueError, match=r"answers.sqlite is corrupt .* cannot be replayed"):
        AnswerCache(path, replay=True)
    assert not path.with_name("answers.sqlite.corrupt-1").exists()


def test_the_journal_of_a_corrupt_file_goes_along(path: Path) -> None:
    with AnswerCache(path) as other:  # a process that goes on: it keeps its journal in use
        other.put("model", "T_score", answers(*(f"prompt {n} {'word ' * 50}" for n in range(500))))
        other.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.put("model", "T_score", answers("a"))
        torn_page(path)
        journal = path.with_name("answers.sqlite-wal").read_bytes()
        assert journal
        with pytest.warns(UserWarning, match="is corrupt"):
            cache = AnswerCache(path)
        assert path.with_name("answers.sqlite.corrupt-1-wal").read_bytes() == journal
        assert path.with_name("answers.sqlite.corrupt-1-shm").exists()
        cache.put("model", "T_score", answers("b"))
        cache.close()
    with AnswerCache(path) as cache:
        assert cache.get("model", ["a", "b"]) == {"b": "<s>7</s>"}


def test_a_locked_file_is_not_corrupt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE answers (key)")
    other.execute(f"PRAGMA user_version = {answer_file.FORMAT}")
    other.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(answer_file, "BUSY_SECONDS", 0.1)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        AnswerCache(path)
    assert path.exists() and not path.with_name("answers.sqlite.corrupt-1").exists()
