"""Faults of caches and of the files beside a run: rows, files, links, locks, disks, tensors, imports, reports."""

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from llmhd_pl.llm.cache import AnswerCache, MissingAnswersError
from tests.campaign import answer_files, side_files, tensors
from tests.campaign.case import Case
from tests.campaign.judge import Judge, filled, warned


def invalid_row(column: str, value: object, template: str, folder: Path) -> str:
    path = folder / "answers.sqlite"
    expected = filled(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        raw = isinstance(value, str) and value.startswith("CAST")
        statement = f"UPDATE answers SET {column} = {value if raw else '?'} WHERE template = ?"
        connection.execute(statement, (template,) if raw else (value, template))
        connection.commit()
    with pytest.raises(ValueError, match=rf"{path}, row \d+ of the table answers: .*Take a sound copy"):
        Judge(path, replay=True).all_answers()
    judge = Judge(path)
    with warned() as caught:
        assert judge.all_answers() == expected and judge.all_answers() == expected
    assert len(caught) == 1 and f"{path} has " in str(caught[0].message) and "row " in str(caught[0].message)
    assert judge.asked == (8 if template == "T_score" else 1)
    with warned() as caught:
        assert Judge(path, replay=True).all_answers() == expected and not caught
    return "asked anew with one warning, and replaced; in a replay refused, naming file and row"


class Broken(sqlite3.Connection):
    """A connection of which some statements fail."""

    fails, error = "", ""

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        if Broken.fails and statement.startswith(Broken.fails):
            raise sqlite3.OperationalError(Broken.error)
        return super().execute(statement, *arguments)


def unwritable(statement: str, error: str, folder: Path) -> str:
    path, connect = folder / "answers.sqlite", sqlite3.connect
    with (
        mock.patch.object(sqlite3, "connect", lambda *given, **named: connect(*given, **named, factory=Broken)),
        mock.patch.multiple(Broken, fails="", error=error),
    ):
        judge = Judge(path)
        Broken.fails = statement
        with warned() as caught:
            expected = judge.all_answers()
            assert judge.all_answers() == expected and judge.asked == 9
        assert len(caught) == 1 and f"{path} cannot be written ({error})" in str(caught[0].message)
        assert "Free space" in str(caught[0].message)
        Broken.fails = ""
        assert judge.cache is not None
        judge.cache.close()
    assert Judge(path, replay=True).all_answers() == expected
    return "one warning with path and remedy; answers kept in memory, written when possible"


WRITER = """
import sys
from llmhd_pl.llm.cache import Answer, AnswerCache
with AnswerCache(sys.argv[1]) as cache:
    for number in range(20):
        cache.put("m", "T_score", [Answer(f"{number} {name}", "7.0", 1, 1) for name in ("common", sys.argv[2])])
"""


def at_once(corrupt: bool, folder: Path) -> str:
    path = folder / "answers.sqlite"
    if corrupt:
        path.write_bytes(b"SQLite format 3\0" + bytes(5000))
    commands = [[sys.executable, "-W", "ignore", "-c", WRITER, str(path), name] for name in ("one", "two")]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(60) for process in processes] == [0, 0]
    with AnswerCache(path, replay=True) as cache:
        assert len(cache) == 60
        cache.get("m", [f"{number} {name}" for number in range(20) for name in ("common", "one", "two")])
    assert len(list(folder.glob("*.corrupt-*"))) == corrupt
    return "no answer lost, none twice"


LINE = {"fingerprint": '{"scoring": "expected"}', "template": "T_score", "prompt": "p", "answer": "7.5"}


def imported(line: bytes, folder: Path) -> str:
    file, good = folder / "a.jsonl", json.dumps(LINE | {"prompt_tokens": 1, "answer_tokens": 1}).encode()
    file.write_bytes(good + b"\n" + line)
    with AnswerCache(folder / "answers.sqlite") as cache:
        with pytest.raises(ValueError, match=rf"{file}, line 2: .*Nothing was imported"):
            cache.import_jsonl(file)
        assert len(cache) == 0
        file.write_bytes(good)
        assert cache.import_jsonl(file) == 1 and cache.get(LINE["fingerprint"], ["p"]) == {"p": "7.5"}
    return "refused, naming file and line; nothing was imported"


def missing(folder: Path) -> str:
    path = folder / "answers.sqlite"
    filled(path)
    with (
        AnswerCache(path, replay=True) as cache,
        pytest.raises(MissingAnswersError, match=rf"{path} has no answer to 1"),
    ):
        cache.get("m", ["never asked"])
    return "refused, naming file and prompt"


def cases() -> list[Case]:
    """Return the faults of caches, side files and reports."""
    found: list[Case] = []

    def add(kind: str, check: Callable[..., str], variants: dict[str, tuple[Any, ...]]) -> None:
        found.extend(Case(kind, name, partial(check, *given)) for name, given in variants.items())

    bad = ("1000.0", "inf", "nan", "-50", "0.99", "banana", "", "<s>7</s>", "7,5")
    score = {f"a score {value!r}": ("answer", value, "T_score") for value in bad}
    texts = {f"a summary {value!r}": ("answer", value, "T_sum") for value in ("No tags.", "", "7.5", "<summarization>")}
    columns = {"a blob": ("answer", b"7.0"), "invalid UTF-8": ("answer", "CAST(x'37ff' AS TEXT)")}
    columns |= {"tokens as text": ("prompt_tokens", "x"), "negative tokens": ("answer_tokens", -1)}
    columns |= {"1e30 tokens": ("answer_tokens", 1e30), "another prompt": ("prompt", "q")}
    columns |= {"another fingerprint": ("fingerprint", "m"), "another template": ("template", "T_FP")}
    rows = score | texts | {f"{name} in T_score": (*given, "T_score") for name, given in columns.items()}
    add("a row of answers.sqlite that no model can have answered", invalid_row, rows)

    errors = {"full": ("INSERT", "database or disk is full"), "full at the end": ("COMMIT", "database or disk is full")}
    errors |= {"locked": ("BEGIN", "database is locked"), "broken": ("INSERT", "disk I/O error")}
    errors |= {"read-only": ("BEGIN", "attempt to write a readonly database")}
    add("a cache that cannot be written during a run", unwritable, errors)
    add("two processes with one cache", at_once, {"new": (False,), "corrupt": (True,)})
    whole = json.dumps(LINE | {"prompt_tokens": 1, "answer_tokens": 1})
    lines = {"half": whole[:-9].encode(), "no UTF-8": whole.encode().replace(b"7.5", b"\xff"), "a list": b"[]"}
    lines |= {"a score of 1000": whole.replace("7.5", "1000.0").encode(), "a word": whole.replace("7.5", "x").encode()}
    lines |= {
        "tags": whole.replace("7.5", "<s>7</s>").encode(),
        "1e30 tokens": whole.replace(": 1,", ": 1e30,").encode(),
    }
    lines |= {
        "a key too many": whole.replace("{", '{"x": 1, ', 1).encode(),
        "2^64 tokens": whole.replace(": 1}", f": {2**64}}}").encode(),
    }
    add("an import with a line that is no answer", imported, {name: (line,) for name, line in lines.items()})
    add("a replay without an answer", missing, {"never asked": ()})
    return [*found, *answer_files.cases(), *tensors.cases(), *side_files.cases()]
