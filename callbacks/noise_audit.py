"""NoiseAudit: how good the decisions are, where the data knows the truth; it tells nobody but the log."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from llmhd_pl.callbacks.sample_recorder import SampleRecorder, require_last, required
from llmhd_pl.denoising.store import CLEAN, HARD, observed

EASY_KIND, HARD_KIND, NOISE_KIND = 0, 1, 2


class NoiseAudit(Callback):
    """Logs precision and recall of "dropped is noise" and of "kept is hard", over the observed items.

    *Dropped* has weight 0 in the next epoch. *Kept* was in the noise set and found hard; that is right if the data says
    that the sample is hard, or, where the data only knows noise from the rest, if it is not noise. The recall of "kept
    is hard" counts the hard samples of the noise set. After the last epoch ``audit.npz`` in the run's folder holds
    ``kind`` (0 easy, 1 hard, 2 noise), ``status``, ``loss`` and ``variance`` of every sample.

    Place it after the callbacks that decide. Data that knows of no noise (``noise_ratio`` 0) is not audited.

    Raises:
        RuntimeError: there is no ``SampleRecorder`` before it, a callback that decides stands after it, or the data has
            no ``noise_mask``.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the recorder and the truth."""
        if stage != "fit":
            return
        self._recorder = required(trainer, self, SampleRecorder)
        require_last(trainer, self)
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "noise_mask"):
            raise RuntimeError("NoiseAudit needs the truth: a data module with noise_mask, as those of llmhd_pl have.")
        kinds = getattr(data, "train_kinds", None)
        self.kinds: Tensor = data.noise_mask.to(torch.int8) * NOISE_KIND if kinds is None else kinds
        self._knows = bool((self.kinds == NOISE_KIND).any())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the decisions with the truth."""
        if not self._knows:
            return
        store = self._recorder.store
        seen = ~observed(store.losses).isnan()
        dropped = (observed(store.weights) == 0) & seen
        status = observed(store.status)
        kinds = self.kinds.to(status.device)
        noise = kinds == NOISE_KIND
        hard = kinds == HARD_KIND if bool((kinds == HARD_KIND).any()) else ~noise
        kept = (status == HARD) & seen
        suspicious = (status != CLEAN) & seen
        groups = (dropped, dropped & noise, noise & seen, kept, kept & hard, suspicious & hard)
        counts = self._recorder.reduce(torch.stack([group.sum() for group in groups])).tolist()
        shares = {
            "dropped_is_noise_precision": (counts[1], counts[0]),
            "dropped_is_noise_recall": (counts[1], counts[2]),
            "kept_is_hard_precision": (counts[4], counts[3]),
            "kept_is_hard_recall": (counts[4], counts[5]),
        }
        for name, (part, whole) in shares.items():
            pl_module.log(f"audit/{name}", part / whole if whole else float("nan"))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``audit.npz``: of all samples with one process, of its own with several."""
        if not self._knows:
            return
        store = self._recorder.store
        part = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = Path(trainer.log_dir or trainer.default_root_dir) / f"audit{part}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name("part-" + path.name)
        np.savez_compressed(
            temporary,
            kind=self.kinds.numpy(),
            status=observed(store.status).cpu().numpy(),
            loss=observed(store.losses).cpu().numpy(),
            variance=store.variances()[0].cpu().numpy(),
        )
        temporary.replace(path)
