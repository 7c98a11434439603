"""The text of the nodes of one type in a graph of PyTorch Geometric."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmhd_pl.datamodules.interactions import encodable

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


def item_texts(
    graph: "HeteroData", node_type: str, count: int, texts: Sequence[str | Mapping[str, Any]] | None
) -> list[dict[str, str]]:
    """Return the text fields of each item; an empty list if no item has text.

    Without ``texts``, every attribute of the items that is a list (or an array) of one string per item is a field. A
    value that is None, NaN or empty is left out.

    Args:
        graph: The graph.
        node_type: The type of the items.
        count: The number of items.
        texts: The texts, by number of the item; a string becomes the field "text".

    Raises:
        ValueError: If there are not as many texts as items, or a value is neither a string nor a number.
    """
    if texts is None:
        store = graph[node_type]
        columns = {str(name): list(store[name]) for name in store.keys() if _is_text(store[name], count)}  # noqa: SIM118
        rows: list[Any] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    else:
        rows = list(texts)
        if len(rows) != count:
            raise ValueError(
                f"There are {len(rows)} texts for {count} nodes of type {node_type!r}. Give one for each, and {{}} for "
                "a node without text."
            )
    found: list[dict[str, str]] = []
    for number, row in enumerate(rows):
        fields = {"text": row} if isinstance(row, str) else row
        if not isinstance(fields, Mapping):
            raise ValueError(f"The text of {node_type} {number} is a {type(row).__name__}; give a string or a dict.")
        found.append({})
        for name, value in fields.items():
            if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
                continue
            if not isinstance(value, (str, int, float, np.integer, np.floating)):
                raise ValueError(
                    f"The field {name!r} of the text of {node_type} {number} is a {type(value).__name__}; give a "
                    "string."
                )
            found[number][encodable(name)] = encodable(value)
    return found if any(found) else []


def _is_text(values: Any, count: int) -> bool:
    """Return whether an attribute holds a string for each item, or None or NaN in its place."""
    if not isinstance(values, (list, tuple, np.ndarray)) or len(values) != count:
        return False
    missing = [value is None or (isinstance(value, float) and math.isnan(value)) for value in values]
    return not all(missing) and all(gone or isinstance(value, str) for gone, value in zip(missing, values, strict=True))
