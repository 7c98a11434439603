"""A small folder in RLMRec's layout in which one file has another content."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from llmhd_pl.datamodules import Yelp
from tests.campaign.outcomes import refused

SPLITS = {"trn": [(0, 0), (0, 2), (2, 3)], "val": [(0, 1), (1, 1)], "tst": [(2, 0)]}
AGAIN = "Download it again"


def matrix(cells: list[tuple[int, int]] = SPLITS["trn"], shape: tuple[int, int] = (3, 4), layout: str = "coo") -> Any:
    rows, columns = zip(*cells, strict=True)
    return sp.coo_matrix((np.ones(len(cells)), (rows, columns)), shape=shape).asformat(layout)


def changed(layout: str = "coo", **state: Any) -> bytes:
    """A matrix of which some attributes were tampered with."""
    damaged = matrix(layout=layout)
    vars(damaged).update(state)
    return pickle.dumps(damaged, 4)


def prepare(folder: Path, name: str, content: bytes | None) -> Path:
    """Write a folder in which one file has another content."""
    for split, cells in SPLITS.items():
        (folder / f"{split}_mat.pkl").write_bytes(pickle.dumps(matrix(cells), 4))
    path = folder / name
    if content is not None:
        path.write_bytes(content)
    return path


def bad(
    name: str, content: bytes, *words: str, kind: type[Exception] = ValueError, line: int | None = None
) -> Callable[[Path], str]:
    """A case in which a file of the folder is refused."""

    def check(folder: Path) -> str:
        path = prepare(folder, name, content)
        return refused(lambda: Yelp(str(folder)).setup(), kind, path, *words, line=line)

    return check
