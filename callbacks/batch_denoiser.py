"""BatchDenoiser: the base of the callbacks that weight a batch by its own losses."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from llmhd_pl.callbacks.held_trainer import HeldTrainer
from llmhd_pl.callbacks.step_checks import LABELS, LOOKED_AT, check_numbers
from llmhd_pl.processes import numbers_of_all, reduced
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
        self._labelled, self._looked_at = True, 0
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

    def samples(self, batch: Batch, size: int) -> Tensor:
        """Return the samples of a batch, int64 [B], once they have been checked.

        Args:
            batch: The batch.
            size: The number of training interactions.

        Raises:
            RuntimeError: If there are none.
            IndexError: If a number is no row of the interactions. A GPU, which would have to be waited for, is asked in
                the first batches only.
        """
        sample = batch.get("sample")
        if not isinstance(sample, Tensor) or sample.dtype != torch.int64:
            raise RuntimeError(
                f"The training batch has no sample, and {type(self).__name__} needs the number of each row's training "
                "interaction, int64 [B]. Put it into the batch, where the module's sample_key says, or give it: "
                "sample_weights(batch, losses, sample=...)."
            )
        self._looks = sample.device.type == "cpu" or self._looked_at < LOOKED_AT
        self._looked_at += 1
        if self._looks:
            check_numbers(sample, size)
        return sample

    def likes(self, batch: Batch, losses: Tensor) -> Tensor | None:
        """Return which rows are those of liked items, bool [B], if the batch labels its rows with 0 and 1.

        Args:
            batch: The batch; its labels are called "label", "labels" or "target".
            losses: The losses, of which the labels must have the shape.

        Returns:
            None if there are no such labels: then every row is an observed item.
        """
        for name in LABELS if self._labelled else ():
            labels = batch.get(name)
            if not isinstance(labels, Tensor) or labels.shape != losses.shape:
                continue
            liked = labels == 1
            binary = (liked | (labels == 0)).all()
            # Ratings may be 0 and 1 in one batch, or in one process's share of it: the first others settle it for all.
            self._labelled = bool(reduced(self.trainer, (~binary).int()) == 0)
            return liked if self._labelled else None
        return None

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
