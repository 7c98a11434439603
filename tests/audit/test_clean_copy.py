import errno
import hashlib
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_audits import made_audit
from titles import TITLES
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import ToUndirected

from llmhd_pl.audit import layouts
from llmhd_pl.audit.clean_copy import check_folder, write_clean_copy
from llmhd_pl.audit.findings import Audit
from llmhd_pl.datamodules import AtomicFiles, HeteroGraphData, InteractionDataModule, SyntheticCatalog, Yelp
from llmhd_pl.files import storable

CASES = Path(__file__).parents[3] / "shared" / "cases"
HEADER = b"user_id:token\titem_id:token\trating:float\tnote:token"
SMALL = b"user_id:token\titem_id:token\nu\ti\nv\tj\n"
"""Everybody has an item that may be a negative."""
ALL = (1, 0, 0)
Pair = tuple[Any, Any]
RATES = ("user", "rates", "item")


def audit_of(data: InteractionDataModule, chance: dict[Pair, float] | np.ndarray | None = None) -> Audit:
    """What an audit might say about data: the chance of each pair, by name or number, is 0.25 if none is given."""
    data.setup("fit")
    if isinstance(chance, np.ndarray):
        return made_audit(data, chance)
    return made_audit(data, np.array([(chance or {}).get(pair, 0.25) for pair in pairs_of(data)]))


def pairs_of(data: InteractionDataModule) -> list[Pair]:
    """The training interactions, by name if the source has names."""
    data.setup("fit")
    found = data.interactions
    users, items = data.train_users.tolist(), data.train_items.tolist()
    if found.user_names is None or found.item_names is None:
        return list(zip(users, items, strict=True))
    return [(found.user_names[user], found.item_names[item]) for user, item in zip(users, items, strict=True)]


def dropping(data: InteractionDataModule, *pairs: Pair) -> np.ndarray:
    return np.array([pair in pairs for pair in pairs_of(data)])


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """The content and the time of every file below a folder."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def shop(tmp_path: Path, inter: bytes, **others: bytes) -> Path:
    """A folder with atomic files."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.inter").write_bytes(inter)
    for ending, content in others.items():
        (folder / f"shop.{ending}").write_bytes(content)
    return folder


# Atomic files


ROWS = [
    b'001\t1.0\t5\t"tab',  # a quote is an ordinary character
    b"1\t1\t4\t\xff\xfe not UTF-8",  # nor does a note have to be text
    b"001\t1\t1\t",  # below the threshold: in no split
    b"1.0\t1.0\t5\t a\x0bb \x1c\x85",  # which Python's text would take for ends of lines
    b"001\t1.0\t3\tagain",  # the first row's pair
    b'"q"\t1\t5\t\'',
]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [True, False])
def test_every_row_stays_as_it_was_and_gets_its_weight(tmp_path: Path, end: bytes, mark: bytes, last: bool) -> None:
    folder = shop(tmp_path, mark + end.join([HEADER, *ROWS]) + end * last)
    data = AtomicFiles(str(folder), rating_threshold=2, split_ratios=ALL)
    chance = {("001", "1.0"): 0.75, ("1", "1"): 1 / 3, ("1.0", "1.0"): np.nan, ('"q"', "1"): 1.0}
    write_clean_copy(tmp_path / "copy", audit_of(data, chance), data)
    weights = [b"0.25", b"0.666667", b"1", b"1", b"0.25", b"1e-06"]
    rows = [row + b"\t" + weight for row, weight in zip(ROWS, weights, strict=True)]
    expected = mark + end.join([HEADER + b"\tweight:float", *rows]) + end * last
    assert (tmp_path / "copy" / "shop.inter").read_bytes() == expected


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_all_rows_of_a_dropped_pair_are_left_out(tmp_path: Path, end: bytes, mark: bytes) -> None:
    folder = shop(tmp_path, mark + end.join([HEADER, *ROWS]))
    data = AtomicFiles(str(folder), rating_threshold=2, split_ratios=ALL)
    drop = dropping(data, ("001", "1.0"), ('"q"', "1"))
    assert drop.sum() == 2
    write_clean_copy(tmp_path / "copy", audit_of(data), data, drop)
    expected = mark + end.join([HEADER, *ROWS[1:4]]) + end
    assert (tmp_path / "copy" / "shop.inter").read_bytes() == expected


