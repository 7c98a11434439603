"""BatchDenoiser: the base of the callbacks that weight a batch by its own losses."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from llmhd_pl.callbacks.held_trainer import HeldTrainer
from llmhd_pl.processes import numbers_of_all
from llmhd_pl.sample_weights import Batch, SampleWeights


class BatchDenoiser(HeldTrainer, ABC):
    """Attaches ``weigh`` to the losses of the module while it is fitted.

    Attributes:
        goes_on: Whether this fit goes on where the last one of the same module ended.

    Raises:
        TypeError: If the module does not inherit from ``SampleWeights``.
        RuntimeError: If it does, but a training step did not ask for weights.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach to the loss."""
        if stage != "fit":
            return
        if not isinstance(pl_module, SampleWeights):
            raise TypeError(
                f"{type(self).__name__} needs the losses of the batch that is being trained on, and "
                f"{type(pl_module).__name__} does not show them. Let it inherit llmhd_pl.SampleWeights and "
                "multiply its un-reduced losses by self.sample_weights(batch, losses)."
            )
        self.goes_on = self.hold(trainer, pl_module)
        pl_module.attach_denoiser(self.weigh)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check that the step asked for weights, unless it was skipped."""
        if outputs or not pl_module.automatic_optimization:
            assert isinstance(pl_module, SampleWeights)
            pl_module.require_asked()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach from the module."""
        if stage == "fit" and isinstance(pl_module, SampleWeights):
            pl_module.detach_denoiser(self.weigh)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Detach from the module when a fit fails, because Lightning does not call ``teardown`` then."""
        self.teardown(trainer, pl_module, "fit")

    @property
    def trainer(self) -> Trainer:
        """The trainer of the fit."""
        assert self._trainer is not None
        return self._trainer

    @abstractmethod
    def weigh(self, batch: Batch, losses: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the weights of a batch, as ``SampleWeights.attach_denoiser`` describes them."""

    def gather(self, values: Tensor) -> tuple[Tensor, int]:
        """Bring the values of all processes together, one number per row of the batch.

        Args:
            values: This process's, [B].

        Returns:
            The values of all processes, [m], and where this process's own begin.
        """
        if self.trainer.world_size == 1:
            return values, 0
        rank = self.trainer.global_rank
        # Shares of a batch differ, and all_gather wants them alike.
        sizes = numbers_of_all(self.trainer, len(values))
        rows = self.trainer.strategy.all_gather(F.pad(values, (0, max(sizes) - len(values))))
        return torch.cat([row[:size] for row, size in zip(rows, sizes, strict=True)]), sum(sizes[:rank])
