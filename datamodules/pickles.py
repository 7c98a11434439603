"""Read pickles of SciPy matrices and plain containers without running any code that they name.

``find_forbidden`` looks at a file first. ``_ArrayUnpickler`` imports nothing: it replaces each NumPy and SciPy class
that a pickled matrix needs by a stand-in of this file, which only keeps the data, and refuses every other class.
``load_matrix`` then checks what was kept.
"""

import operator
import os
import pickle
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from llmhd_pl.datamodules.pickle_scan import find_forbidden


class RefusedPickleError(ValueError):
    """A pickle asks for a class, a function or an amount of memory that array data does not need.

    Nothing of it was executed.
    """


def brief(value: object) -> str:
    """Return what a message calls a value from a file: short, whatever it is."""
    if isinstance(value, str):
        return repr(value[:80])
    if isinstance(value, int) and value.bit_length() <= 64:
        return repr(value)
    return f"<{type(value).__name__.lstrip('_')}>"


class _StandIn:
    """Stands in for a NumPy or SciPy class while a pickle is read, and only keeps the data.

    The real classes trust the pickle: a tampered one can crash the process in NumPy's ``__setstate__`` or replace
    methods of SciPy's classes. Every stand-in has a ``__setstate__``, because without one the unpickler would set any
    attribute that the pickle names, on the stand-ins too.
    """

    def __setstate__(self, state: Any) -> None:
        raise ValueError("unexpected state")


class _Dtype(_StandIn):
    """Stands in for ``numpy.dtype``."""

    def __init__(self, code: str, *_: bool) -> None:
        self.code = code
        self.order: Any = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def decode(self, raw: bytes) -> np.ndarray:
        if not isinstance(self.code, str) or self.code not in _NUMBERS or self.order not in ("<", ">", "|"):
            raise ValueError(f"values of type {brief(self.code)} instead of numbers")
        return np.frombuffer(raw, np.dtype(self.code).newbyteorder(self.order))


class _Array(_StandIn):
    """Stands in for what ``numpy.ndarray`` and ``_reconstruct`` return."""

    def __init__(self, *_: Any) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, raw = state
        self.values = dtype.decode(raw).reshape(shape)


class _Buffer(_Array):
    """Stands in for what ``_frombuffer`` returns."""

    def __init__(self, raw: bytes, dtype: _Dtype, shape: tuple[int, ...], *_: str) -> None:
        self.values = dtype.decode(raw).reshape(shape)


class _Scalar(_StandIn):
    """Stands in for a NumPy scalar, such as a size in the shape of a matrix."""

    def __init__(self, dtype: _Dtype, raw: bytes) -> None:
        self.value = dtype.decode(raw)[0]

    def __index__(self) -> int:
        return operator.index(self.value)


class _Matrix(_StandIn):
    """Stands in for SciPy's COO matrix and array, and is the base of the two other layouts."""

    layout = "coo"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state

    def entries(self) -> tuple[tuple[int, int], np.ndarray, np.ndarray, np.ndarray]:
        """Return the shape, and rows, columns and values of equal length. A damaged matrix can raise any exception."""
        state = self.state
        num_users, num_items = (operator.index(size) for size in state["_shape"])
        if num_users < 0 or num_items < 0 or num_users * num_items >= 2**63:
            raise ValueError(f"a shape of {brief(num_users)} x {brief(num_items)}")
        if self.layout == "coo":  # coords since SciPy 1.13; row and col before it
            rows, columns = state["coords"] if "coords" in state else (state["row"], state["col"])
            users, items = _ids(rows), _ids(columns)
        else:
            starts, minor = _ids(state["indptr"]), _ids(state["indices"])
            size = num_users if self.layout == "csr" else num_items
            if len(starts) != size + 1 or starts[0] != 0 or starts[-1] != len(minor) or (np.diff(starts) < 0).any():
                raise ValueError("an indptr that does not fit the shape and the indices")
            major = np.repeat(np.arange(size), np.diff(starts))
            users, items = (major, minor) if self.layout == "csr" else (minor, major)
        values = state["data"].values
        if not (users.shape == items.shape == values.shape):
            raise ValueError("rows, columns and values of different lengths")
        return (num_users, num_items), users, items, values


class _Csr(_Matrix):
    """Stands in for SciPy's CSR matrix and array."""

    layout = "csr"


