"""TruncatedLoss: T-CE drops the highest losses of each batch (Wang et al., WSDM 2021)."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from llmhd_pl.callbacks.batch_denoiser import BatchDenoiser
from llmhd_pl.callbacks.ramps import RateOf, check_ramp, check_steps, ramp_length, warn_of_slow_ramp
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
            "interactions" counts the observed items alone. In a batch whose rows have labels of 0 and 1, under "label",
            the observed items are those with label 1.

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
        # How far the ramp came, in steps or in epochs: in earlier fits that this one goes on from, and in all of them.
        self._before = self._last = 0.0
        self._epochs = 0.0  # the epochs of this fit, with the share of the present one
        self._restored = False  # whether a checkpoint has brought the former
        self.max_drop_rate, self.ramp_iterations, self.ramp_epochs = max_drop_rate, ramp_iterations, ramp_epochs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach to the loss."""
        super().setup(trainer, pl_module, stage)
        self._restored = False
        if stage == "fit" and not self.goes_on:
            self._before = self._last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count on from an earlier fit of the module, or warn of a run that is too short for the drop rate."""
        if self._restored:
            return
        if self.goes_on:
            begins = trainer.global_step if self.ramp_epochs is None else trainer.current_epoch
            self._before = max(self._before, self._last - begins)
        else:
            warn_of_slow_ramp(trainer, self)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the epochs."""
        self._epochs = trainer.current_epoch + batch_idx / trainer.num_training_batches

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note how far the ramp has come, for another fit of the module, even if this one is broken off."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._epochs = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        self._last = self._progress
        if self.ramp_epochs is None:
            check_steps(trainer, pl_module, batch_idx)

    def state_dict(self) -> dict[str, Any]:
        """Return how far the ramp had come before this fit."""
        return {"before": self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over."""
        older = state_dict.get("steps_before", 0.0) if self.ramp_epochs is None else 0.0  # of 0.2
        self._before, self._restored = state_dict.get("before", older), True

    @property
    def _progress(self) -> float:
        return self._before + (self.trainer.global_step if self.ramp_epochs is None else self._epochs)

    @property
    def drop_rate(self) -> float:
        """The drop rate after the optimiser steps, or the epochs, taken so far; delta(T) in the paper."""
        return ramp(self._progress, ramp_length(self.trainer, self), 0.0, self.max_drop_rate)

    def rate_for(self, losses: Tensor, liked: Tensor | None) -> float:
        """Return the drop rate as a fraction of all samples of the batch, as the formulas take it."""
        if losses.shape == (1,) and self.trainer.world_size == 1:
            return 0.0  # by the formula the last batch of an epoch would lose its only row, and a mean over none is NaN
        if self.rate_of == "samples":
            return self.drop_rate
        if liked is not None:
            everyone = self.gather(liked)[0]
            return self.drop_rate * int(everyone.sum()) / len(everyone)
        return self.drop_rate / 2 if losses.dim() == 2 else self.drop_rate

    def weigh(self, batch: Batch, losses: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return 0 for what is dropped and 1 for the rest."""
        liked = self.likes(batch, losses)
        return truncated(losses, self.rate_for(losses, liked), self.gather, liked)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the rate."""
        pl_module.log("denoise/drop_rate", self.drop_rate)
