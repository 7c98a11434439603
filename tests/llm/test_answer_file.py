import contextlib
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


# What is somebody else's, or in the way


def columns(path: Path, statement: str, version: int = answer_file.FORMAT) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")


GOOD = answer_file._SCHEMA
FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a text": (lambda path: path.write_text("user\titem\n1\t2\n"), r"not even an SQLite file.*Move it away"),
    "zeros": (lambda path: path.write_bytes(bytes(8192)), r"not even an SQLite file.*Move it away"),
    "photos": (lambda path: columns(path, "CREATE TABLE photos (a)", 0), r"no table answers.*Move it away"),
    "photos, version 1": (lambda path: columns(path, "CREATE TABLE photos (a)"), r"no table answers.*Move it away"),
    "photos, version 9": (lambda path: columns(path, "CREATE TABLE photos (a)", 9), r"no table answers.*Move it away"),
    "no version": (lambda path: columns(path, GOOD, 0), r"user_version is 0, not 1.*Move it away"),
    "of the future": (lambda path: columns(path, GOOD, 2), r"newer version.*format is 2.*reads 1.*Update llmhd-pl"),
    "a type": (lambda path: columns(path, GOOD.replace("answer TEXT", "answer REAL")), r"answer REAL not null"),
    "nulls": (lambda path: columns(path, GOOD.replace("answer TEXT NOT NULL", "answer TEXT")), r"columns of its table"),
    "a name": (lambda path: columns(path, GOOD.replace("prompt TEXT", "question TEXT")), r"question TEXT not null"),
    "no key": (lambda path: columns(path, GOOD.replace(" PRIMARY KEY", "")), r"columns of its table.*Move it away"),
    "one more": (
        lambda path: columns(
            path, GOOD.replace("key BLOB", "key BLOB, x INT").replace(", x INT PRIMARY KEY", " PRIMARY KEY, x INT")
        ),
        r"x INT",
    ),
    "a view": (lambda path: columns(path, "CREATE VIEW answers AS SELECT 1 AS key"), r"columns of its table"),
}


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_that_is_no_answer_cache_is_refused_with_a_remedy_and_stays(
    tmp_path: Path, name: str, replay: bool
) -> None:
    path = tmp_path / "answers.sqlite"
    make, message = FOREIGN[name]
    make(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"{path} is .*{message}"):
        AnswerCache(path, replay)
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} <= {path.name, f"{path.name}.lock"}


def test_what_is_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=rf"{path} is a folder. Give the path of a file"):
        AnswerCache(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(FileExistsError, match=rf"{path} is not a file. Move it away"):
        AnswerCache(path)
    path.unlink()
    path.write_text("a file")
    with pytest.raises(OSError, match=rf"answer cache {path}/in/a.sqlite needs a file .*give the cache another path"):
        AnswerCache(path / "in" / "a.sqlite")


def test_a_symbolic_link_is_followed_to_a_cache_and_nowhere_else(tmp_path: Path) -> None:
    path, target = tmp_path / "answers.sqlite", tmp_path / "big disk" / "answers.sqlite"
    path.symlink_to(target)
    with pytest.raises(FileNotFoundError, match=rf"{path} is a symbolic link to {target}, where nothing is. Remove"):
        AnswerCache(path)
    assert not target.parent.exists()
    with AnswerCache(target) as cache, AnswerCache(path) as same:
        cache.put("model", "T_score", answers("a"))
        assert same.get("model", ["a"]) and path.is_symlink()
    garbage(target)
    with pytest.warns(UserWarning, match=r"is corrupt"):
        AnswerCache(path).close()
    assert path.is_symlink() and target.with_name("answers.sqlite.corrupt-1").read_bytes().endswith(b"no database ")
    target.write_text("a diary")
    with pytest.raises(ValueError, match="not even an SQLite file"):
        AnswerCache(path)
    assert target.read_text() == "a diary"


# The lock file


@pytest.mark.parametrize("kind", ["link", "link to nothing", "folder", "pipe", "hard link"])
def test_a_lock_file_that_is_something_else_is_neither_followed_nor_emptied(tmp_path: Path, kind: str) -> None:
    path, lock, diary = (tmp_path / name for name in ("answers.sqlite", "answers.sqlite.lock", "diary"))
    if kind != "link to nothing":
        diary.write_text("Dear diary")
    if kind == "hard link":
        lock.hardlink_to(diary)
        AnswerCache(path).close()
    else:
        make = {"folder": lock.mkdir, "pipe": lambda: os.mkfifo(lock)}.get(kind, lambda: lock.symlink_to(diary))
        make()
        with pytest.raises(OSError, match=rf"The answer cache {path} needs a file {lock}.*(Remove what is|move it)"):
            AnswerCache(path)
        assert not path.exists()
    assert diary.read_text() == "Dear diary" if kind != "link to nothing" else not diary.exists()


def test_who_is_waited_for_is_said_and_the_waiting_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(answer_file, "SAID_AFTER_SECONDS", 0.05)
    monkeypatch.setattr(answer_file, "BUSY_SECONDS", 0.2)
    path.parent.mkdir()
    lock = path.with_name("answers.sqlite.lock")
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with (
            pytest.raises(TimeoutError, match=rf"kept {lock} locked for 0.2 seconds.*End that process"),
            pytest.warns(UserWarning, match=rf"Waiting for another process, which has locked {lock}") as caught,
        ):
            AnswerCache(path)
        assert len(caught) == 1 and not path.exists()
    AnswerCache(path).close()


def test_a_file_system_without_locks_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match=r"sqlite.lock cannot be locked .No locks available.*such as a local disk"):
        AnswerCache(path)


