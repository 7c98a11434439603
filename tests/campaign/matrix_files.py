"""Faults in the files of an RLMRec folder: pickled matrices, pickled profiles and items.jsonl."""

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from llmhd_pl.datamodules import Yelp
from tests.campaign.case import Case
from tests.campaign.hostile_pickles import attacks, bombs
from tests.campaign.outcomes import refused
from tests.campaign.rlmrec_folder import AGAIN, SPLITS, bad, changed, matrix, prepare

PROFILE = {"profile": "a"}
LINES = ['{"item": 0, "title": "A"}', '{"item": 1}', '{"item": 2, "title": "C"}', '{"item": 3}']


def good(name: str, content: bytes, items: list[dict[str, str]] | None = None) -> Callable[[Path], str]:
    """A case that is read, and holds the same interactions as the plain folder."""

    def check(folder: Path) -> str:
        prepare(folder, name, content)
        data = Yelp(str(folder))
        data.setup()
        assert data.interactions.train.tolist() == [list(pair) for pair in SPLITS["trn"]]
        assert items is None or data.interactions.items == items, data.interactions.items
        return "read, and the same data"

    return check


def linked(name: str, kind: type[Exception], make: Callable[[Path], Any]) -> Callable[[Path], str]:
    """A case with a folder or a link in the place of a file."""

    def check(folder: Path) -> str:
        path = prepare(folder, name, None)
        path.unlink(missing_ok=True)
        make(path)
        return refused(lambda: Yelp(str(folder)).setup(), kind, path, "is a folder or a link", "docs/data.md|Put the")

    return check


def damages() -> dict[str, Callable[[Path], str]]:
    """Pickles that are cut off or no pickles, or hold no matrix, or a broken one."""
    whole = pickle.dumps(matrix(), 4)
    checks = {
        f"cut at byte {cut}": bad("trn_mat.pkl", whole[:cut], "truncated", AGAIN) for cut in range(0, len(whole), 90)
    }
    contents: dict[str, Any] = {
        "a list": [1],
        "a dict": {},
        "None": None,
        "text": "x",
        "an array": np.ones((3, 4)),
        "a number": 7,
    }
    for name, content in contents.items():
        checks[name] = bad("trn_mat.pkl", pickle.dumps(content), "holds a", "is expected")
    raw = {
        "gzip": gzip.compress(whole),
        "HTML": b"<!DOCTYPE html>",
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
    }
    for name, content in raw.items():
        checks[name] = bad("val_mat.pkl", content, "truncated, damaged or not a pickle", AGAIN)
    ids = np.array
    for name, state in {
        "a user out of range": {"coords": (ids([0, 3, 1]), ids([0, 1, 2]))},
        "an item out of range": {"coords": (ids([0, 1, 1]), ids([0, 4, 2]))},
        "a negative user": {"coords": (ids([0, -1, 1]), ids([0, 1, 2]))},
        "users that are no integers": {"coords": (ids([0.0, 1, 1]), ids([0, 1, 2]))},
        "users as objects": {"coords": (ids([0, 1, 1], dtype=object), ids([0, 1, 2]))},
        "columns of different lengths": {"coords": (ids([0, 1]), ids([0, 1, 2]))},
        "three dimensions": {"_shape": (3, 4, 5)},
        "a negative shape": {"_shape": (-3, 4)},
        "a shape of floats": {"_shape": (3.0, 4.0)},
        "values of text": {"data": ids(["a", "b", "c"])},
        "no shape": {"_shape": None},
    }.items():
        checks[name] = bad("trn_mat.pkl", changed(**state), AGAIN)
    for name, indptr in {
        "falls": [0, 2, 1, 3],
        "is short": [0, 3],
        "starts late": [1, 2, 2, 3],
        "ends late": [0, 1, 2, 9],
    }.items():
        for layout in ("csr", "csc"):
            pointers = [*indptr, indptr[-1]] if layout == "csc" else indptr
            checks[f"an indptr of {layout} that {name}"] = bad(
                "trn_mat.pkl", changed(layout, indptr=ids(pointers)), "indptr", AGAIN
            )
    for value in (np.nan, np.inf, -np.inf, -1.0):
        for layout in ("coo", "csr", "csc"):
            content = changed(layout, data=ids([1.0, value, 1.0]))
            checks[f"an entry of {value} in {layout}"] = bad(
                "trn_mat.pkl", content, f"entry 1, .* is {value}", "or write 1"
            )
    checks["a shape that differs"] = bad(
        "val_mat.pkl", pickle.dumps(matrix([(1, 1)], (3, 5))), "is 3 users x 5", "belong"
    )
    return checks


def lines(*replaced: tuple[int, str]) -> bytes:
    """items.jsonl with some lines replaced."""
    given = dict(replaced)
    return "\n".join(given.get(number, line) for number, line in enumerate(LINES, start=1)).encode(
        errors="surrogatepass"
    )