class _Csc(_Matrix):
    """Stands in for SciPy's CSC matrix and array."""

    layout = "csc"


def _ids(array: _Array) -> np.ndarray:
    if array.values.dtype.kind not in "iu" or array.values.ndim != 1:
        raise ValueError("ids that are not a vector of integers")
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
    """Loads SciPy and NumPy arrays as stand-ins, and Python's own containers. It imports nothing at all."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> type[_StandIn]:
        # Releases before SciPy 1.8 and NumPy 2 pickled the same classes under other module names.
        modern = module.replace("numpy.core.", "numpy._core.")
        if modern in ("scipy.sparse.coo", "scipy.sparse.csr", "scipy.sparse.csc"):
            modern = modern.replace("sparse.", "sparse._")
        if (modern, name) not in _STAND_INS:
            raise RefusedPickleError(
                f"{self._path} wants to load {module[:80]}.{name[:80]}. Only SciPy and NumPy array classes are "
                "allowed, so the file was refused and nothing in it was run. If you trust its origin, convert it to a "
                "plain scipy.sparse matrix."
            )
        return _STAND_INS[modern, name]


def load_pickle(path: Path) -> Any:
    """Read a pickle of plain Python containers.

    Args:
        path: The file.

    Returns:
        The pickled object. Arrays and matrices in it are stand-ins; read a matrix with ``load_matrix``.

    Raises:
        FileNotFoundError: If there is no such file.
        RefusedPickleError: If the pickle names a class other than the array classes of NumPy and SciPy, or asks for
            memory out of proportion to the file.
        ValueError: If the file is truncated, damaged or not a pickle.
    """
    if not path.is_file():
        what = "is a folder or a link that leads nowhere" if os.path.lexists(path) else "is missing"
        raise FileNotFoundError(f"{path} {what}. docs/data.md says where to get the data and how it is laid out.")
    try:
        raw = path.read_bytes()
        forbidden = find_forbidden(raw)
        if forbidden is None:
            return _ArrayUnpickler(BytesIO(raw), path).load()
    except RefusedPickleError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(
            f"{path} is truncated, damaged or not a pickle ({type(error).__name__}: {str(error)[:300]}). Download it "
            "again."
        ) from error
    raise RefusedPickleError(
        f"{path} asks for {forbidden}. Neither a matrix nor a dict of texts does, so the file was refused and "
        "nothing in it was run. Download it again, or write it anew with pickle.dump."
    )


def load_matrix(path: Path) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Read the non-zero entries of a pickled SciPy matrix (coo, csr or csc) of users x items.

    Args:
        path: The file.

    Returns:
        The shape (users, items), and the row and the column of each non-zero entry, both int64 [n].

    Raises:
        FileNotFoundError: If there is no such file.
        RefusedPickleError: If the pickle names a class other than the array classes of NumPy and SciPy, or asks for
            memory out of proportion to the file.
        ValueError: If the file is truncated, damaged or not a pickle, or holds something other than a matrix, or an
            entry lies outside the shape, is negative or is not finite.
    """
    matrix = load_pickle(path)
    if not isinstance(matrix, _Matrix):
        kind = type(matrix).__name__.lstrip("_")
        raise ValueError(f"{path} holds a {kind}; a scipy.sparse matrix (coo, csr or csc), users x items, is expected.")
    try:
        shape, rows, columns, values = matrix.entries()
    except Exception as error:  # any attribute can be missing or of the wrong type
        raise ValueError(
            f"{path} holds a damaged matrix ({type(error).__name__}: {str(error)[:300]}). Download it again."
        ) from error
    for ids, size, what in ((rows, shape[0], "user"), (columns, shape[1], "item")):
        outside = (ids < 0) | (ids >= size)
        if outside.any():
            entry = int(outside.argmax())
            raise ValueError(
                f"{path}: entry {entry} names {what} {ids[entry]}, but the matrix is {shape[0]} users x "
                f"{shape[1]} items. Download it again."
            )
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        entry = int(wrong.argmax())
        raise ValueError(
            f"{path}: entry {entry}, of user {rows[entry]} and item {columns[entry]}, is {values[entry]}. Every "
            "non-zero entry counts as an interaction; remove those that are none, or write 1 for those that are."
        )
    keep = values != 0
    return shape, rows[keep], columns[keep]