def test_rows_that_are_not_for_training_stay_with_weight_1(tmp_path: Path) -> None:
    """Here: the validation and test split, and what the k-core removes."""
    rows = [f"{user}\t{item}" for user in "abc" for item in "uvwxy"] + ["lonely\tu"]
    folder = shop(tmp_path, "\n".join(["user_id:token\titem_id:token", *rows, ""]).encode())
    data = AtomicFiles(str(folder), k_core=3)
    write_clean_copy(tmp_path / "copy", audit_of(data), data)
    weights = dict(line.rsplit("\t", 1) for line in (tmp_path / "copy" / "shop.inter").read_text().splitlines()[1:])
    audited = {"\t".join(pair) for pair in pairs_of(data)}
    assert list(weights) == rows and len(audited) == 9
    assert {row for row, weight in weights.items() if weight == "0.75"} == audited
    assert {weights[row] for row in set(rows) - audited} == {"1"}
    write_clean_copy(tmp_path / "less", audit_of(data), data, np.arange(9) > 0)
    left = (tmp_path / "less" / "shop.inter").read_text().splitlines()[1:]
    assert left == [row for row in rows if row not in audited or row == "\t".join(pairs_of(data)[0])]


def test_other_files_are_copied_as_they_are(tmp_path: Path) -> None:
    item, user = b"\xef\xbb\xbfitem_id:token\ttitle:token_seq\r\ni\tOne \xe2\x98\x83\r\n\r\n", b"\x00\xff"
    folder = shop(tmp_path, SMALL, item=item, user=user)
    (folder / ".shop.kg").write_bytes(b"hidden")
    (folder / "suspicious.parquet").write_bytes(b"of an earlier audit")
    (folder / "sub").mkdir()
    (tmp_path / "elsewhere").write_bytes(b"linked")
    (folder / "linked.txt").symlink_to(tmp_path / "elsewhere")
    data = AtomicFiles(str(folder))
    before = snapshot(tmp_path)
    written = write_clean_copy(tmp_path / "copy", audit_of(data), data)
    names = ["linked.txt", "shop.inter", "shop.item", "shop.user", "suspicious.parquet"]
    assert written == [tmp_path / "copy" / name for name in names]
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == names
    assert [(tmp_path / "copy" / name).read_bytes() for name in (names[0], *names[2:4])] == [b"linked", item, user]
    assert not (tmp_path / "copy" / "linked.txt").is_symlink()
    assert {name: found for name, found in snapshot(tmp_path).items() if not name.startswith("copy/")} == before


ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0"), min_size=1, max_size=4)
few = st.sampled_from(["1", "01", "1.0", "1e0", "é", "e\u0301", '"', " 1", "NA", "-"])
rows = st.lists(st.tuples(ids | few, few, st.sampled_from("1345"), st.text("ab\"' ", max_size=3)), min_size=1)


@settings(max_examples=60)
@given(rows, st.sampled_from(["\n", "\r\n", "\r"]), st.randoms(use_true_random=False), st.integers(1, 40), st.data())
def test_a_copy_loads_to_the_same_and_a_shorter_one_to_what_was_kept(
    rows: list[tuple[str, ...]], end: str, random: Any, block: int, drawn: st.DataObject
) -> None:
    rows = [*rows, ("~", "~", "5", "")]  # nobody has all items, so that there are negatives
    with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "_BLOCK", block)
        text = end.join([HEADER.decode(), *("\t".join(row) + end * random.randrange(2) for row in rows)])
        folder = shop(Path(place), text.encode())
        arguments: dict[str, Any] = {"split_ratios": (0.6, 0.2, 0.2), "seed": 3}
        data = AtomicFiles(str(folder), **arguments)
        chance = np.array(drawn.draw(st.lists(st.floats(0, 1), min_size=len(rows) + 1, max_size=len(rows) + 1)))
        data.setup("fit")
        audit = audit_of(data, chance[: len(data.train_users)])
        before = snapshot(folder)
        write_clean_copy(Path(place) / "copy", audit, data)
        again = AtomicFiles(str(Path(place) / "copy"), **arguments)
        again.setup("fit")
        assert again.fingerprint == data.fingerprint
        written = pd.read_csv(
            Path(place) / "copy" / "shop.inter", sep="\t", quoting=3, dtype=str, keep_default_na=False, encoding="utf-8"
        )
        assert [tuple(row) for row in written.to_numpy()[:, :4]] == rows
        weights = dict(zip(pairs_of(data), np.maximum(1 - audit.chance, 1e-6), strict=True))
        wanted = [weights.get(row[:2], 1.0) for row in rows]
        assert written["weight:float"].astype(float).tolist() == pytest.approx(wanted, rel=1e-5)

        drop = np.array([random.random() < 0.5 for _ in audit.users])
        if drop.all():
            return
        write_clean_copy(Path(place) / "less", audit, data, drop)
        dropped = {pair for pair, gone in zip(pairs_of(data), drop, strict=True) if gone}
        less = AtomicFiles(str(Path(place) / "less"), split_ratios=ALL).interactions
        names = less.user_names or [], less.item_names or []
        assert {(names[0][user], names[1][item]) for user, item in less.train.tolist()} == {
            row[:2] for row in rows
        } - dropped
        assert snapshot(folder) == before


