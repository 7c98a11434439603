"""TruncatedLoss: T-CE drops the highest losses of each batch (Wang et al., WSDM 2021)."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from llmhd_pl.callbacks.batch_denoiser import BatchDenoiser
from llmhd_pl.callbacks.ramps import RateOf, check_ramp, ramp_length, warn_of_slow_ramp
from llmhd_pl.denoising.baselines import truncated
from llmhd_pl.denoising.schedules import ramp
from llmhd_pl.sample_weights import Batch


class TruncatedLoss(BatchDenoiser):
    """T-CE for pointwise losses, T-BPR for pairwise ones; the formula is ``llmhd_pl.denoising.baselines.truncated``.

    Args:
        max_drop_rate: The largest fraction of a batch that is dropped; delta in the paper.
        ramp_iterations: The number of optimiser steps, not epochs, until the drop rate reaches it.
        ramp_epochs: The number of epochs until then, in place of ``ramp_iterations``: for data of any size.
        rate_of: What the drop rate is a fraction of. "samples" is the published method: with pointwise losses it counts
            the sampled items too, though only observed items can be dropped, so that twice the rate of them is.
            "interactions" counts the observed items alone.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If the module does not inherit from ``SampleWeights``.
    """

    def __init__(
        self,
        max_drop_rate: float = 0.1,
        ramp_iterations: int = 30_000,
        ramp_epochs: int | None = None,
        rate_of: RateOf = "samples",
    ) -> None:
        check_ramp(max_drop_rate, ramp_iterations, ramp_epochs, rate_of)
        self.rate_of = rate_of
        self._steps_before = self._last_step = 0  # of earlier fits that this one goes on from; of all of them
        self._restored = False  # whether a checkpoint has brought the former
        self.max_drop_rate, self.ramp_iterations, self.ramp_epochs = max_drop_rate, ramp_iterations, ramp_epochs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach to the loss."""
        super().setup(trainer, pl_module, stage)
        self._restored = False
        if stage == "fit" and not self.goes_on:
            self._steps_before = self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count on from an earlier fit of the module, or warn of a run that is too short for the drop rate."""
        if self._restored:
            return
        if self.goes_on:
            self._steps_before = max(self._steps_before, self._last_step - trainer.global_step)
        else:
            warn_of_slow_ramp(trainer, self)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note how far the ramp has come, for another fit of the module, even if this one is broken off."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._last_step = trainer.global_step + self._steps_before

    def state_dict(self) -> dict[str, Any]:
        """Return the steps of the fits before this one."""
        return {"steps_before": self._steps_before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self._steps_before, self._restored = state_dict.get("steps_before", 0), True

    @property
    def drop_rate(self) -> float:
        """The drop rate after the optimiser steps taken so far; delta(T) in the paper."""
        steps = self.trainer.global_step + self._steps_before
        return ramp(steps, ramp_length(self.trainer, self), 0.0, self.max_drop_rate)

    def rate_for(self, losses: Tensor) -> float:
        """Return the drop rate as a fraction of all samples of the batch, as the formulas take it."""
        return self.drop_rate / 2 if self.rate_of == "interactions" and losses.dim() == 2 else self.drop_rate

    def weigh(self, batch: Batch, losses: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return 0 for what is dropped and 1 for the rest."""
        return truncated(losses, self.rate_for(losses), self.gather)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the rate."""
        pl_module.log("denoise/drop_rate", self.drop_rate)
