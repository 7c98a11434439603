"""TopKWriter: writes recommendations to a Parquet file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from llmhd_pl.files import PART
from llmhd_pl.processes import own_file


class TopKWriter(Callback):
    """Writes what ``predict`` recommends, a row per user and place: ``user``, ``place`` (from 1), ``item``, ``score``.

    Where the source has identifiers of its own for users and items, ``user_name`` and ``item_name`` follow. The file
    appears when it is complete. With several processes each writes its own users, to ``NAME-rank0.parquet`` and so on.

    Args:
        path: The file; by default ``topk.parquet`` in the logger's folder.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self._writer: pq.ParquetWriter | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a temporary file beside the final one."""
        path = Path(self.path or Path(trainer.log_dir or trainer.default_root_dir) / "topk.parquet")
        path = own_file(trainer, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._target = path
        data = getattr(getattr(trainer, "datamodule", None), "interactions", None)
        self._names: dict[Literal["user", "item"], Sequence[str] | None] = {
            "user": getattr(data, "user_names", None),
            "item": getattr(data, "item_names", None),
        }
        schema = [("user", pa.int64()), ("place", pa.int32()), ("item", pa.int64()), ("score", pa.float32())]
        schema += [(f"{what}_name", pa.string()) for what, names in self._names.items() if names is not None]
        self._writer = pq.ParquetWriter(path.with_name(path.name + PART), pa.schema(schema))

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
                columns[f"{what}_name"] = [names[number] for number in columns[what]]
        self._writer.write_table(pa.table(columns, schema=self._writer.schema))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the complete file its name."""
        assert self._writer is not None
        self._writer.close()
        self._target.with_name(self._target.name + PART).replace(self._target)
        trainer.print(f"Top-K lists: {self._target}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no half-written file behind."""
        if self._writer is not None:
            self._writer.close()
            self._target.with_name(self._target.name + PART).unlink(missing_ok=True)