@given(st.text("ab\t\n\r\x0b\x85\u2028", max_size=30).map(str.encode), st.integers(1, 9))
@example(b"a\r\nb", 2)
@example(b"a\r\n", 2)
def test_lines_are_cut_where_the_reader_cuts_them(text: bytes, block: int) -> None:
    with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "_BLOCK", block)
        path = Path(place) / "lines"
        path.write_bytes(text)
        with path.open("rb") as file:
            lines = [line for lines in layouts._lines(file) for line in lines]
        assert b"".join(lines) == text
        assert [line for line in lines if line] == text.splitlines(keepends=True)


@pytest.mark.parametrize("case", ["bom", "blank-last-line", "unused-number", "everyone-has-one", "renumbered/a"])
def test_cases_that_failed_once(tmp_path: Path, case: str) -> None:
    source = CASES / case
    if not source.is_dir():
        pytest.skip(f"{source} is not here.")
    data = AtomicFiles(str(source))
    write_clean_copy(tmp_path / "copy", audit_of(data), data)
    again = AtomicFiles(str(tmp_path / "copy"))
    again.setup("fit")
    assert again.fingerprint == data.fingerprint and again.interactions.items == data.interactions.items
    lines = [line for line in (source / "x.inter").read_bytes().split(b"\n") if line] if case == "bom" else []
    copied = (tmp_path / "copy" / "x.inter").read_bytes().split(b"\n") if lines else []
    assert [line.rsplit(b"\t", 1)[0] for line in copied if line] == lines


def test_a_column_of_weights_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    folder = shop(tmp_path, b"\xef\xbb\xbfweight:float\tuser_id:token\titem_id:token\nbad\tu\ti\n1\tv\tj\n")
    data = AtomicFiles(str(folder), split_ratios=ALL)
    message = f"{folder / 'shop.inter'} already has a column 'weight'. Rename or remove it, or drop interactions."
    with pytest.raises(ValueError, match=message):
        check_folder(tmp_path / "copy", data)
    with pytest.raises(ValueError, match=message):
        write_clean_copy(tmp_path / "copy", audit_of(data), data)
    assert not (tmp_path / "copy").exists()
    check_folder(tmp_path / "copy", data, weights=False)
    write_clean_copy(tmp_path / "copy", audit_of(data), data, dropping(data, ("v", "j")))
    assert (tmp_path / "copy" / "shop.inter").read_bytes().endswith(b":token\nbad\tu\ti\n")


@pytest.mark.parametrize(
    "change", [b"u\ti\nv\tk\n", b"u\ti\n", b"u\ti\nw\tj\n"], ids=["another item", "a row less", "another user"]
)
@pytest.mark.parametrize("drops", [True, False])
def test_a_file_that_has_changed_is_not_written(tmp_path: Path, change: bytes, drops: bool) -> None:
    folder = shop(tmp_path, SMALL)
    data = AtomicFiles(str(folder), split_ratios=ALL)
    audit = audit_of(data)
    (folder / "shop.inter").write_bytes(SMALL.splitlines(keepends=True)[0] + change)
    with pytest.raises(ValueError, match=r"shop\.inter has changed since it was read\. Audit it again"):
        write_clean_copy(tmp_path / "copy", audit, data, np.array([True, False]) if drops else None)
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_an_item_that_the_data_module_does_not_know_is_nobody_elses(tmp_path: Path) -> None:
    """The first user has the last item, and the second one an item that the threshold removes."""
    inter = b"user_id:token\titem_id:token\trating:float\na\ty\t5\nb\tx\t5\nb\tunknown\t1\nunknown\ty\t1\n"
    data = AtomicFiles(str(shop(tmp_path, inter)), rating_threshold=3)
    write_clean_copy(tmp_path / "copy", audit_of(data), data)
    lines = (tmp_path / "copy" / "shop.inter").read_text().splitlines()[1:]
    assert [line.split("\t")[-1] for line in lines] == ["0.75", "0.75", "1", "1"]


def test_a_file_that_grows_while_it_is_copied_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shop(tmp_path, SMALL)
    data = AtomicFiles(str(folder))
    audit, read = audit_of(data), layouts.AtomicFile.interactions

    def read_and_grow(file: Any, *arguments: Any) -> Any:
        found = read(file, *arguments)
        (folder / "shop.inter").write_bytes(SMALL + b"w\tk\n")
        return found

    monkeypatch.setattr(layouts.AtomicFile, "interactions", read_and_grow)
    with pytest.raises(ValueError, match=r"shop\.inter has changed since it was read"):
        write_clean_copy(tmp_path / "copy", audit, data)


# RLMRec


CELLS = [(0, 0), (0, 2), (2, 3), (2, 4)]


