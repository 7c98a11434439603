"""The layouts of clean copies: atomic files, RLMRec's matrices, tables and graphs of PyTorch Geometric."""

import io
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import rich.progress
import scipy.sparse as sp
import torch
from torch import Tensor

from llmhd_pl.audit.table_copy import check_tables, write_tables
from llmhd_pl.audit.verdicts import WEIGHT, Verdicts, numbers_of
from llmhd_pl.datamodules.atomic import AtomicFiles
from llmhd_pl.datamodules.atomic_file import AtomicFile
from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.datamodules.hetero import HeteroGraphData
from llmhd_pl.datamodules.hetero_edges import EdgeType, choose_edge_type, exchanged, only_graph
from llmhd_pl.datamodules.rlmrec import RLMRecDataModule
from llmhd_pl.datamodules.table_data import TableData

_BLOCK = 1 << 20
"""The bytes of an .inter file that are copied at once."""
_SHOWN_FROM = 64 << 20
"""The bytes from which copying takes so long that a bar is shown."""


def check_layout(data: InteractionDataModule, weights: bool) -> None:
    """Check whether data can be written as it is, before it is audited.

    Args:
        data: The data module; ``setup`` may come later.
        weights: Whether weights are to be written.

    Raises:
        ValueError: If noise is planted that has no row in the source, or the source has weights already.
    """
    if not isinstance(data, (AtomicFiles, HeteroGraphData, TableData)):
        return
    kind = type(data).__name__
    if data.noise_ratio > 0:
        raise ValueError(
            f"noise_ratio is {data.noise_ratio}, but planted interactions have no row in the data of {kind} that could "
            "be written. Set noise_ratio to 0 to write a copy."
        )
    if isinstance(data, TableData):
        check_tables(data, weights)
        return
    if not weights:
        return
    if isinstance(data, AtomicFiles):
        path = data.only_file("inter")
        if path is not None and WEIGHT in AtomicFile(path).types:
            raise ValueError(f"{path} already has a column {WEIGHT!r}. Rename or remove it, or drop interactions.")
    else:
        graph = only_graph(data.data)
        for edge_type in _both_ways(graph, choose_edge_type(graph, data.edge_type)):
            if WEIGHT in graph[edge_type]:
                raise ValueError(
                    f"Edge type {edge_type} already has an attribute {WEIGHT!r}. Rename or remove it, or drop "
                    "interactions."
                )


def write_layout(folder: Path, data: InteractionDataModule, verdicts: Verdicts, besides: str) -> bool:
    """Write the data to an existing folder, in the layout in which it came.

    Args:
        folder: The folder.
        data: The data module, after ``setup``.
        verdicts: What becomes of its training interactions.
        besides: The name of a file that stands in the folder already and is not copied.

    Returns:
        Whether the layout is known; nothing is written if it is not.

    Raises:
        ValueError: If the data has changed since it was read, or a graph holds edges in another form too.
        OSError: If a file cannot be read or written.
    """
    if isinstance(data, AtomicFiles):
        path = Path(data.interactions.name)
        _write_inter(folder / path.name, path, data, verdicts)
        _copy_others(folder, data.data_dir, {path.name, besides})
    elif isinstance(data, RLMRecDataModule):
        _write_matrix(folder / "trn_mat.pkl", data, verdicts)
        _copy_others(folder, data.data_dir, {"trn_mat.pkl", besides})
    elif isinstance(data, TableData):
        write_tables(folder, data, verdicts)
    elif isinstance(data, HeteroGraphData):
        _write_graph(folder / "graph.pt", data, verdicts)
    else:
        return False
    return True


def _copy_others(folder: Path, source: Path, names: set[str]) -> None:
    """Copy the files of the source that are not hidden, but not those of these names."""
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name not in names:
            try:
                file = path.open("rb")
            except OSError as error:
                raise ValueError(
                    f"{path} cannot be copied ({error.strerror}). See to it that it can be read, or move it elsewhere."
                ) from error
            with file, (folder / path.name).open("wb") as copy:
                shutil.copyfileobj(file, copy)


# Atomic files


