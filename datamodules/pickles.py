"""Pickles of SciPy matrices and plain containers, read without running any code that they name."""

import operator
import pickle
from pathlib import Path
from typing import IO, Any

import numpy as np


class RefusedPickleError(ValueError):
    """The pickle names a class that array data does not need; nothing of it was executed."""


class _StandIn:
    """Takes the place of a NumPy or SciPy class while a pickle is read, and only keeps its data.

    The real ones trust what a pickle tells them: a tampered one can crash the process in NumPy's ``__setstate__`` or
    replace methods of SciPy's classes. (Without a ``__setstate__`` the unpickler would set any attribute, also here.)
    """

    def __setstate__(self, state: Any) -> None:
        raise ValueError("data where there should be none")


class _Dtype(_StandIn):
    def __init__(self, code: str, *_: bool) -> None:
        self.code = code
        self.order: Any = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def decode(self, raw: bytes) -> np.ndarray:
        if self.code not in _NUMBERS or self.order not in ("<", ">", "|"):
            raise ValueError(f"values of type {self.code!r} instead of numbers")
        return np.frombuffer(raw, np.dtype(self.code).newbyteorder(self.order))


class _Array(_StandIn):
    """What ``numpy.ndarray`` and ``_reconstruct`` make."""

    def __init__(self, *_: Any) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, raw = state
        self.values = dtype.decode(raw).reshape(shape)


class _Buffer(_Array):
    """What ``_frombuffer`` makes."""

    def __init__(self, raw: bytes, dtype: _Dtype, shape: tuple[int, ...], *_: str) -> None:
        self.values = dtype.decode(raw).reshape(shape)


class _Scalar(_StandIn):
    def __init__(self, dtype: _Dtype, raw: bytes) -> None:
        self.value = dtype.decode(raw)[0]

    def __index__(self) -> int:
        return operator.index(self.value)


class _Matrix(_StandIn):
    layout = "coo"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state

    def entries(self) -> tuple[tuple[int, int], np.ndarray, np.ndarray, np.ndarray]:
        """Shape, rows, columns and values, as long as each other; a damaged matrix raises anything."""
        state = self.state
        num_users, num_items = (operator.index(size) for size in state["_shape"])
        if num_users < 0 or num_items < 0 or num_users * num_items >= 2**63:
            raise ValueError(f"a shape of {num_users} x {num_items}")
        if self.layout == "coo":  # coords since SciPy 1.13, row and col before
            rows, columns = state["coords"] if "coords" in state else (state["row"], state["col"])
            users, items = _ids(rows), _ids(columns)
        else:
            starts, minor = _ids(state["indptr"]), _ids(state["indices"])
            size = num_users if self.layout == "csr" else num_items
            if len(starts) != size + 1 or starts[0] != 0 or starts[-1] != len(minor) or (np.diff(starts) < 0).any():
                raise ValueError("an indptr that does not fit its shape and indices")
            major = np.repeat(np.arange(size), np.diff(starts))
            users, items = (major, minor) if self.layout == "csr" else (minor, major)
        values = state["data"].values
        if not (users.shape == items.shape == values.shape):
            raise ValueError("rows, columns and values of different lengths")
        return (num_users, num_items), users, items, values


class _Csr(_Matrix):
    layout = "csr"


class _Csc(_Matrix):
    layout = "csc"


def _ids(array: _Array) -> np.ndarray:
    if array.values.dtype.kind not in "iu" or array.values.ndim != 1:
        raise ValueError("ids that are no vector of integers")
    return array.values.astype(np.int64)


_NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
_STAND_INS = {
    **{
        (f"scipy.sparse._{layout}", f"{layout}_{kind}"): stand_in
        for layout, stand_in in (("coo", _Matrix), ("csr", _Csr), ("csc", _Csc))
        for kind in ("matrix", "array")
    },
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "scalar"): _Scalar,
    ("numpy._core.numeric", "_frombuffer"): _Buffer,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Loads SciPy and NumPy arrays, as stand-ins, and Python's own containers; imports nothing at all."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> type[_StandIn]:
        # Releases before SciPy 1.8 and NumPy 2 pickled the same classes under these module names.
        modern = module.replace("numpy.core.", "numpy._core.")
        if modern in ("scipy.sparse.coo", "scipy.sparse.csr", "scipy.sparse.csc"):
            modern = modern.replace("sparse.", "sparse._")
        if (modern, name) not in _STAND_INS:
            raise RefusedPickleError(
                f"{self._path} wants to load {module}.{name}. Only SciPy and NumPy array classes are allowed, so it "
                "was refused and nothing of it was run. If you trust its origin, convert it to a plain scipy.sparse "
                "matrix."
            )
        return _STAND_INS[modern, name]


def load_pickle(path: Path) -> Any:
    """Read a pickle of plain containers; arrays and matrices in it come as stand-ins (see ``load_matrix``).

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
        raise ValueError(f"{path} is truncated, damaged or not a pickle ({error!r}). Download it again.") from error


def load_matrix(path: Path) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Shape, rows and columns of the non-zero entries of a pickled SciPy matrix.

    Raises:
        FileNotFoundError, ValueError: as ``load_pickle``; also when it holds no matrix or ids outside its shape.
    """
    matrix = load_pickle(path)
    if not isinstance(matrix, _Matrix):
        kind = type(matrix).__name__.lstrip("_")
        raise ValueError(f"{path} holds a {kind}; a scipy.sparse matrix (coo, csr or csc), users x items, is expected.")
    try:
        shape, rows, columns, values = matrix.entries()
    except Exception as error:  # anything can be missing in it
        raise ValueError(f"{path} holds a damaged matrix ({error!r}). Download it again.") from error
    for ids, size, what in ((rows, shape[0], "user"), (columns, shape[1], "item")):
        outside = (ids < 0) | (ids >= size)
        if outside.any():
            entry = int(outside.argmax())
            raise ValueError(
                f"{path}: entry {entry} names {what} {ids[entry]}, but the matrix is {shape[0]} users x "
                f"{shape[1]} items. Download it again."
            )
    keep = values != 0
    return shape, rows[keep], columns[keep]