@pytest.fixture
def yelp(tmp_path: Path) -> Path:
    """Four users, of whom two have nothing to train on, and five items."""
    folder = tmp_path / "yelp"
    folder.mkdir()
    for split, cells in (("trn", CELLS), ("val", [(0, 1), (1, 1)]), ("tst", [(2, 0)])):
        users, items = zip(*cells, strict=True)
        matrix = sp.csr_matrix((np.ones(len(cells), dtype=np.float32), (users, items)), shape=(4, 5))
        (folder / f"{split}_mat.pkl").write_bytes(pickle.dumps(matrix))
    (folder / "low_mat.pkl").write_bytes(pickle.dumps(sp.coo_matrix(([1.0], ([3], [3])), shape=(4, 5))))
    (folder / "itm_prf.pkl").write_bytes(pickle.dumps({3: {"profile": "a café"}}))
    (folder / "usr_emb_np.pkl").write_bytes(b"not looked at")
    return folder


def test_a_matrix_holds_the_weights(tmp_path: Path, yelp: Path) -> None:
    data = Yelp(str(yelp))
    before = snapshot(yelp)
    chance = {(0, 0): 1.0, (0, 2): 0.0, (2, 3): np.nan, (2, 4): 0.75}
    written = write_clean_copy(tmp_path / "copy", audit_of(data, chance), data)
    matrix = pickle.loads((tmp_path / "copy" / "trn_mat.pkl").read_bytes())
    assert isinstance(matrix, sp.coo_matrix) and matrix.dtype == np.float64 and matrix.shape == (4, 5)
    assert list(zip(matrix.row, matrix.col, matrix.data, strict=True)) == [
        *((0, 0, 1e-6), (0, 2, 1.0), (2, 3, 1.0), (2, 4, 0.25))
    ]
    # As RLMRec reads it.
    rlmrec = sp.coo_matrix((matrix != 0).astype(np.float32))
    assert list(zip(rlmrec.row, rlmrec.col, strict=True)) == CELLS
    again = Yelp(str(tmp_path / "copy"))
    again.setup("fit")
    assert again.fingerprint == data.fingerprint
    assert again.interactions.items == data.interactions.items and again.interactions.items[3]
    assert again.interactions.low_rated is not None and again.interactions.low_rated.tolist() == [[3, 3]]
    names = ["itm_prf.pkl", "low_mat.pkl", "suspicious.parquet", "trn_mat.pkl", "tst_mat.pkl", "usr_emb_np.pkl"]
    assert [path.name for path in written] == [*names, "val_mat.pkl"]
    copied = {name: digest for name, (digest, _) in snapshot(tmp_path / "copy").items()}
    assert all(copied[name] == digest for name, (digest, _) in before.items() if name != "trn_mat.pkl")
    assert snapshot(yelp) == before


def test_a_matrix_without_what_is_dropped(tmp_path: Path, yelp: Path) -> None:
    data = Yelp(str(yelp))
    write_clean_copy(tmp_path / "copy", audit_of(data, {(0, 2): 0.9}), data, dropping(data, (0, 0), (2, 4)))
    matrix = pickle.loads((tmp_path / "copy" / "trn_mat.pkl").read_bytes())
    assert list(zip(matrix.row, matrix.col, matrix.data, strict=True)) == [(0, 2, 1.0), (2, 3, 1.0)]
    again = Yelp(str(tmp_path / "copy"))
    again.setup("fit")
    assert pairs_of(again) == [(0, 2), (2, 3)] and (again.num_users, again.num_items) == (4, 5)


def test_planted_noise_is_part_of_a_matrix(tmp_path: Path, yelp: Path) -> None:
    data = Yelp(str(yelp), noise_ratio=0.5)
    audit = audit_of(data)
    assert int(data.noise_mask.sum()) == 2
    write_clean_copy(tmp_path / "copy", audit, data)
    again = Yelp(str(tmp_path / "copy"))
    again.setup("fit")
    assert pairs_of(again) == pairs_of(data) and len(pairs_of(data)) == 6


# PyTorch Geometric


EDGES = [(1, 2), (0, 0), (0, 1), (0, 1), (1, 1), (3, 4), (2, 0)]
MASKS = {"train_mask": [1, 1, 1, 1, 0, 0, 0], "val_mask": [0, 0, 0, 0, 1, 0, 0], "test_mask": [0, 0, 0, 0, 0, 1, 0]}


def graph(**more: Any) -> HeteroData:
    data = HeteroData()
    data["user"].num_nodes = 4
    data["item"].num_nodes = 5
    data["item"].title = [f"Item {number}" for number in range(5)]
    data[RATES].edge_index = torch.tensor(EDGES).T.contiguous()
    data[RATES].rating = torch.arange(7)
    for name, value in more.items():
        data[RATES][name] = value
    return data


def masks() -> dict[str, Tensor]:
    return {name: torch.tensor(mask, dtype=torch.bool) for name, mask in MASKS.items()}


def copied_graph(folder: Path) -> HeteroData:
    found = torch.load(folder / "graph.pt", weights_only=False)
    assert isinstance(found, HeteroData)
    return found


