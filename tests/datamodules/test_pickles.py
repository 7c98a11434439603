import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from pickled import CELLS, call, matrix, write
from small_data import within_100_mb

from llmhd_pl.datamodules import RefusedPickleError
from llmhd_pl.datamodules.pickles import load_matrix, load_pickle

LAYOUTS = ["coo", "csr", "csc"]
CASES = Path(__file__).parents[3] / "shared" / "cases"


def changed(state: dict[str, Any], layout: str = "coo") -> Any:
    """A matrix with some attributes replaced, or removed (None), as a damaged or malicious file would hold it."""
    damaged = matrix(layout=layout)
    vars(damaged).update(state)
    for name in [name for name, value in state.items() if value is None]:
        del vars(damaged)[name]
    return damaged


def entries(path: Path) -> set[tuple[int, int]]:
    _, users, items = load_matrix(path)
    return set(zip(users.tolist(), items.tolist(), strict=True))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trn_mat.pkl"


# Matrices that load


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["matrix", "array"])
def test_every_layout_loads(file: Path, layout: str, kind: str, protocol: int) -> None:
    write(file, getattr(sp, f"{layout}_{kind}")(matrix()), protocol)
    assert load_matrix(file)[0] == (3, 4) and all(type(size) is int for size in load_matrix(file)[0])
    assert entries(file) == set(CELLS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_module_paths_and_attributes_of_older_releases_load(file: Path, layout: str) -> None:
    old: Any = matrix(layout=layout)
    if layout == "coo":  # SciPy before 1.13
        rows, columns = vars(old).pop("coords")
        vars(old).update(row=rows, col=columns)
    raw = pickle.dumps(old, 3)
    for modern, before in ((b"numpy._core.", b"numpy.core."), (b"scipy.sparse._", b"scipy.sparse.")):
        assert modern in raw
        raw = raw.replace(modern, before)
    assert entries(write(file, raw)) == set(CELLS)


@pytest.mark.parametrize("dtype", [bool, "i1", "u2", ">i4", "f4", ">f8"])
def test_values_of_any_numeric_type_load_and_zeros_are_no_interactions(file: Path, dtype: Any) -> None:
    values = np.array([1, 0, 1, 1], dtype=dtype)
    assert entries(write(file, changed({"data": values}))) == {(0, 1), (2, 2), (2, 3)}


@pytest.mark.parametrize("dtype", ["i8", ">i4", "u4", "u8"])
def test_ids_of_any_integer_type_load(file: Path, dtype: str) -> None:
    coords = tuple(np.array(column, dtype=dtype) for column in zip(*CELLS, strict=True))
    assert entries(write(file, changed({"coords": coords, "_shape": (np.int64(3), np.int32(4))}))) == set(CELLS)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)])
def test_an_empty_matrix_loads(file: Path, layout: str, shape: tuple[int, int]) -> None:
    write(file, matrix([], shape, layout))
    assert load_matrix(file)[0] == shape and entries(file) == set()


# Pickles that are refused


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


