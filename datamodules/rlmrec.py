"""Amazon-Books, Yelp and Steam in RLMRec's layout (github.com/HKUDS/RLMRec), with the text of the items."""

import json
import pickle
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.datamodules.interactions import Interactions, unique_pairs
from llmhd_pl.datamodules.noise import NoiseSource

_MATRICES = {"coo_matrix", "csr_matrix", "csc_matrix", "coo_array", "csr_array", "csc_array"}
_ALLOWED = {
    *((f"scipy.sparse._{name[:3]}", name) for name in _MATRICES),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}


class RefusedPickleError(ValueError):
    """The pickle names a class that array data does not need; nothing of it was executed."""


class _ArrayUnpickler(pickle.Unpickler):
    """Loads SciPy and NumPy arrays and Python's own containers, and refuses to import anything else."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        # Releases before SciPy 1.8 and NumPy 2 pickled the same classes under these module names.
        modern = module.replace("numpy.core.", "numpy._core.")
        if modern in ("scipy.sparse.coo", "scipy.sparse.csr", "scipy.sparse.csc"):
            modern = modern.replace("sparse.", "sparse._")
        if (modern, name) not in _ALLOWED:
            raise RefusedPickleError(
                f"{self._path} wants to load {module}.{name}. Only SciPy and NumPy array classes are allowed, so it "
                "was refused and nothing of it was run. If you trust its origin, convert it to a plain scipy.sparse "
                "matrix."
            )
        return super().find_class(modern, name)


def load_pickle(path: Path) -> Any:
    """Read a pickle of arrays and plain containers.

    Raises:
        FileNotFoundError: there is no such file.
        RefusedPickleError: it names another class.
        ValueError: it is truncated or no pickle at all.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. docs/data.md says where the data comes from and how it is laid out."
        )
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, path).load()
    except RefusedPickleError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path} is truncated or not a pickle ({error}). Download it again.") from error