def test_edges_get_their_weights(tmp_path: Path) -> None:
    source = ToUndirected()(graph(**masks()))
    back = ("item", "rev_rates", "user")
    source[back].edge_index = source[back].edge_index.flip([1])  # its order is its own
    before = {kind: dict(source[kind].clone().items()) for kind in source.edge_types}
    data = HeteroGraphData(source)
    written = write_clean_copy(tmp_path / "copy", audit_of(data, {(1, 2): 0.5, (0, 0): np.nan, (0, 1): 1.0}), data)
    assert [path.name for path in written] == ["graph.pt", "suspicious.parquet"]
    found = copied_graph(tmp_path / "copy")
    weights = torch.tensor([0.5, 1, 1e-6, 1e-6, 1, 1, 1], dtype=torch.float32)
    assert torch.equal(found[RATES].weight, weights) and torch.equal(found[back].weight, weights.flip([0]))
    for kind, store in before.items():
        assert set(source[kind].keys()) == set(store)
        assert set(found[kind].keys()) == {*store, "weight"}
        for name, value in store.items():
            assert torch.equal(source[kind][name], value) and torch.equal(found[kind][name], value)
    assert found["item"].title == source["item"].title and found["user"].num_nodes == 4
    assert HeteroGraphData(found).interactions.train.equal(data.interactions.train)


def test_dropped_edges_are_in_nothing_of_the_graph(tmp_path: Path) -> None:
    more = {
        "edge_attr": torch.arange(14).reshape(7, 2),
        "note": list("abcdefg"),
        "array": np.arange(7),
        "shape": (1, 2, 3),
        "scalar": torch.tensor(7),
    }
    source = graph(**masks(), **more)
    source["item", "rated_by", "user"].edge_index = source[RATES].edge_index.flip([0])
    source["item", "rated_by", "user"].rating = torch.arange(7)
    source["item", "like", "item"].edge_index = torch.tensor([[0, 1], [1, 2]])
    data = HeteroGraphData(source, edge_type=RATES)
    write_clean_copy(tmp_path / "copy", audit_of(data), data, dropping(data, (0, 1)))
    found = copied_graph(tmp_path / "copy")
    store, kept = found[RATES], [0, 1, 4, 5, 6]
    assert store.edge_index.T.tolist() == [list(EDGES[row]) for row in kept]
    assert store.rating.tolist() == kept and found["item", "rated_by", "user"].rating.tolist() == kept
    assert found["item", "rated_by", "user"].edge_index.equal(store.edge_index.flip([0]))
    assert store.edge_attr.tolist() == [[2 * row, 2 * row + 1] for row in kept]
    assert (store.note, store.array.tolist(), list(store.shape), store.scalar) == (list("abefg"), kept, [1, 2, 3], 7)
    assert {name: store[name].int().tolist() for name in MASKS} == {
        name: [mask[row] for row in kept] for name, mask in MASKS.items()
    }
    assert found["item", "like", "item"].edge_index.tolist() == [[0, 1], [1, 2]] and "weight" not in store
    again = HeteroGraphData(found, edge_type=RATES)
    again.setup("fit")
    assert pairs_of(again) == [(0, 0), (1, 2)]
    assert source[RATES].num_edges == 7 and source[RATES].rating.tolist() == list(range(7))


@pytest.mark.parametrize("labels", [7, 2])
def test_the_edges_of_the_test_split_stay(tmp_path: Path, labels: int) -> None:
    """Also if there are as many of them as of the others."""
    index = torch.tensor([[3] * labels, [0, 1, 2, 3, 3, 3, 3][:labels]])
    source = graph(edge_label_index=index, edge_label=torch.ones(labels))
    data = HeteroGraphData(source, split_ratios=ALL)
    drop = dropping(data, (1, 2))
    write_clean_copy(tmp_path / "weights", audit_of(data), data)
    write_clean_copy(tmp_path / "copy", audit_of(data), data, drop)
    for folder, edges in (("weights", 7), ("copy", 6)):
        store = copied_graph(tmp_path / folder)[RATES]
        assert store.edge_label_index.equal(index) and store.edge_label.equal(torch.ones(labels))
        assert store.edge_index.shape == (2, edges)
    # Without edge_label_index, edge_label is about edge_index.
    rated = HeteroGraphData(graph(edge_label=torch.arange(7)), split_ratios=ALL)
    write_clean_copy(tmp_path / "rated", audit_of(rated), rated, dropping(rated, (1, 2)))
    assert copied_graph(tmp_path / "rated")[RATES].edge_label.tolist() == [1, 2, 3, 4, 5, 6]