def broken_texts() -> dict[str, Callable[[Path], str]]:
    """items.jsonl and itm_prf.pkl that are wrong."""
    checks = {}
    for name, line, words in (
        ("no JSON", "{", ("not JSON", "Write one JSON object")),
        ("a line cut off", '{"item": 2, "title": "C', ("not JSON", "Write one JSON object")),
        ("NaN", '{"item": 2, "year": NaN}', ("NaN is none", "write null")),
        ("an infinite number", '{"item": 2, "year": -Infinity}', ("-Infinity is none", "write null")),
        ("a key twice", '{"item": 2, "title": "a", "title": "b"}', ("'title' occurs twice", "keep one")),
        ("a number twice", '{"item": 2, "item": 2}', ("'item' occurs twice", "keep one")),
        ("a list", "[2]", ('expected an object with "item": 2', "Write the items")),
        ("another item", '{"item": 3}', ('expected an object with "item": 2', "Write the items")),
        ("an item as text", '{"item": "2"}', ('expected an object with "item": 2', "Write the items")),
        ("an item as fraction", '{"item": 2.5}', ('expected an object with "item": 2', "Write the items")),
        ("a huge item", '{"item": 1' + "0" * 5000 + "}", ('expected an object with "item": 2', "Write the items")),
        ("no item", '{"title": "C"}', ('expected an object with "item": 2', "Write the items")),
        ("deep nesting", '{"item": 2, "a": ' + "[" * 100_000, ("not JSON", "Write one JSON object")),
        ("a blank line", "", ("not JSON, but blank", "Remove it")),
        ("a surrogate in the bytes", '{"item": 2, "a": "\udc80"}', ("not JSON", "in UTF-8")),
    ):
        checks[f"items.jsonl: {name}"] = bad("items.jsonl", lines((3, line)), *words, line=3)
    checks["items.jsonl: a line too few"] = bad("items.jsonl", lines()[:-12], "has 3 lines", "Write one line")
    checks["items.jsonl: a line too many"] = bad(
        "items.jsonl", lines() + b'\n{"item": 4}', "has 5 lines", "Write one line"
    )
    checks["items.jsonl: UTF-16"] = bad("items.jsonl", lines().decode().encode("utf-16"), "not JSON", "UTF-8", line=1)
    checks["items.jsonl: gzip"] = bad("items.jsonl", gzip.compress(lines()), "not JSON", "UTF-8", line=1)
    for name, content, *words in (
        ("a list", [1], "holds a list", "Write it anew"),
        ("an item out of range", {4: {"profile": "a"}}, "names item 4", "Remove it"),
        ("an item as text", {"0": {"profile": "a"}}, "names item '0'", "Remove it"),
        ("an item as tuple", {(0, 1): {"profile": "a"}}, "names item <tuple>", "Remove it"),
        ("a huge item", {10**5000: {"profile": "a"}}, "names item <int>", "Remove it"),
        ("a truth value as item", {True: {"profile": "a"}}, "names item True", "Remove it"),
        ("no profile", {0: {}}, "item 0: expected a dict", "Write it anew"),
        ("a profile of bytes", {0: {"profile": b"a"}}, "item 0: expected a dict", "Write it anew"),
        ("text for a dict", {0: "a"}, "item 0: expected a dict", "Write it anew"),
    ):
        checks[f"itm_prf.pkl: {name}"] = bad("itm_prf.pkl", pickle.dumps(content), *words)
    return checks


def unusual() -> dict[str, Callable[[Path], str]]:
    """Folders that are unusual but whole."""
    items = [{"title": "A"}, {}, {"title": "C"}, {}]
    whole = matrix()
    doubled = matrix([*SPLITS["trn"], *SPLITS["trn"]])
    checks = {
        f"{kind} of {layout}": good("trn_mat.pkl", pickle.dumps(getattr(sp, f"{layout}_{kind}")(whole)))
        for kind in ("matrix", "array")
        for layout in ("coo", "csr", "csc")
    }
    return checks | {
        "every entry twice": good("trn_mat.pkl", pickle.dumps(doubled)),
        "zeros among the entries": good(
            "trn_mat.pkl",
            changed(coords=(np.array([0, 1, 0, 2]), np.array([0, 1, 2, 3])), data=np.array([1, 0, 5, 0.5])),
        ),
        "bytes behind the pickle": good("trn_mat.pkl", pickle.dumps(whole) + b"\0" * 100),
        "items.jsonl": good("items.jsonl", lines(), items),
        "items.jsonl with a byte-order mark": good("items.jsonl", b"\xef\xbb\xbf" + lines(), items),
        "items.jsonl with blank last lines": good("items.jsonl", lines() + b"\n\n\r\n", items),
        "items.jsonl with carriage returns": good("items.jsonl", lines().replace(b"\n", b"\r\n"), items),
        "items.jsonl with numbers": good(
            "items.jsonl",
            lines((2, '{"item": 1, "y": 1995.0, "z": 1e400, "n": 0}')),
            [items[0], {"y": "1995.0", "z": "1e400", "n": "0"}, *items[2:]],
        ),
        "items.jsonl with half a surrogate pair": good(
            "items.jsonl", lines((2, '{"item": 1, "y": "a\\ud800b"}')), [items[0], {"y": "a\ufffdb"}, *items[2:]]
        ),
        "items.jsonl with null and empty text": good(
            "items.jsonl", lines((2, '{"item": 1, "y": null, "z": ""}')), items
        ),
        "one dict for all profiles": good("itm_prf.pkl", pickle.dumps(dict.fromkeys(range(4), PROFILE)), [PROFILE] * 4),
    }


def cases() -> list[Case]:
    """Return the cases with RLMRec's files."""
    places: dict[str, Callable[[Path], str]] = {}
    for name in ("trn_mat.pkl", "low_mat.pkl", "itm_prf.pkl", "items.jsonl"):
        kind = ValueError if name == "items.jsonl" else FileNotFoundError
        places[f"a folder named {name}"] = linked(name, kind, Path.mkdir)
        places[f"a link {name} to itself"] = linked(name, kind, lambda path: path.symlink_to(path.name))
    return [
        Case(kind, name, check)
        for kind, checks in (
            ("a pickle that wants to run code", attacks()),
            ("a small pickle that asks for gigabytes or hours", bombs()),
            ("a matrix that is damaged, or none", damages()),
            ("texts of items that are wrong", broken_texts()),
            ("a folder of matrices that is unusual but whole", unusual()),
            ("a folder or a link in the place of a matrix or a text file", places),
        )
        for name, check in checks.items()
    ]
