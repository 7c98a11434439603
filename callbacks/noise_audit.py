"""NoiseAudit: how good the decisions are, where the data knows the truth. Only the log is told."""

from pathlib import Path

import numpy as np
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, int8, stack

from llmhd_pl.callbacks.epoch_end import EpochEndCallback
from llmhd_pl.denoising.epoch import Epoch
from llmhd_pl.denoising.store import CLEAN, HARD, observed
from llmhd_pl.files import write_or_warn
from llmhd_pl.processes import own_file
from llmhd_pl.training_data import known_noise

HARD_KIND, NOISE_KIND = 1, 2


class NoiseAudit(EpochEndCallback):
    """Logs precision and recall of "dropped is noise" and of "kept is hard", over the observed items.

    *Dropped* has weight 0 in the next epoch. *Kept* was in the noise set and found hard. That is right if the data says
    that the sample is hard or, where the data only tells noise from the rest, if it is not noise. The recall of "kept
    is hard" counts the hard samples of the noise set. After the last epoch ``audit.npz`` in the run's folder holds
    ``kind`` (0 easy, 1 hard, 2 noise), ``status``, ``loss`` and ``variance`` of every sample; if it cannot be written,
    there is a warning.

    Place it after the callbacks that decide. Data without noise (``noise_ratio`` 0) is not audited.

    Raises:
        ValueError: If the noise is that of other samples.
        RuntimeError: If there is no ``SampleRecorder`` before it, if a callback that decides comes after it, or if the
            noise is not known: neither ``SampleRecorder(noise=...)`` nor the data module's ``noise_mask`` says it.
    """

    decides = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the recorder and the truth."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        noise = known_noise(trainer, self, self.recorder.noise)
        if len(noise) != len(self.recorder.users):
            raise ValueError(
                f"The data module's noise_mask has {len(noise):,} samples, and SampleRecorder was given "
                f"{len(self.recorder.users):,}. Give it their noise, too."
            )
        kinds = getattr(getattr(trainer, "datamodule", None), "train_kinds", None)
        if "noise" in self.recorder.given or "users" in self.recorder.given:  # the data module's are of other samples
            kinds = None
        self.kinds: Tensor = noise.to(int8) * NOISE_KIND if kinds is None else kinds
        self._knows = bool((self.kinds == NOISE_KIND).any())

    def at_epoch_end(self, trainer: Trainer, pl_module: LightningModule, epoch: Epoch) -> None:
        """Compare the decisions with the truth."""
        if not self._knows:
            return
        seen = ~observed(epoch.losses).isnan()
        dropped = (observed(epoch.weights) == 0) & seen
        status = observed(epoch.status)
        kinds = self.kinds.to(status.device)
        noise = kinds == NOISE_KIND
        hard = kinds == HARD_KIND if bool((kinds == HARD_KIND).any()) else ~noise
        kept = (status == HARD) & seen
        suspicious = (status != CLEAN) & seen
        groups = (dropped, dropped & noise, noise & seen, kept, kept & hard, suspicious & hard)
        counts = epoch.reduce(stack([group.sum() for group in groups])).tolist()
        shares = {
            "dropped_is_noise_precision": (counts[1], counts[0]),
            "dropped_is_noise_recall": (counts[1], counts[2]),
            "kept_is_hard_precision": (counts[4], counts[3]),
            "kept_is_hard_recall": (counts[4], counts[5]),
        }
        for name, (part, whole) in shares.items():
            pl_module.log(f"audit/{name}", part / whole if whole else float("nan"))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``audit.npz``: with one process for all samples, with several for each process's own."""
        if not self._knows:
            return
        store = self.recorder.store
        path = own_file(trainer, Path(trainer.log_dir or trainer.default_root_dir) / "audit.npz")

        def write(part: Path) -> None:
            with part.open("wb") as file:
                np.savez_compressed(
                    file,
                    kind=self.kinds.numpy(),
                    status=observed(store.status).cpu().numpy(),
                    loss=observed(store.losses).cpu().numpy(),
                    variance=store.variances()[0].cpu().numpy(),
                )

        write_or_warn(path, write)