def nested(where: str, trace: Path) -> Any:
    if where == "alone":
        return Evil(trace)
    if where == "data":
        return changed({"data": np.array([Evil(trace)] * 4, dtype=object)})
    if where == "attribute":
        return changed({"maxprint": Evil(trace)})
    if where == "row":
        return changed({"coords": (Evil(trace), np.zeros(4, dtype=int))})
    return {0: {"profile": Evil(trace)}}


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("where", ["alone", "data", "attribute", "row", "profile"])
def test_a_call_hidden_anywhere_is_refused_and_not_run(tmp_path: Path, where: str, protocol: int) -> None:
    trace = tmp_path / "trace"
    path = write(tmp_path / "evil.pkl", nested(where, trace), protocol)
    with pytest.raises(RefusedPickleError, match=rf"{path} wants to load (posix|nt)\.system\. .*refused"):
        load_matrix(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists(), "the attack of this test is none"


@pytest.mark.parametrize("name", ["eval", "exec"])
def test_builtins_are_refused(tmp_path: Path, name: str) -> None:
    trace = tmp_path / "trace"
    raw = call("builtins", name, f"open({str(trace)!r}, 'w').close()")
    with pytest.raises(RefusedPickleError, match=rf"builtins\.{name}"):
        load_pickle(write(tmp_path / "itm_prf.pkl", raw))
    assert not trace.exists()
    pickle.loads(raw)
    assert trace.exists(), "the attack of this test is none"


@pytest.mark.parametrize("name", ["coo_matrix", "ndarray", "_reconstruct"])
def test_a_class_of_another_module_is_refused_under_an_allowed_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    trace = tmp_path / "trace"
    (tmp_path / f"disguised_{name}.py").write_text(f"open({str(trace)!r}, 'w').close()\n{name} = list\n")
    monkeypatch.syspath_prepend(tmp_path)
    raw = call(f"disguised_{name}", name)
    with pytest.raises(RefusedPickleError, match=rf"disguised_{name}\.{name}"):
        load_matrix(write(tmp_path / "trn_mat.pkl", raw))
    assert not trace.exists() and f"disguised_{name}" not in sys.modules  # not even imported
    assert pickle.loads(raw) == [] and trace.exists(), "the attack of this test is none"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("scipy.sparse._coo", "np.load"),  # a way through an allowed module
        ("numpy", "ndarray.tofile"),
        ("numpy", "load"),
        ("numpy._core.multiarray", "fromfile"),
        ("evil.numpy.core.multiarray", "_reconstruct"),
        ("scipy.sparse._coo", "csr_matrix"),
        ("scipy.sparse._dok", "dok_matrix"),
        ("scipy.sparse", "coo_matrix.__init_subclass__"),
        ("collections", "OrderedDict"),
        ("copyreg", "_reconstructor"),
    ],
)
def test_all_but_the_array_classes_is_refused_by_name(file: Path, module: str, name: str) -> None:
    with pytest.raises(RefusedPickleError) as error:
        load_matrix(write(file, call(module, name)))
    assert f"{file} wants to load {module}.{name}." in str(error.value)


@pytest.mark.parametrize(
    ("module", "name"),
    [("scipy.sparse._csr", "csr_matrix"), ("numpy._core.numeric", "_frombuffer"), ("numpy", "dtype")],
)
@pytest.mark.parametrize("state", [{"tocoo": 1, "__defaults__": ()}, (None, {"tocoo": 1, "__defaults__": ()})])
def test_a_pickle_cannot_change_the_classes_it_names(file: Path, module: str, name: str, state: Any) -> None:
    """The opcode BUILD sets attributes, also those of a class."""
    before = sp.csr_matrix.tocoo, np._core.numeric._frombuffer.__defaults__
    raw = call(module, name)[:-3] + pickle.dumps(state, 2)[2:-1] + b"b."
    with pytest.raises(ValueError, match=str(file)):
        load_matrix(write(file, raw))
    assert (sp.csr_matrix.tocoo, np._core.numeric._frombuffer.__defaults__) == before
    assert entries(write(file, matrix(layout="csr"))) == set(CELLS)


# Files that ask for too much


def doubled(levels: int, make: bytes) -> bytes:
    """A pickle of a container that holds another one twice, and so on."""
    steps = b"".join(b"q" + bytes([level]) + b"h" + bytes([level]) + make for level in range(levels))
    return b"\x80\x04)" + steps