def test_graphs_that_cannot_be_written(tmp_path: Path) -> None:
    data = HeteroGraphData(graph(weight=torch.ones(7)), split_ratios=ALL)
    with pytest.raises(ValueError, match=r"Edge type \('user', 'rates', 'item'\) already has an attribute 'weight'"):
        check_folder(tmp_path / "copy", data)
    check_folder(tmp_path / "copy", data, weights=False)
    data = HeteroGraphData(graph(adj_t=torch.eye(5)), split_ratios=ALL)
    with pytest.raises(ValueError, match=r"has 'adj_t' beside edge_index, .* Remove it"):
        write_clean_copy(tmp_path / "copy", audit_of(data), data, dropping(data, (0, 0)))
    source = graph()
    data = HeteroGraphData(source, split_ratios=ALL)
    audit = audit_of(data)
    source[RATES].edge_index = source[RATES].edge_index[:, 1:]
    with pytest.raises(ValueError, match=r"has changed since it was read\. Audit it again"):
        write_clean_copy(tmp_path / "copy", audit, data)
    assert list(tmp_path.iterdir()) == []


# suspicious.parquet


def test_the_most_suspicious_come_first(tmp_path: Path) -> None:
    inter = b"user_id:token\titem_id:token\n007\ta\n007\tb\n007\tc\n7\ta\n7\tc\n8\td\n"
    item = b"item_id:token\tyear:float\ttitle:token_seq\tname:token\na\t1\tOne\tx\nb\t1995.0\t\t\nc\t\t\tSea\nd\t\t\t\n"
    data = AtomicFiles(str(shop(tmp_path, inter, item=item)), split_ratios=ALL)
    audit = audit_of(data, np.array([0.5, np.nan, 0.25, 0.5, 1.0, np.nan]))
    audit.p_values[:] = [0.25, np.nan, 0.5, 0.75, 0.125, np.nan]
    audit.scores[:] = [2, np.nan, 3.5, 4, 1, np.nan]
    write_clean_copy(tmp_path / "copy", audit, data)
    table = pq.read_table(tmp_path / "copy" / "suspicious.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        **{"user": "string", "item": "string", "title": "string"},
        **{"score": "float", "p_value": "double", "chance": "double", "sample": "int64"},
    }
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("7", "c", "Sea", 1.0, 0.125, 1.0, 4),
        ("7", "a", "One", 4.0, 0.75, 0.5, 3),
        ("007", "a", "One", 2.0, 0.25, 0.5, 0),
        ("007", "c", "Sea", 3.5, 0.5, 0.25, 2),
    ]
    codec = pq.ParquetFile(tmp_path / "copy" / "suspicious.parquet").metadata.row_group(0).column(0).compression
    assert codec == "ZSTD"


def test_numbers_stay_numbers_and_titles_may_be_missing(tmp_path: Path, yelp: Path) -> None:
    data = Yelp(str(yelp))
    write_clean_copy(tmp_path / "copy", audit_of(data), data)
    table = pq.read_table(tmp_path / "copy" / "suspicious.parquet")
    assert [str(table.schema.field(name).type) for name in ("user", "item")] == ["int64", "int64"]
    assert list(zip(*(table[name].to_pylist() for name in ("user", "item", "title")), strict=True)) == [
        (user, item, None) for user, item in CELLS
    ]
    (yelp / "itm_prf.pkl").unlink()
    bare = Yelp(str(yelp))
    write_clean_copy(tmp_path / "bare", audit_of(bare), bare)
    assert pq.read_table(tmp_path / "bare" / "suspicious.parquet")["title"].to_pylist() == [None] * 4


def test_many_rows_and_nothing_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmhd_pl.audit.clean_copy._ROWS", 7)
    inter = "".join(f"u{item % 2}\ti{item:02}\n" for item in range(40))
    data = AtomicFiles(str(shop(tmp_path, b"user_id:token\titem_id:token\n" + inter.encode())), split_ratios=ALL)
    write_clean_copy(tmp_path / "copy", audit_of(data, np.linspace(0, 1, 40)), data)
    assert pq.read_table(tmp_path / "copy" / "suspicious.parquet")["sample"].to_pylist() == list(range(40))[::-1]
    write_clean_copy(tmp_path / "none", audit_of(data, np.full(40, np.nan)), data)
    assert pq.read_table(tmp_path / "none" / "suspicious.parquet").num_rows == 0
    assert (tmp_path / "none" / "shop.inter").read_text().count("\t1\n") == 40


def test_titles_of_any_characters(tmp_path: Path) -> None:
    data = SyntheticCatalog(20, 50, num_topics=5, books_per_reader=8)
    data.setup()
    names = [f"{item} {TITLES[item % len(TITLES)]}" for item in range(50)]
    data.interactions.item_names, data.interactions.user_names = names, [f"\ud800{user}" for user in range(20)]
    data.interactions.items = [{"title": name} for name in names]
    with pytest.raises(ValueError, match="was written"):
        write_clean_copy(tmp_path / "copy", audit_of(data), data)
    table = pq.read_table(tmp_path / "copy" / "suspicious.parquet").to_pylist()
    wanted = [(f"\\ud800{user}", storable(names[item])) for user, item in zip(*numbers(data), strict=True)]
    assert sorted((row["user"], row["item"]) for row in table) == sorted(wanted)
    assert all(row["title"] == row["item"] for row in table)