def load_matrix(path: Path) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Shape, rows and columns of the non-zero entries of a pickled SciPy matrix.

    Raises:
        FileNotFoundError, ValueError: as ``load_pickle``; also when it holds no matrix or ids outside its shape.
    """
    matrix = load_pickle(path)
    if not sp.issparse(matrix) or len(matrix.shape) != 2:
        raise ValueError(f"{path} holds a {type(matrix).__name__}; a scipy.sparse matrix, users x items, is expected.")
    try:
        if matrix.format != "coo":
            matrix.check_format(full_check=True)
            matrix = matrix.tocoo()
        rows, columns, values = (np.asarray(part) for part in (matrix.row, matrix.col, matrix.data))
        consistent = rows.ndim == columns.ndim == 1 and len(rows) == len(columns) == len(values)
        integers = rows.dtype.kind in "iu" and columns.dtype.kind in "iu"
    except (AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"{path} holds a damaged matrix ({error}). Download it again.") from error
    if not (consistent and integers):
        raise ValueError(f"{path} holds a damaged matrix: rows, columns and values do not match. Download it again.")
    for ids, size, what in ((rows, matrix.shape[0], "user"), (columns, matrix.shape[1], "item")):
        outside = (ids < 0) | (ids >= size)
        if outside.any():
            entry = int(outside.argmax())
            raise ValueError(
                f"{path}: entry {entry} names {what} {ids[entry]}, but the matrix is {matrix.shape[0]} users x "
                f"{matrix.shape[1]} items. Download it again."
            )
    keep = values != 0
    return (int(matrix.shape[0]), int(matrix.shape[1])), rows[keep], columns[keep]


def load_item_texts(folder: Path, num_items: int) -> list[dict[str, str]]:
    """The text fields of each item, from ``items.jsonl`` or RLMRec's ``itm_prf.pkl``; empty where there is neither.

    Raises:
        ValueError: a line that is no JSON object, a line out of place, or an item that does not exist.
    """
    lines, profiles = folder / "items.jsonl", folder / "itm_prf.pkl"
    if lines.is_file():
        texts = []
        with lines.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    item = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{lines}, line {number}: not JSON ({error}).") from error
                if not isinstance(item, dict) or item.get("item") != number - 1:
                    raise ValueError(f'{lines}, line {number}: expected an object with "item": {number - 1}.')
                texts.append({key: str(value) for key, value in item.items() if key != "item" and value})
        if len(texts) != num_items:
            raise ValueError(f"{lines} has {len(texts)} lines, but the matrices have {num_items} items.")
        return texts
    if profiles.is_file():
        loaded = load_pickle(profiles)
        if not isinstance(loaded, dict):
            raise ValueError(f"{profiles} holds a {type(loaded).__name__}; a dict from item to profile is expected.")
        texts = [{} for _ in range(num_items)]
        for item, entry in loaded.items():
            if not isinstance(item, int) or not 0 <= item < num_items:
                raise ValueError(f"{profiles} names item {item!r}, but the items are numbered 0 to {num_items - 1}.")
            text = entry.get("profile") if isinstance(entry, dict) else None
            if not isinstance(text, str):
                raise ValueError(f'{profiles}, item {item}: expected a dict with a text under "profile".')
            texts[item] = {"profile": text}
        return texts
    return []


class RLMRecDataModule(InteractionDataModule):
    """A folder with ``trn_mat.pkl``, ``val_mat.pkl``, ``tst_mat.pkl`` (users x items) and the items' text.

    ``items.jsonl`` (one object a line, line k is item k) or RLMRec's ``itm_prf.pkl`` gives the text; ``low_mat.pkl``,
    a matrix of interactions that were rated low, feeds ``noise_source="low_rating"``. Both are optional.

    Args:
        data_dir: the folder.
        batch_size: see ``InteractionDataModule``, as for all that follow.
        eval_batch_size: users ranked at once.
        noise_ratio: noise added to train.
        noise_source: where the noise comes from.
        negative_lifetime: epochs for which a negative stays with its sample.
        seed: seed of noise, order and negatives.

    Raises:
        FileNotFoundError: a matrix is missing.
        ValueError: a file that cannot be read or that contradicts another; the message names it.
    """

    domain = "items"
    """What the items are; chooses the wording of the prompts."""

    def __init__(
        self,
        data_dir: str,
        batch_size: int = 1024,
        eval_batch_size: int = 1024,
        noise_ratio: float = 0.0,
        noise_source: NoiseSource = "random",
        negative_lifetime: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, noise_ratio, noise_source, negative_lifetime, seed)
        self.data_dir = Path(data_dir)

    def load(self) -> Interactions:
        """Read the matrices and the text."""
        if not self.data_dir.is_dir():
            raise FileNotFoundError(
                f"There is no folder {self.data_dir}. Set --data.data_dir to the folder that holds trn_mat.pkl."
            )
        paths = {split: self.data_dir / f"{split}_mat.pkl" for split in ("trn", "val", "tst", "low")}
        if not paths["low"].is_file():
            del paths["low"]
        shape: tuple[int, int] | None = None
        pairs: dict[str, Tensor] = {}
        for split, path in paths.items():
            this_shape, users, items = load_matrix(path)
            if shape is not None and this_shape != shape:
                raise ValueError(
                    f"{path} is {this_shape[0]} users x {this_shape[1]} items, but {paths['trn'].name} is "
                    f"{shape[0]} x {shape[1]}. The files do not belong together."
                )
            shape = this_shape
            pairs[split] = unique_pairs(users, items, shape[1])
        assert shape is not None
        return Interactions(
            name=str(self.data_dir),
            num_users=shape[0],
            num_items=shape[1],
            train=pairs["trn"],
            valid=pairs["val"],
            test=pairs["tst"],
            low_rated=pairs.get("low"),
            items=load_item_texts(self.data_dir, shape[1]),
        )


class AmazonBooks(RLMRecDataModule):
    """Amazon-Books, RLMRec's split: 11,000 users, 9,332 items, 120,464 / 40,290 / 40,106 interactions."""

    domain = "books"


class Yelp(RLMRecDataModule):
    """Yelp, RLMRec's split: 11,091 users, 11,010 items, 166,620 / 55,479 / 55,436 interactions."""

    domain = "local businesses"


class Steam(RLMRecDataModule):
    """Steam, RLMRec's split: 23,310 users, 5,237 items, 316,190 / 104,897 / 104,835 interactions."""

    domain = "games"
