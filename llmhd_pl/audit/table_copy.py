"""A clean copy of the tables that TableData reads: Parquet as Parquet, CSV as CSV, and data frames as Parquet."""

import csv
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmhd_pl.audit.verdicts import WEIGHT, Verdicts, numbers_of
from llmhd_pl.datamodules.table_data import TableData
from llmhd_pl.datamodules.tabular import Tabular


def check_tables(data: TableData, weights: bool) -> None:
    """Check whether tables can be written as they are.

    Args:
        data: The data module; ``setup`` may come later.
        weights: Whether weights are to be written.

    Raises:
        ValueError: If both files have the same name, or weights are to be written and there is such a column already.
    """
    source = Tabular(data.given, "interactions")
    if weights and WEIGHT in source.schema.names:
        raise ValueError(f"{source.name} already has a column {WEIGHT!r}. Rename or remove it, or drop interactions.")
    if data.given_items is not None and _file_name(source, "interactions") == _file_name(
        Tabular(data.given_items, "items"), "items"
    ):
        raise ValueError(
            f"The interactions and the items are both in files named {_file_name(source, 'interactions')}, and a copy "
            "holds both in one folder. Rename one of the two."
        )


def write_tables(folder: Path, data: TableData, verdicts: Verdicts) -> None:
    """Write the interactions with their weights, or without those that are dropped, and copy the items.

    Args:
        folder: The folder to write to.
        data: The data module, after ``setup``.
        verdicts: What becomes of its training interactions.

    Raises:
        ValueError: If the data has changed since it was read.
        OSError: If a file cannot be read or written.
    """
    source = Tabular(data.given, "interactions")
    target = folder / _file_name(source, "interactions")
    table, *names = source.interactions(data.user, data.item, None, (), None)
    users = numbers_of(names[0], data.interactions.user_names)
    items = numbers_of(names[1], data.interactions.item_names)
    rows = verdicts.rows(users[table.users], items[table.items])
    if len(np.unique(rows[rows >= 0])) < len(verdicts.users):
        raise ValueError(f"{source.name} has changed since it was read. Audit it again.")
    count = (
        _write_csv(target, source, verdicts, rows) if source.is_csv else _write_parquet(target, source, verdicts, rows)
    )
    if count != len(rows):
        raise ValueError(f"{source.name} has changed since it was read. Audit it again.")
    if data.given_items is not None:
        given = Tabular(data.given_items, "items")
        target = folder / _file_name(given, "items")
        if given.path is not None:
            shutil.copyfile(given.path, target)
        else:
            with pq.ParquetWriter(target, given.schema) as writer:
                for batch in given.batches(given.schema.names):
                    writer.write_batch(batch)


def _file_name(source: Tabular, what: str) -> str:
    return source.path.name if source.path is not None else f"{what}.parquet"


def _write_parquet(target: Path, source: Tabular, verdicts: Verdicts, rows: np.ndarray) -> int:
    """Write Parquet, and return the number of rows that were read."""
    schema = source.schema
    if verdicts.drop is None:
        schema = schema.append(pa.field(WEIGHT, pa.float64()))
    start = 0
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in source.batches(source.schema.names):
            part = rows[start : start + len(batch)]
            start += len(batch)
            if len(part) < len(batch):
                break
            columns = batch.select(source.schema.names).columns
            if verdicts.drop is None:
                columns = [*columns, pa.array(verdicts.weights_of(part))]
            block = pa.RecordBatch.from_arrays(columns, schema=schema)
            writer.write_batch(block if verdicts.drop is None else block.filter(pa.array(~verdicts.dropped(part))))
    return start


def _write_csv(target: Path, source: Tabular, verdicts: Verdicts, rows: np.ndarray) -> int:
    """Write CSV, and return the number of rows that were read."""
    assert source.path is not None
    start = 0
    with (
        source.path.open(encoding="utf-8-sig", newline="") as file,
        target.open("w", encoding="utf-8", newline="") as copy,
    ):
        reader = (row for row in csv.reader(file) if row)  # a blank line is no row
        writer = csv.writer(copy, lineterminator="\n")
        header = next(reader)
        writer.writerow(header if verdicts.drop is not None else [*header, WEIGHT])
        for texts in _blocks(reader):
            part = rows[start : start + len(texts)]
            start += len(texts)
            if len(part) < len(texts):
                break
            if verdicts.drop is None:
                weights = verdicts.weights_of(part).tolist()
                writer.writerows([*row, f"{weight:.6g}"] for row, weight in zip(texts, weights, strict=True))
            else:
                dropped = verdicts.dropped(part).tolist()
                writer.writerows(row for row, drop in zip(texts, dropped, strict=True) if not drop)
    return start


def _blocks(reader: Iterator[list[str]], rows: int = 1 << 14) -> Iterator[list[list[str]]]:
    """Walk through rows, so many at a time."""
    while block := list(islice(reader, rows)):
        yield block
