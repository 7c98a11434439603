"""TruncatedLoss: T-CE, the highest losses of each batch are dropped (Wang et al., WSDM 2021)."""

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from llmhd_pl.backbones.base import Batch
from llmhd_pl.callbacks.batch_denoiser import BatchDenoiser, check_ramp, ramp_length, warn_of_slow_ramp
from llmhd_pl.denoising.baselines import truncated
from llmhd_pl.denoising.schedules import ramp


class TruncatedLoss(BatchDenoiser):
    """T-CE for pointwise losses, T-BPR for pairwise ones; the formula is ``llmhd_pl.denoising.baselines.truncated``.

    The drop rate counts both columns of a pointwise batch, though only observed items can go: twice the rate of them
    does. That is the method as published; give half the rate to compare with methods that count observed items.

    Args:
        max_drop_rate: delta, the largest fraction of a batch that is dropped.
        ramp_iterations: optimiser steps, not epochs, until the drop rate reaches it.
        ramp_epochs: epochs until then, in the place of ``ramp_iterations``: for data of any size.

    Raises:
        ValueError: an argument out of its range.
        TypeError: the module has no ``sample_weights``.
    """

    def __init__(
        self, max_drop_rate: float = 0.1, ramp_iterations: int = 30_000, ramp_epochs: int | None = None
    ) -> None:
        check_ramp(max_drop_rate, ramp_iterations, ramp_epochs)
        self.max_drop_rate, self.ramp_iterations, self.ramp_epochs = max_drop_rate, ramp_iterations, ramp_epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of a run that is too short for the drop rate."""
        warn_of_slow_ramp(trainer, self)

    @property
    def drop_rate(self) -> float:
        """delta(T), T being the optimiser steps taken so far."""
        return ramp(self._trainer.global_step, ramp_length(self._trainer, self), 0.0, self.max_drop_rate)

    def weigh(self, batch: Batch, losses: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """0 for what is dropped, 1 for the rest."""
        return truncated(losses, self.drop_rate, self.gather)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the rate."""
        pl_module.log("denoise/drop_rate", self.drop_rate)
