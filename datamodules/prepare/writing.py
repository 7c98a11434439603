"""The prepared folder: RLMRec's matrices, the low ratings, the texts, the identifiers and a README."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from llmhd_pl.datamodules.ids import write_ids
from llmhd_pl.datamodules.prepare.selection import Selection
from llmhd_pl.datamodules.table import Table
from llmhd_pl.files import json_text, whole_folder


def write(folder: Path, selection: Selection, texts: Sequence[dict[str, str]], readme: str) -> None:
    """Write a folder that is whole or not there.

    Args:
        folder: The folder: new, or empty.
        selection: The interactions.
        texts: The text fields of each item.
        readme: The text of the README.

    Raises:
        OSError: If the folder cannot be written. What was written of it is removed.
    """
    shape = len(selection.users), len(selection.items)
    matrices = {"trn": selection.train, "val": selection.valid, "tst": selection.test}
    if selection.low is not None:
        matrices["low"] = selection.low
    with whole_folder(folder) as part:
        for name, table in matrices.items():
            _write_matrix(part / f"{name}_mat.pkl", table, shape)
        with (part / "items.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json_text({"item": item, **fields}) + "\n" for item, fields in enumerate(texts))
        write_ids(part, "user", selection.users)
        write_ids(part, "item", selection.items)
        (part / "README.md").write_text(readme, encoding="utf-8")


def _write_matrix(path: Path, table: Table, shape: tuple[int, int]) -> None:
    """Write interactions as RLMRec writes them: a COO matrix of ones."""
    matrix = sp.coo_matrix((np.ones(len(table)), (table.users, table.items)), shape=shape)
    with path.open("wb") as file:
        pickle.dump(matrix, file, protocol=4)