def numbers(data: InteractionDataModule) -> tuple[list[int], list[int]]:
    return data.train_users.tolist(), data.train_items.tolist()


def test_data_in_no_known_layout(tmp_path: Path) -> None:
    data = SyntheticCatalog(20, 50, num_topics=5, books_per_reader=8)
    check_folder(tmp_path / "copy", data)
    message = r"suspicious\.parquet was written, but no copy of the data: .*TableData, Yelp, .*SyntheticCatalog does"
    with pytest.raises(ValueError, match=message):
        write_clean_copy(tmp_path / "copy", audit_of(data), data)
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["suspicious.parquet"]
    rows = pq.read_table(tmp_path / "copy" / "suspicious.parquet").to_pylist()
    assert len(rows) == len(data.train_users) and rows[0]["title"] == data.interactions.items[rows[0]["item"]]["title"]


# What is refused


@pytest.mark.parametrize("drops", [True, False])
def test_planted_noise_has_no_row(tmp_path: Path, drops: bool) -> None:
    folder = shop(tmp_path, SMALL + b"u\tj\nv\tk\n")
    for data in (AtomicFiles(str(folder), noise_ratio=0.3), HeteroGraphData(graph(), noise_ratio=0.3)):
        with pytest.raises(ValueError, match=r"noise_ratio is 0\.3, but .* Set noise_ratio to 0 to write a copy"):
            check_folder(tmp_path / "copy", data, weights=not drops)
    with pytest.raises(ValueError, match=r"noise_ratio is 0\.3"):
        write_clean_copy(tmp_path / "copy", audit_of(data), data)


@pytest.mark.parametrize("read", [AtomicFiles, Yelp])
def test_the_folder_of_the_data_is_never_written_to(tmp_path: Path, read: type[Any]) -> None:
    folder = shop(tmp_path, SMALL)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "inside").symlink_to(folder / "new")
    before = snapshot(tmp_path)
    for data_dir in (folder, tmp_path / "link", folder / ".." / "shop"):
        data = read(str(data_dir))
        for where, place in (
            ("is", folder), ("is", tmp_path / "link"), ("is", folder / "x" / ".."), ("lies in", folder / "new"),
            ("lies in", tmp_path / "link" / "new" / "er"), ("lies in", tmp_path / "links" / "inside"),
            ("is around", tmp_path), ("is around", tmp_path.parent),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=f"^{place} {where} the folder of the data, .*Name a new folder"):
                check_folder(place, data)
    assert snapshot(tmp_path) == before
    check_folder(tmp_path / "shop-clean", data)  # the same beginning is not the same folder


def test_a_relative_folder_is_the_one_it_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop(tmp_path, SMALL)
    monkeypatch.chdir(tmp_path)
    data = AtomicFiles("shop")
    with pytest.raises(ValueError, match="lies in the folder of the data, shop"):
        check_folder(Path("shop/clean"), data)
    assert write_clean_copy(Path("a/b"), audit_of(data), data) == [
        Path("a/b/shop.inter"),
        Path("a/b/suspicious.parquet"),
    ]
    assert (tmp_path / "a" / "b" / "shop.inter").exists()


def test_only_a_new_or_empty_folder_is_written(tmp_path: Path) -> None:
    data = AtomicFiles(str(shop(tmp_path, SMALL)))
    full, file, empty, linked = (tmp_path / name for name in ("full", "file", "empty", "linked"))
    full.mkdir(), empty.mkdir(), linked.symlink_to(empty)
    (full / ".hidden").touch(), file.touch()
    with pytest.raises(ValueError, match=f"^{full} is not empty. Name a folder that is new or empty"):
        check_folder(full, data)
    with pytest.raises(ValueError, match=f"^{file} is a file"):
        check_folder(file, data)
    with pytest.raises(OSError, match=f"cannot be made, because {file} is no folder"):
        check_folder(file / "below", data)
    audit = audit_of(data)
    with pytest.raises(ValueError, match="is not empty"):
        write_clean_copy(full, audit, data)
    for place in (linked, tmp_path / "new"):
        write_clean_copy(place, audit, data)
        assert (place / "shop.inter").exists()
    assert linked.is_symlink() and (empty / "shop.inter").exists()


