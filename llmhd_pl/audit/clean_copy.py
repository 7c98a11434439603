"""Writes the data of an audit anew, with a weight for each interaction or without those that are to be dropped."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmhd_pl.audit.findings import Audit
from llmhd_pl.audit.layouts import check_layout, write_layout
from llmhd_pl.audit.verdicts import Verdicts
from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.datamodules.interactions import Interactions
from llmhd_pl.files import check_new_folder, storable, whole_folder
from llmhd_pl.llm.texts import item_title

SUSPICIOUS = "suspicious.parquet"
"""The file that lists the judged interactions."""
_LEAST = 1e-6
_ROWS = 1 << 18
"""The rows of suspicious.parquet that are made at once."""


def check_folder(folder: Path, data: InteractionDataModule, weights: bool = True) -> None:
    """Check, before an audit begins, what would keep ``write_clean_copy`` from writing its folder.

    Args:
        folder: The folder that is to be written.
        data: The data module; ``setup`` may come later.
        weights: Whether weights are to be written; False if interactions are to be dropped.

    Raises:
        ValueError: If the folder is not new or empty, or is, holds or lies in the folder of the data, or if the data
            cannot be written as it is: noise was planted in it, or it has weights already. For a data module in
            none of the layouts that can be written there is no error here: ``suspicious.parquet`` can be.
        OSError: If nothing may be written where the folder is to be.
    """
    target = folder.resolve()
    home = getattr(data, "data_dir", None) or getattr(getattr(data, "data", None), "root", None)
    if home is not None:
        source = Path(home).resolve()
        if target == source or target in source.parents or source in target.parents:
            where = "is" if target == source else "lies in" if source in target.parents else "is around"
            raise ValueError(f"{folder} {where} the folder of the data, {home}. Name a new folder beside it.")
    check_new_folder(folder)
    check_layout(data, weights)


def write_clean_copy(
    folder: Path, audit: Audit, data: InteractionDataModule, drop: np.ndarray | None = None
) -> list[Path]:
    """Write the interactions in the layout in which they came, by the identifiers of their source.

    The weight of an interaction is the probability that it is right, ``1 - chance``, and 1 if it was not judged. It is
    at least 1e-6, because many programs take a 0 for no interaction. With ``drop``, the interactions that it names are
    left out instead, and no weights are written. Interactions of the validation and test split are always kept.

    * ``AtomicFiles``: the ``.inter`` file with every row as it was, byte for byte, and one more column,
      ``weight:float``; blank lines are left out. All rows of a pair of user and item are treated alike. Rows that were
      not audited, such as those of the validation and test split or below ``rating_threshold``, have the weight 1.
    * ``TableData``: the interactions with all columns, in the order of the rows, and one more column, ``weight``.
      Parquet stays Parquet with the same types, CSV stays CSV with the same texts, and a data frame becomes
      ``interactions.parquet``. Rows are treated as those of ``AtomicFiles``. The items are copied.
    * The layout of RLMRec: ``trn_mat.pkl`` as a COO matrix of float64 whose values are the weights; RLMRec itself asks
      only which are not 0. It holds the training interactions that were audited, noise that was planted included.
    * ``HeteroGraphData``: ``graph.pt``, the graph with ``weight``, float32 [E], for each edge of the edge type and of
      its reverse, or without the dropped edges. ``torch.load(path, weights_only=False)`` reads it. Edges in no training
      split have the weight 1, and ``edge_label_index`` stays as it is.

    The other files of the data's folder are copied, but not its folders, files whose names begin with a dot and the
    ``suspicious.parquet`` of an earlier audit. For any data, ``suspicious.parquet`` lists the judged interactions, the
    most suspicious first: ``user`` and ``item`` (as the source calls them), ``title``, ``score``, ``p_value``,
    ``chance`` and ``sample``, the number of the training interaction.

    The folder appears when all of it is written. A process that is killed leaves a folder beside it whose name begins
    with a dot and ends in ``.part``; it can be removed.

    Args:
        folder: The folder to write, new or empty.
        audit: What was found out about the training interactions.
        data: The data module that was audited, after ``setup``.
        drop: Which training interactions are left out, bool [n]; None keeps all and writes weights.

    Returns:
        The files that were written, sorted.

    Raises:
        ValueError: If ``check_folder`` has something against it, the audit is not of this data, no interaction would be
            left, or the data has changed since it was read. Also, after ``suspicious.parquet`` was written, if
            the data is in none of these layouts.
        OSError: If the folder cannot be written. What was written of it is removed.
    """
    check_folder(folder, data, weights=drop is None)
    verdicts = _verdicts(audit, data, drop)
    with whole_folder(folder) as part:
        _write_suspicious(part / SUSPICIOUS, audit, data.interactions)
        known = write_layout(part, data, verdicts, besides=SUSPICIOUS)
    if not known:
        raise ValueError(
            f"{folder / SUSPICIOUS} was written, but no copy of the data: of the data modules, AtomicFiles, "
            f"TableData, Yelp, AmazonBooks, Steam and HeteroGraphData come in a layout that can be written, "
            f"{type(data).__name__} does not. Take users and items from suspicious.parquet."
        )
    return sorted(folder.iterdir())


def _verdicts(audit: Audit, data: InteractionDataModule, drop: np.ndarray | None) -> Verdicts:
    """Return what becomes of each training interaction."""
    users, items = data.train_users.numpy(), data.train_items.numpy()
    if not (np.array_equal(audit.users, users) and np.array_equal(audit.items, items)):
        raise ValueError(
            f"The audit of {audit.data} is not about the training interactions of {data.interactions.name}. Audit them."
        )
    if drop is not None:
        if drop.dtype != bool or drop.shape != users.shape:
            raise ValueError(f"drop is {drop.dtype} {list(drop.shape)}; it must be bool [{len(users)}].")
        if drop.all():
            raise ValueError(f"All {len(users)} training interactions would be dropped. Raise the bound.")
    weights = np.where(np.isnan(audit.chance), 1.0, 1 - audit.chance).clip(_LEAST, 1)
    return Verdicts(users, items, data.num_items, weights, drop)


def _write_suspicious(path: Path, audit: Audit, data: Interactions) -> None:
    """List the judged interactions, the most suspicious first."""
    judged = np.flatnonzero(~np.isnan(audit.scores))
    order = judged[np.lexsort((-audit.p_values[judged], -audit.chance[judged]))]
    users, items = _texts(data.user_names), _texts(data.item_names)
    titles = pa.array(
        [storable(title) if (title := item_title(fields, "")) else None for fields in data.items], pa.string()
    )
    schema = pa.schema(
        [
            ("user", pa.int64() if users is None else pa.string()),
            ("item", pa.int64() if items is None else pa.string()),
            ("title", pa.string()),
            ("score", pa.float32()),
            ("p_value", pa.float64()),
            ("chance", pa.float64()),
            ("sample", pa.int64()),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(order), _ROWS):
            rows = order[start : start + _ROWS]
            user, item = pa.array(audit.users[rows]), pa.array(audit.items[rows])
            columns = {
                "user": user if users is None else users.take(user),
                "item": item if items is None else items.take(item),
                "title": titles.take(item) if len(titles) else pa.nulls(len(rows), pa.string()),
                "score": audit.scores[rows],
                "p_value": audit.p_values[rows],
                "chance": audit.chance[rows],
                "sample": rows,
            }
            writer.write_table(pa.table(columns, schema=schema))


def _texts(names: Sequence[str] | None) -> pa.Array | None:
    return None if names is None else pa.array([storable(name) for name in names], pa.string())