# A file that cannot be written any more


class Full(sqlite3.Connection):
    """A connection to a file on a disk that is full."""

    full = False

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        if Full.full and statement.startswith("INSERT"):
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(statement, *arguments)


def test_answers_that_cannot_be_written_are_kept_and_written_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **named: connect(*given, **named, factory=Full))
    monkeypatch.setattr(Full, "full", False)
    cache = AnswerCache(path)
    cache.put("model", "T_score", answers("a"))
    Full.full = True
    with pytest.warns(UserWarning, match=rf"{path} cannot be written .*disk is full.*in memory.*Free space") as caught:
        cache.put("model", "T_score", answers("b", answer="<s>2</s>"))
        cache.put("model", "T_score", answers("c", "b"))
        assert cache.get("model", ["a", "b", "c"]) == {"a": "<s>7</s>", "b": "<s>2</s>", "c": "<s>7</s>"}
    assert len(caught) == 1
    with AnswerCache(path, replay=True) as other:
        assert len(other) == 1
    Full.full = False
    cache.put("model", "T_score", answers("d"))
    cache.close()
    with AnswerCache(path, replay=True) as other:
        assert len(other.get("model", ["a", "b", "c", "d"])) == 4


def test_a_cache_that_another_process_locks_during_a_run_costs_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_file, "BUSY_SECONDS", 0.1)
    with AnswerCache(path) as cache, AnswerCache(path) as other:
        with other.transaction(), pytest.warns(UserWarning, match=r"cannot be written .database is locked"):
            cache.put("model", "T_score", answers("a"))
        assert cache.get("model", ["a"]) == other.get("model", ["a"]) == {"a": "<s>7</s>"}  # written by the first get


def test_a_cache_that_is_spoiled_during_a_run_is_named(path: Path) -> None:
    with AnswerCache(path) as cache:
        cache.put("model", "T_score", answers(*(f"prompt {n} {'word ' * 50}" for n in range(500))))
        cache.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        cache.connection.execute("PRAGMA shrink_memory")  # what SQLite has in memory it does not read again
        torn_page(path)
        with pytest.raises(
            sqlite3.DatabaseError, match=rf"The answer cache {path} cannot be used.*Start the run again"
        ):
            cache.get("model", [f"prompt {n} {'word ' * 50}" for n in range(500)])


def test_a_file_that_may_not_be_opened_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    AnswerCache(path).close()
    monkeypatch.setattr(sqlite3, "connect", refuse)
    for replay in (False, True):
        with pytest.raises(
            sqlite3.OperationalError, match=rf"{path} cannot be used: unable to open.*give another path"
        ):
            AnswerCache(path, replay)
