"""Pickled matrices, whole and damaged, as files."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

CELLS = [(0, 1), (1, 0), (2, 2), (2, 3)]


def matrix(cells: list[tuple[int, int]] = CELLS, shape: tuple[int, int] = (3, 4), layout: str = "coo") -> Any:
    rows, columns = zip(*cells, strict=True) if cells else ((), ())
    return sp.coo_matrix((np.ones(len(cells)), (rows, columns)), shape=shape).asformat(layout)


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def call(module: str, name: str, *arguments: Any) -> bytes:
    """A pickle that calls ``module.name(*arguments)``, whatever that is."""
    encoded = [pickle.dumps(text, 4)[2:-1] for text in (module, name)]
    return b"\x80\x04" + encoded[0] + encoded[1] + b"\x93" + pickle.dumps(arguments, 2)[2:-1] + b"R."
