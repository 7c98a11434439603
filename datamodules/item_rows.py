"""The text of items, from the rows of a file or a data frame that name them."""

import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def matched_texts(
    batches: Iterable[pa.RecordBatch], name: str, item_field: str, items: list[str]
) -> list[dict[str, str]]:
    """Return the fields of each item that are not empty. Of several rows of an item, the first counts.

    Args:
        batches: The rows, all columns as strings.
        name: Where they come from, for messages.
        item_field: The column with the identifiers.
        items: The identifiers of the items of the interactions.

    Raises:
        ValueError: If the rows name none of the items.
    """
    names = pa.array(items, pa.string())
    texts: list[dict[str, str]] = [{} for _ in items]
    described = np.zeros(len(items), dtype=bool)
    rows, example = 0, "none"
    for batch in _larger(batches, len(items) // 4):  # for each of them, Arrow hashes all names
        ids = batch.column(item_field)
        example = repr(ids[0].as_py()) if rows == 0 and len(batch) else example
        rows += len(batch)
        numbers = pc.fill_null(pc.index_in(ids, names), -1).to_numpy()
        fresh = np.flatnonzero(numbers >= 0)
        _, first = np.unique(numbers[fresh], return_index=True)
        fresh = fresh[first]
        fresh = fresh[~described[numbers[fresh]]]
        described[numbers[fresh]] = True
        fields = batch.drop_columns([item_field]).take(pa.array(fresh)).to_pylist() or [{}] * len(fresh)
        for number, row in zip(numbers[fresh].tolist(), fields, strict=True):
            texts[number] = {field: text for field, text in row.items() if text}
    missing = np.flatnonzero(~described)
    if len(missing) == len(items):
        raise ValueError(
            f"{name}: none of its {rows} items is in the interactions, which name items such as "
            f"{items[0]!r}; this file names {example}. Use the same {item_field} in both files."
        )
    if len(missing):
        warnings.warn(
            f"{name} has no row for {len(missing)} of {len(items)} items, such as "
            f"{items[int(missing[0])]!r}. Items without text are not judged; the loss alone decides on them.",
            stacklevel=2,
        )
    return texts


def _larger(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Join consecutive batches until they have so many rows."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= rows:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    columns = [pa.concat_arrays(parts) for parts in zip(*(batch.columns for batch in batches), strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=batches[0].schema)
