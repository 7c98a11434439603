"""Faults of what is written beside a run, and of the report that reads it."""

import errno
import io
import json
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from llmhd_pl import report
from llmhd_pl.files import whole_file, write_or_warn
from llmhd_pl.llm.judgements import Judgements
from llmhd_pl.llm.lexical import LexicalScorer
from tests.campaign.case import Case

TITLES = {
    "half a character": "Half \ud800",
    "a line separator": "a\u2028b",
    "a paragraph separator": "a\u2029b",
    "next line": "a\u0085b",
    "a closing tag of markup": "Sale [/off]",
    "a link in markup": "[link=x]y[/link]",
    "a terminal's command": "\x1b[31mred\x1b[0m",
    "a change of direction": "\u202eright to left",
    "a form feed": "a\x0cb",
    "line breaks": "a\r\nb",
    "nothing": "",
    "white space": "   ",
    "symbols": "*",
}


def judged(folder: Path, title: str) -> Judgements:
    """Write what a run writes about items of one title."""
    users, items = torch.arange(6) // 2, torch.arange(6)
    judgements = Judgements(LexicalScorer(), [{"title": title}] * 6, users, items)
    judgements.write_preferences(folder / "preferences.jsonl")
    judgements.preferences.update(0, "summary", {0: f"Likes {title}."})
    judgements.preferences.update(1, "revision", {0: f"Likes {title}, and more."}, {0: [judgements.titles[0]]})
    judgements.write_preferences()
    scores = torch.tensor([2.0, 9.0, torch.nan, torch.inf, 3.0, 4.0])
    judgements.write(folder / "judgements.jsonl", 1, torch.arange(6), scores, scores > 5)
    (folder / "metrics.csv").write_text("epoch,test/ndcg@10\n1,0.25\n")
    np.savez(folder / "audit.npz", kind=np.arange(6) % 3, status=np.zeros(6), loss=np.ones(6))
    return judgements


def printed(folder: Path) -> str:
    """What the report prints; nothing in it may be obeyed by a terminal."""
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    wide = {"COLUMNS": "300"}
    with mock.patch.object(sys, "stdout", output), mock.patch.dict(os.environ, wide), mock.patch.object(report, "plot"):
        report.main([str(folder), str(folder)])
    output.flush()
    text = output.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert all(line.isprintable() for line in text.split("\n"))
    return text


def titled(title: str, folder: Path) -> str:
    judgements = judged(folder, title)
    rows = [json.loads(line) for line in (folder / "judgements.jsonl").read_text().splitlines()]
    assert [row["title"] for row in rows] == [title] * 6 and [row["score"] for row in rows][:4] == [2, 9, None, None]
    changes = [json.loads(line) for line in (folder / "preferences.jsonl").read_text().splitlines()]
    assert changes == judgements.preferences.changes
    text = printed(folder)
    assert "is left out" not in text and "dropped" in text and "1 of 1 revised" in text
    return "written on one line and shown as it is"


def metrics(content: bytes, wanted: str, folder: Path) -> str:
    judged(folder, "Plain")
    (folder / "metrics.csv").write_bytes(content)
    text = printed(folder)
    if not wanted:
        assert f"{folder / 'metrics.csv'} has no test metrics" in text and "Plain" in text
        return "said, naming the file; the rest is shown"
    assert wanted in text
    return "the last whole row is shown"


def half_line(name: str, addition: bytes, folder: Path) -> str:
    judged(folder, "Plain")
    path = folder / f"{name}.jsonl"
    number = path.read_bytes().count(b"\n") + 1
    path.write_bytes(path.read_bytes() + addition)
    assert printed(folder).count(f"{path}, line {number}, is not whole and is left out") == 1
    return "left out, naming file and line; the rest is shown"


def of_ranks(folder: Path) -> str:
    judged(folder, "Plain")
    for name in ("judgements.jsonl", "preferences.jsonl"):
        stem, ending = name.split(".")
        lines = (folder / name).read_text().splitlines(keepends=True)
        for rank in (0, 1):
            (folder / f"{stem}-rank{rank}.{ending}").write_text("".join(lines[rank::2]))
        (folder / name).unlink()
    text = printed(folder)
    assert "kept" in text and "dropped" in text and "1 of 1 revised" in text
    return "all processes shown together"


def audit(spoil: Callable[[Path], object], folder: Path) -> str:
    judged(folder, "Plain")
    spoil(folder / "audit.npz")
    text = printed(folder)
    assert f"{folder / 'audit.npz'} cannot be read, so nothing is shown of the audit" in text and "No picture" in text
    assert "Plain" in text
    return "said, naming the file; the rest is shown"