TOO_MUCH = {
    "an object kept under number 2**27": b"\x80\x02Nr\x00\x00\x00\x08.",
    "an object kept under number 2**40, in text": b"Np1099511627776\n.",
    "an object kept under a negative number": b"Np-5\n.",
    "bytes": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x.",
    "many bytes": b"\x80\x04B" + (2**31).to_bytes(4, "little") + b"x.",
    "text": b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"x.",
    "a bytearray": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"x.",
    "a frame": b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"N.",
    "a whole number": b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b"x.",
    "a key whose hash takes 2**40 steps": doubled(40, b"\x86") + b"q\x50}h\x50Ns.",
    "a key of two marked tuples": b"\x80\x04)" + b"q\x01(h\x01h\x01t" * 40 + b"q\x50}h\x50Ns.",
    "a frozenset": b"\x80\x04(" + b"K\x01\x91.",
    "an object that is doubled": b"\x80\x04)" + b"2\x86" * 40 + b".",
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_small_pickle_takes_no_memory_and_no_time(file: Path, name: str) -> None:
    write(file, TOO_MUCH[name])
    started = time.monotonic()
    with pytest.raises(ValueError, match=rf"^{file} .*\. Download it again") as error:
        within_100_mb(lambda: load_pickle(file))
    assert "MemoryError" not in str(error.value)  # the limit is not what stopped it
    assert time.monotonic() - started < 5


def test_nine_bytes_that_ask_for_gigabytes() -> None:
    path = CASES / "pickles" / "nine_bytes.pkl"
    if not path.is_file():
        pytest.skip(f"{path} is not here.")
    with pytest.raises(RefusedPickleError, match=f"^{path} asks for memory"):
        within_100_mb(lambda: load_pickle(path))


def test_what_is_shared_in_moderation_loads(file: Path) -> None:
    """One dict for many items, one text for many dicts, and tuples within tuples."""
    shared: Any = {"profile": "the same"}
    pair = ((1, 2), "a")
    content = {**dict.fromkeys(range(1000), shared), pair: [pair, pair], "self": []}
    content["self"].append(content["self"])
    found = load_pickle(write(file, content))
    assert found.pop("self")[0][0] and content.pop("self") and found == content


@pytest.mark.parametrize("code", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"Pname\n", b"NQ", b"\x97"])
def test_objects_from_outside_the_file_are_refused(file: Path, code: bytes) -> None:
    with pytest.raises(RefusedPickleError, match=f"^{file} asks for (an object|a buffer)"):
        load_pickle(write(file, b"\x80\x05" + code + b"."))


# Files that are damaged


