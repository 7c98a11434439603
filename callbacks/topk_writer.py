"""TopKWriter: writes recommendations to a Parquet or CSV file."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from llmhd_pl.files import finish, named_error, new_part, storable
from llmhd_pl.processes import own_file

_WRITERS: dict[str, Any] = {".parquet": pq.ParquetWriter, ".csv": pc.CSVWriter}


class TopKWriter(Callback):
    """Writes what ``predict`` recommends, a row per user and place: ``user``, ``place`` (from 1), ``item``, ``score``.

    Where the source has identifiers of its own for users and items, ``user_name`` and ``item_name`` follow. The file
    appears when it is complete. With several processes each writes its own users, to ``NAME-rank0.parquet`` and so on.

    Args:
        path: The file, whose name ends in ``.parquet`` or in ``.csv`` and is written so; by default ``topk.parquet`` in
            the logger's folder.

    Raises:
        ValueError: If the name ends in anything else.
        OSError: If the file cannot be written: it is what a prediction is for. The message names it.
    """

    def __init__(self, path: str | None = None) -> None:
        if path is not None and Path(path).suffix.lower() not in _WRITERS:
            raise ValueError(
                f"The recommendations cannot be written to {path}: let its name end in .parquet or in .csv, which says "
                "how they are written."
            )
        self.path = path
        self._writer: Any = None
        self._part: Path | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a temporary file beside the final one."""
        path = Path(self.path or Path(trainer.log_dir or trainer.default_root_dir) / "topk.parquet")
        path = own_file(trainer, path)
        self._target = path
        data = getattr(getattr(trainer, "datamodule", None), "interactions", None)
        self._names: dict[Literal["user", "item"], Sequence[str] | None] = {
            "user": getattr(data, "user_names", None),
            "item": getattr(data, "item_names", None),
        }
        schema = [("user", pa.int64()), ("place", pa.int32()), ("item", pa.int64()), ("score", pa.float32())]
        schema += [(f"{what}_name", pa.string()) for what, names in self._names.items() if names is not None]
        with named_error(path):
            self._part = new_part(path)
            self._schema = pa.schema(schema)
            self._writer = _WRITERS[path.suffix.lower()](self._part, self._schema)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append one batch."""
        assert self._writer is not None
        user, item, score = (
            outputs[name].float().cpu().numpy() if name == "score" else outputs[name].cpu().numpy()
            for name in ("user", "item", "score")
        )
        unseen = np.isfinite(score)
        row, place = unseen.nonzero()
        columns: dict[str, Any] = {
            "user": user[row],
            "place": (place + 1).astype(np.int32),
            "item": item[unseen],
            "score": score[unseen],
        }
        for what, names in self._names.items():
            if names is not None:
                columns[f"{what}_name"] = [storable(names[number]) for number in columns[what]]
        with named_error(self._target):
            self._writer.write_table(pa.table(columns, schema=self._schema))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the complete file its name."""
        assert self._writer is not None and self._part is not None
        with named_error(self._target):
            self._writer.close()
            finish(self._part, self._target)
        self._writer = self._part = None
        trainer.print(f"Top-K lists: {self._target}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no half-written file behind, and do not hide what went wrong."""
        if self._writer is not None:
            with contextlib.suppress(Exception):  # it may be this file that could not be written
                self._writer.close()
        if self._part is not None:
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)
        self._writer = self._part = None