def test_no_folder_is_moved_onto_a_mounted_disk(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is where a disk is mounted\. Name a new folder in it"):
        check_folder(mount_point(), AtomicFiles(str(shop(tmp_path, SMALL))))


def mount_point() -> Path:
    """An empty folder where a disk is mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        path = Path(line.split()[1])
        try:
            if path.is_dir() and not any(path.iterdir()):
                return path
        except OSError:
            continue
    pytest.skip("no empty disk is mounted here")


def test_wrong_arguments(tmp_path: Path) -> None:
    data = AtomicFiles(str(shop(tmp_path, SMALL + b"u\tk\n")), split_ratios=ALL)
    audit = audit_of(data)
    for drop in (np.zeros(2, dtype=bool), np.zeros(3, dtype=np.int64)):
        with pytest.raises(ValueError, match=r"drop is .*; it must be bool \[3\]"):
            write_clean_copy(tmp_path / "copy", audit, data, drop)
    with pytest.raises(ValueError, match=r"All 3 training interactions would be dropped\. Raise the bound"):
        write_clean_copy(tmp_path / "copy", audit, data, np.ones(3, dtype=bool))
    audit.items = audit.items[::-1].copy()
    with pytest.raises(ValueError, match=r"The audit of somewhere is not about the training interactions of .*shop"):
        write_clean_copy(tmp_path / "copy", audit, data)
    assert not (tmp_path / "copy").exists()


# What goes wrong on the way


def big(tmp_path: Path) -> AtomicFiles:
    rows = "".join(f"user {row % 300}\titem {row}\n" for row in range(20_000))
    folder = shop(tmp_path, b"user_id:token\titem_id:token\n" + rows.encode(), item=b"item_id:token\nitem 0\n")
    return AtomicFiles(str(folder), split_ratios=ALL)


def limited(size: int, work: Callable[[], Any]) -> Any:
    """Do some work where no file may be larger than some bytes, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        return work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.filterwarnings("ignore:.*has no row for")
@pytest.mark.parametrize("size", [3, 20_000, 300_000])
def test_a_full_disk_leaves_nothing(tmp_path: Path, size: int) -> None:
    data = big(tmp_path)
    audit, before = audit_of(data), snapshot(tmp_path)
    (tmp_path / "copy").mkdir()
    with pytest.raises(OSError, match=f"^.*{tmp_path / 'copy'} could not be written: .*Free space on its disk"):
        limited(size, lambda: write_clean_copy(tmp_path / "copy", audit, data))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "shop"]
    assert list((tmp_path / "copy").iterdir()) == [] and snapshot(tmp_path) == before


def test_a_full_disk_leaves_no_graph_and_no_matrix(tmp_path: Path, yelp: Path) -> None:
    heavy = graph(edge_attr=torch.zeros(7, 9000))
    for data in (HeteroGraphData(heavy, split_ratios=ALL), Yelp(str(yelp))):
        if isinstance(data, Yelp):
            (yelp / "big").write_bytes(bytes(200_000))
        audit = audit_of(data)
        with pytest.raises(OSError, match="could not be written: File too large"):
            limited(100_000, lambda audit=audit, data=data: write_clean_copy(tmp_path / "copy", audit, data))
        assert [path.name for path in tmp_path.iterdir()] == ["yelp"]


@pytest.mark.filterwarnings("ignore:.*has no row for")
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError(errno.EIO, "Input/output error")])
def test_whatever_happens_before_the_end_leaves_nothing(
    tmp_path: Path, error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = big(tmp_path)
    audit, seen = audit_of(data), []

    def fail(number: int) -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        write_clean_copy(tmp_path / "copy", audit, data)
    assert len(seen) == 1 and len(seen[0]) == 2 and seen[0][0].startswith(".copy.") and seen[0][0].endswith(".part")
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = AtomicFiles(str(shop(tmp_path, SMALL, kg=b"x")))
    audit, plain = audit_of(data), Path.open

    def forbidden(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name == "shop.kg":
            raise PermissionError(errno.EACCES, "Permission denied")
        return plain(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(ValueError, match=r"shop\.kg cannot be copied \(Permission denied\)\. See to it that"):
        write_clean_copy(tmp_path / "copy", audit, data)
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


KILLED = """
import os, sys, time
from pathlib import Path
import numpy as np
from llmhd_pl.audit.clean_copy import write_clean_copy
from llmhd_pl.audit.findings import Audit, Share
from llmhd_pl.datamodules import AtomicFiles
data = AtomicFiles(sys.argv[1])
data.setup("fit")
def sleep(number):
    print("nearly", flush=True)
    time.sleep(60)
os.fsync = sleep
one = np.ones(len(data.train_users))
users, items = data.train_users.numpy(), data.train_items.numpy()
audit = Audit("", "", users, items, one.astype("float32"), one, one, Share("", 1, 1, 1, 1), 1, True, 1, one)
write_clean_copy(Path(sys.argv[2]), audit, data)
"""


def test_a_killed_process_leaves_no_folder_that_looks_done(tmp_path: Path) -> None:
    folder = shop(tmp_path, SMALL)
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "copy")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"nearly\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "copy").exists()
    data = AtomicFiles(str(folder))
    write_clean_copy(tmp_path / "copy", audit_of(data), data)  # what the other has left is in nobody's way
    assert (tmp_path / "copy" / "shop.inter").exists()