def unwritable(number: int, folder: Path) -> str:
    path = folder / "file.txt"
    path.write_text("old")

    def fail(_: object) -> None:
        raise OSError(number, os.strerror(number))

    with (
        pytest.raises(OSError, match=rf"{path} could not be written: {os.strerror(number)}. Free space"),
        whole_file(path) as part,
    ):
        fail(part)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_or_warn(path, fail)
    assert len(caught) == 1 and str(path) in str(caught[0].message) and path.read_text() == "old"
    assert [file.name for file in folder.iterdir()] == ["file.txt"]
    return "one warning with path and remedy; nothing half-written"


def in_the_way(name: str, folder: Path) -> str:
    (folder / name).mkdir()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if name == "preferences.jsonl":
            judged(folder, "Plain")
        else:
            with pytest.raises(OSError, match=rf"{folder / name} could not be written.*nothing is in its place"):
                judged(folder, "Plain")
    assert len(caught) == (name == "preferences.jsonl")
    return "one warning or error with path and remedy"


def linked(name: str, folder: Path) -> str:
    (folder / "diary").write_text("Dear diary")
    (folder / name).symlink_to(folder / "diary")
    judged(folder, "Plain")
    assert (folder / "diary").read_text() == "Dear diary"
    return "the link is replaced and not followed"


def interrupted(folder: Path) -> str:
    path = folder / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and len(list(folder.iterdir())) == 1
    return "the file is as it was"


def cases() -> list[Case]:
    """Return the faults."""
    head = b"epoch,test/ndcg@10\n"
    tables = {"nothing in it": (b"", ""), "half a header": (b"epoch,te", ""), "a header alone": (head, "")}
    tables |= {"half of the only row": (head + b"1,0.2", ""), "half of the second": (head + b"1,0.25\n1,0.2", "0.2500")}
    tables |= {
        "tested again": (head + b"1,0.25\n2,0.31\n", "0.3100"),
        "the header again": (head + b"1,0.25\n" + head, "0.2500"),
    }
    tables |= {"a row too long": (head + b"1,0.25\n2,0.3,9\n", "0.2500"), "a word": (head + b"1,banana\n", "")}
    tables |= {"no UTF-8": (b"\xff\xfe\n\xff\n", "")}
    halves = {
        "half": b'{"epoch": 1, "us',
        "null": b"null\n",
        "no UTF-8": b'{"a": "\xff"}\n',
        "an empty object": b"{}\n",
    }
    audits: dict[str, Callable[[Path], object]] = {
        "nothing in it": lambda path: path.write_bytes(b""),
        "cut off": lambda path: os.truncate(path, path.stat().st_size // 2),
        "a text": lambda path: path.write_text("audit"),
        "objects": lambda path: np.savez(path, kind=np.array([None] * 6), status=np.zeros(6)),
        "other lengths": lambda path: np.savez(path, kind=np.zeros(6), status=np.zeros(5)),
        "a kind that is none": lambda path: np.savez(path, kind=np.full(6, 7), status=np.zeros(6)),
    }
    disk = {"full": errno.ENOSPC, "read-only": errno.EROFS, "forbidden": errno.EACCES, "broken": errno.EIO}
    return [
        *(Case("a title", name, partial(titled, title)) for name, title in TITLES.items()),
        *(
            Case("metrics.csv of a killed or resumed run", name, partial(metrics, *given))
            for name, given in tables.items()
        ),
        *(
            Case("a line of a JSONL file that is not whole", f"{what}, {name}", partial(half_line, name, line))
            for what, line in halves.items()
            for name in ("judgements", "preferences")
        ),
        Case("a run of two processes", "its report", of_ranks),
        *(Case("audit.npz that cannot be right", name, partial(audit, spoil)) for name, spoil in audits.items()),
        *(
            Case("a side file that cannot be written", name, partial(unwritable, number))
            for name, number in disk.items()
        ),
        *(
            Case("a side file that cannot be written", f"a folder in the place of {name}", partial(in_the_way, name))
            for name in ("judgements.jsonl", "preferences.jsonl")
        ),
        *(
            Case("a link in the place of a side file", name, partial(linked, name))
            for name in ("judgements.jsonl", "preferences.jsonl", "judgements.jsonl.part")
        ),
        Case("a write that is interrupted", "by Ctrl-C", interrupted),
    ]
