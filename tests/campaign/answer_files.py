"""Faults of the file of an answer cache, of what is in its place, and of its lock."""

import contextlib
import fcntl
import os
import random
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from llmhd_pl.llm import answer_file
from llmhd_pl.llm.cache import Answer, AnswerCache
from tests.campaign.case import Case
from tests.campaign.judge import Judge, filled, warned

REFUSED = "refused, naming the path and a remedy; the file stays as it was"


def foreign(make: Callable[[Path], object], kind: type[Exception], folder: Path) -> str:
    path = folder / "answers.sqlite"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    for replay in (False, True):
        with pytest.raises((kind, FileNotFoundError) if replay else kind) as caught:
            AnswerCache(path, replay)
        message = str(caught.value)
        assert str(path) in message and any(
            w in message for w in ("Move", "Give", "another", "Update", "Remove", "Check")
        )
    assert before is None or path.read_bytes() == before
    return REFUSED


def table(path: Path, statement: str, version: int = answer_file.FORMAT) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")


def damaged(damage: Callable[[Path], object], folder: Path) -> str:
    """Damage that may be harmless: whatever is then answered must be what was answered before."""
    path = folder / "answers.sqlite"
    expected = filled(path)
    damage(path)
    content = path.read_bytes()
    try:
        with warned() as caught:
            judge = Judge(path)
    except ValueError as error:
        assert str(path) in str(error) and "another path" in str(error) and path.read_bytes() == content
        return REFUSED
    aside = path.with_name("answers.sqlite.corrupt-1")
    if aside.exists():
        assert aside.read_bytes() == content and str(aside) in str(caught[0].message) and len(caught) == 1
    with warned() as caught:
        assert judge.all_answers() == expected
    assert judge.cache is not None and len(caught) <= 1
    judge.cache.close()
    assert Judge(path, replay=True).all_answers() == expected
    if aside.exists():
        return "set aside with a warning that names both files; a new cache begun"
    if judge.asked == 0:
        return "as if nothing had happened"
    assert len(caught) == (judge.asked < 9)
    return "the damaged row asked anew with one warning" if caught else "begun anew, as it is empty or another's"


def cut(share: float, path: Path) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def flip(place: int, bit: int, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def garble(there: bytes, path: Path) -> None:
    content = path.read_bytes()
    assert there in content
    path.write_bytes(content.replace(there, there[:-1] + b"~", 1))


def journal(content: bytes | None, path: Path) -> None:
    if content is None:  # of another cache, whose process was killed
        other = path.with_name("other.sqlite")
        with AnswerCache(other) as cache:
            cache.put("m", "T_score", [Answer(f"{n} {'word ' * 99}", "7.0", 1, 1) for n in range(99)])
            content = other.with_name("other.sqlite-wal").read_bytes()
    path.with_name("answers.sqlite-wal").write_bytes(content)


def lock_in_the_way(make: Callable[[Path, Path], object], folder: Path) -> str:
    path, lock, diary = folder / "answers.sqlite", folder / "answers.sqlite.lock", folder / "diary"
    diary.write_text("Dear diary")
    make(lock, diary)
    with pytest.raises(OSError, match=rf"{path} needs a file {lock}.*(Remove what is|move it)"):
        AnswerCache(path)
    assert diary.read_text() == "Dear diary" and not path.exists()
    return "refused, naming the path and a remedy; nothing is followed or emptied"


def locked_for_long(folder: Path) -> str:
    path, lock = folder / "answers.sqlite", folder / "answers.sqlite.lock"
    with lock.open("w") as other, mock.patch.multiple(answer_file, BUSY_SECONDS=0.1, SAID_AFTER_SECONDS=0.03):
        fcntl.flock(other, fcntl.LOCK_EX)
        with warned() as caught, pytest.raises(TimeoutError, match=rf"{lock} locked.*End that process"):
            AnswerCache(path)
    assert len(caught) == 1 and f"has locked {lock}" in str(caught[0].message)
    return "said after a while who is waited for; then refused, naming the lock and a remedy"


def cases() -> list[Case]:
    """Return the faults."""
    found: list[Case] = []

    def add(kind: str, check: Callable[..., str], variants: dict[str, tuple[Any, ...]]) -> None:
        found.extend(Case(kind, name, partial(check, *given)) for name, given in variants.items())

    good = answer_file._SCHEMA
    add(
        "something else in the place of answers.sqlite",
        foreign,
        {
            "a text": (lambda path: path.write_text("user\titem\n"), ValueError),
            "zeros": (lambda path: path.write_bytes(bytes(9000)), ValueError),
            "photos": (lambda path: table(path, "CREATE TABLE photos (a)", 0), ValueError),
            "photos, with our version": (lambda path: table(path, "CREATE TABLE photos (a)"), ValueError),
            "a cache of the future": (lambda path: table(path, good, 7), ValueError),
            "a table without version": (lambda path: table(path, good, 0), ValueError),
            "a column of another type": (
                lambda path: table(path, good.replace("answer TEXT", "answer REAL")),
                ValueError,
            ),
            "a column of another name": (lambda path: table(path, good.replace("prompt TEXT", "q TEXT")), ValueError),
            "a table without a key": (lambda path: table(path, good.replace(" PRIMARY KEY", "")), ValueError),
            "a view": (lambda path: table(path, "CREATE VIEW answers AS SELECT 1"), ValueError),
            "a folder": (Path.mkdir, IsADirectoryError),
            "a pipe": (os.mkfifo, FileExistsError),
            "a link to nothing": (lambda path: path.symlink_to(path.with_name("nothing")), FileNotFoundError),
            "a link to itself": (lambda path: path.symlink_to(path), OSError),
        },
    )
    shares = (0, 0.001, 0.01, 0.3, 0.5, 0.9, 0.999)
    add("answers.sqlite, cut off", damaged, {f"at {share:.1%}": (partial(cut, share),) for share in shares})
    draw = random.Random(0)
    header = {f"header, byte {place}": (partial(flip, place, draw.randrange(8)),) for place in range(0, 108, 6)}
    add("answers.sqlite, a bit flipped", damaged, header)
    pages = {
        f"page {page}, byte {place}": (partial(flip, 4096 * page + place, 1),) for page in (1, 2) for place in (0, 3, 8)
    }
    add("answers.sqlite, a bit flipped", damaged, pages)
    words = {"prompt": b"Likes birds.", "template": b"T_score", "tag of a summary": b"</summarization>"}
    words |= {"fingerprint": b'"scoring": "expected"'}
    add(
        "answers.sqlite, a character garbled", damaged, {name: (partial(garble, word),) for name, word in words.items()}
    )
    leftovers = {"nonsense": b"x" * 9000, "nothing": b"", "of another cache": None, "zeros": bytes(4096)}
    add(
        "a journal that was left over",
        damaged,
        {name: (partial(journal, content),) for name, content in leftovers.items()},
    )
    add(
        "something else in the place of the lock file",
        lock_in_the_way,
        {
            "a link": (lambda lock, diary: lock.symlink_to(diary),),
            "a link to nothing": (lambda lock, diary: lock.symlink_to(diary.with_name("nothing")),),
            "a folder": (lambda lock, diary: lock.mkdir(),),
            "a pipe": (lambda lock, diary: os.mkfifo(lock),),
        },
    )
    add("a lock that another process keeps", locked_for_long, {"for ever": ()})
    return found