def _write_inter(target: Path, path: Path, data: AtomicFiles, verdicts: Verdicts) -> None:
    """Copy the rows of an .inter file as they are, with their weights or without those that are dropped."""
    table, *names = AtomicFile(path).interactions(data.user_field, data.item_field, None, (), None)
    users = numbers_of(names[0], data.interactions.user_names)
    items = numbers_of(names[1], data.interactions.item_names)
    found = np.zeros(len(verdicts.users), dtype=bool)
    start = 0
    header = True
    size = path.stat().st_size
    with (
        rich.progress.open(
            path, "rb", description=f"copying {path.name}", transient=True, disable=size < _SHOWN_FROM
        ) as source,
        target.open("wb") as copy,
    ):
        for lines in _lines(source):
            if header and lines:
                header = False
                copy.write(lines[0] if verdicts.drop is not None else _with(lines[0], WEIGHT + ":float"))
                del lines[0]
            lines = [line for line in lines if line.rstrip(b"\r\n")]  # a blank line is no row
            block = slice(start, start + len(lines))
            start = block.stop
            if start > len(table):
                break
            rows = verdicts.rows(users[table.users[block]], items[table.items[block]])
            found[rows[rows >= 0]] = True
            if verdicts.drop is None:
                weights = verdicts.weights_of(rows).tolist()
                copy.writelines(_with(line, f"{weight:.6g}") for line, weight in zip(lines, weights, strict=True))
            else:
                dropped = verdicts.dropped(rows).tolist()
                copy.writelines(line for line, drop in zip(lines, dropped, strict=True) if not drop)
    if start != len(table) or not found.all():
        raise ValueError(f"{path} has changed since it was read. Audit it again.")


def _lines(file: IO[bytes]) -> Iterator[list[bytes]]:
    """Walk through the lines of a file with their ends, which are those that ``AtomicFile`` knows, block by block."""
    rest = b""
    while block := file.read(_BLOCK):
        lines = (rest + block).splitlines(keepends=True)
        rest = lines.pop()  # it may go on in the next block, and "\r" may be half of "\r\n"
        yield lines
    yield [rest]


def _with(line: bytes, field: str) -> bytes:
    """Return a line with one more field."""
    row = line.rstrip(b"\r\n")
    return row + b"\t" + field.encode() + line[len(row) :]


# RLMRec


def _write_matrix(target: Path, data: RLMRecDataModule, verdicts: Verdicts) -> None:
    """Write the training matrix."""
    keep = slice(None) if verdicts.drop is None else ~verdicts.drop
    users, items, weights = verdicts.users[keep], verdicts.items[keep], verdicts.weights[keep]
    if verdicts.drop is not None:
        weights = np.ones(len(users))
    matrix = sp.coo_matrix((weights, (users, items)), shape=(data.num_users, data.num_items))
    with target.open("wb") as file:
        pickle.dump(matrix, file, protocol=4)


# PyTorch Geometric


def _both_ways(graph: Any, edge_type: EdgeType) -> list[EdgeType]:
    """Return an edge type and those that are its reverse: by name, or because they have the same edges."""
    users, name, items = edge_type
    others = [kind for kind in graph.edge_types if kind != edge_type and (kind[2], kind[0]) == (users, items)]
    return [edge_type, *(kind for kind in others if kind[1] == f"rev_{name}" or exchanged(graph, kind, edge_type))]


def _write_graph(target: Path, data: HeteroGraphData, verdicts: Verdicts) -> None:
    """Write the graph."""
    graph = only_graph(data.data).clone().cpu()
    edge_type = choose_edge_type(graph, data.edge_type)
    for kind in _both_ways(graph, edge_type):
        store = graph[kind]
        ends = np.asarray(store["edge_index"]).astype(np.int64)
        users, items = ends if kind == edge_type else ends[::-1]
        rows = verdicts.rows(users, items)
        if kind == edge_type and len(np.unique(rows[rows >= 0])) < len(verdicts.users):
            raise ValueError(f"Edge type {kind} of the graph has changed since it was read. Audit it again.")
        if verdicts.drop is None:
            store[WEIGHT] = torch.from_numpy(verdicts.weights_of(rows).astype(np.float32))
        else:
            _keep(store, kind, torch.from_numpy(~verdicts.dropped(rows)))
    buffer = io.BytesIO()  # on a full disk, torch.save itself raises an error that says something else
    torch.save(graph, buffer)
    target.write_bytes(buffer.getbuffer())


def _keep(store: Any, edge_type: EdgeType, keep: Tensor) -> None:
    """Keep some of the edges, and what belongs to each of them."""
    for name in ("adj", "adj_t", "num_edges"):
        if name in store:
            raise ValueError(
                f"Edge type {edge_type} has {name!r} beside edge_index, which would keep the dropped edges. Remove it "
                "from the graph; it can be made of the copy's edge_index."
            )
    count = len(keep)
    # The labels belong to edge_label_index, if there is one, and not to edge_index.
    apart = {"edge_index", "edge_label_index", "edge_label"} if "edge_label_index" in store else {"edge_index"}
    for name, value in list(store.items()):
        if name in apart:
            continue
        if isinstance(value, Tensor) and value.dim() > 0 and len(value) == count:
            store[name] = value[keep]
        elif isinstance(value, np.ndarray) and value.ndim > 0 and len(value) == count:
            store[name] = value[keep.numpy()]
        elif isinstance(value, (list, tuple)) and len(value) == count:
            store[name] = [one for one, kept in zip(value, keep.tolist(), strict=True) if kept]
    store["edge_index"] = store["edge_index"][:, keep]