@pytest.mark.parametrize(("layout", "protocol"), [("coo", 4), ("coo", 5), ("csr", 4), ("csc", 5)])
def test_a_file_cut_off_anywhere_is_an_error_that_names_it(file: Path, layout: str, protocol: int) -> None:
    whole = pickle.dumps(matrix(layout=layout), protocol)
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=f"{file} is truncated"):
            load_matrix(write(file, whole[:length]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_flipped_bit_crashes_nothing(file: Path, layout: str) -> None:
    """It may go unnoticed, in a value for example, but then what is loaded has the right form.

    NumPy's own classes can die of a segmentation fault here.
    """
    whole = pickle.dumps(matrix(layout=layout), 4)
    errors = 0
    for place in range(len(whole)):
        for bit in (place % 8, (place + 3) % 8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            write(file, bytes(damaged))
            try:
                shape, users, items = load_matrix(file)
            except ValueError as error:
                assert str(file) in str(error)
                errors += 1
            else:
                assert len(shape) == 2 and users.shape == items.shape and users.ndim == 1
                assert not len(users) or (0 <= users.min() <= users.max() < shape[0] and items.max() < shape[1])
    assert errors > len(whole)


def test_garbage_is_an_error_that_names_the_file(file: Path) -> None:
    rng = np.random.default_rng(0)
    for start in (b"", b"\x80\x04", b"\x80\x04\x95", b"PK\x03\x04", b"<!DOCTYPE html>"):
        for size in (0, 1, 10, 100, 1000):
            with pytest.raises(ValueError, match=f"^{file} "):
                load_matrix(write(file, start + rng.bytes(size)))


@pytest.mark.parametrize(
    ("layout", "name"),
    [("coo", "coords"), *((layout, name) for layout in LAYOUTS for name in ("_shape", "data"))]
    + [(layout, name) for layout in ("csr", "csc") for name in ("indptr", "indices")],
)
def test_a_matrix_without_one_of_its_attributes(file: Path, layout: str, name: str) -> None:
    missing = "row" if name == "coords" else name  # without coords it would have to be an older release's
    with pytest.raises(ValueError, match=rf"{file} holds a damaged matrix .*'{missing}'"):
        load_matrix(write(file, changed({name: None}, layout)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_matrix_without_any_attribute(file: Path, layout: str) -> None:
    module, name = f"scipy.sparse._{layout}", f"{layout}_matrix"
    with pytest.raises(ValueError, match=f"{file} holds a damaged matrix"):
        load_matrix(write(file, call(module, name)))


ids, ones = np.array, np.ones(4)


@pytest.mark.parametrize(
    ("layout", "state", "message"),
    [
        ("coo", {"coords": (ids([0, 3, 1, 1]), ids([0, 1, 2, 3]))}, "entry 1 names user 3, but .* 3 users x 4 items"),
        ("coo", {"coords": (ids([0, 2, 1, -1]), ids([0, 1, 2, 3]))}, "entry 3 names user -1"),
        ("coo", {"coords": (ids([0, 2, 1, 1]), ids([4, 1, 2, 3]))}, "entry 0 names item 4"),
        ("coo", {"coords": (ids([0, 2, 1, 1]), ids([0, 2**63, 2, 3], dtype="u8"))}, "entry 1 names item -"),
        ("coo", {"coords": (ids([0, 2, 1]), ids([0, 1, 2, 3]))}, "different lengths"),
        ("coo", {"coords": (ids([0, 2, 1]), ids([0, 1, 2]))}, "different lengths"),
        ("coo", {"coords": (ids([0.0, 2, 1, 1]), ids([0, 1, 2, 3]))}, "not a vector of integers"),
        ("coo", {"coords": (ids([[0], [2], [1], [1]]), ids([0, 1, 2, 3]))}, "not a vector of integers"),
        ("coo", {"coords": (ids([0, 2, 1, 1], dtype=object), ids([0, 1, 2, 3]))}, "type 'O8' instead of numbers"),
        ("coo", {"coords": (ids(list("abcd")), ids([0, 1, 2, 3]))}, "type 'U1' instead of numbers"),
        ("coo", {"coords": ([0, 2, 1, 1], [0, 1, 2, 3])}, "damaged matrix"),
        ("coo", {"coords": (ids([0, 2, 1, 1]),)}, "damaged matrix"),
        ("coo", {"data": np.ones((4, 2))}, "different lengths"),
        ("coo", {"data": np.ones(3)}, "different lengths"),
        ("coo", {"data": np.zeros(4, dtype="M8[s]")}, "type 'M8' instead of numbers"),
        ("coo", {"_shape": (3, 4, 5)}, "damaged matrix"),
        ("coo", {"_shape": (3.0, 4)}, "damaged matrix"),
        ("coo", {"_shape": ("3", 4)}, "damaged matrix"),
        ("coo", {"_shape": (-3, 4)}, "a shape of -3 x 4"),
        ("coo", {"_shape": (10**30, 10**30)}, "a shape of"),
        ("csr", {"indices": ids([1, 0, 2, 4], dtype="i4")}, "entry 3 names item 4"),
        ("csr", {"indices": ids([1, -1, 2, 3], dtype="i4")}, "entry 1 names item -1"),
        ("csc", {"indices": ids([1, 0, 2, 3], dtype="i4")}, "entry 3 names user 3"),
        ("csr", {"indptr": ids([0, 2, 1, 4])}, "indptr"),
        ("csr", {"indptr": ids([1, 1, 2, 4])}, "indptr"),
        ("csr", {"indptr": ids([0, 1, 2, 5])}, "indptr"),
        ("csr", {"indptr": ids([0, 1, 4])}, "indptr"),
        ("csr", {"indptr": ids([], dtype=int)}, "indptr"),
        ("csr", {"indptr": ids([0.0, 1, 2, 4])}, "not a vector of integers"),
        ("csc", {"indptr": ids([0, 1, 2, 4])}, "indptr"),
        ("csr", {"data": np.ones(5)}, "different lengths"),
        ("coo", {"_shape": (10**5000, 1)}, "a shape of <int> x 1"),
    ],
)  # fmt: skip
def test_a_matrix_that_was_tampered_with(file: Path, layout: str, state: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{file}.*{message}.*Download it again"):
        load_matrix(write(file, changed(state, layout)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, -0.5])
def test_entries_that_are_no_interactions(file: Path, layout: str, value: float) -> None:
    write(file, changed({"data": np.array([1, value, 1, 1])}, layout))
    with pytest.raises(ValueError, match=f"^{file}: entry 1, of user . and item ., is {value}.* or write 1 for those"):
        load_matrix(file)


@pytest.mark.parametrize("content", [{}, [1, 2], None, "text", np.ones((3, 4)), np.float64(1)])
def test_something_else_than_a_matrix(file: Path, content: Any) -> None:
    with pytest.raises(ValueError, match=f"^{file} holds a .*; a scipy.sparse matrix .* is expected"):
        load_matrix(write(file, content))
