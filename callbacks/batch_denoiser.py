"""BatchDenoiser: what the callbacks share that judge a batch by its own losses."""

import math
import warnings
from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from llmhd_pl.denoising.schedules import ramp
from llmhd_pl.sample_weights import Batch, SampleWeights

RateOf = Literal["samples", "interactions"]
"""What a drop rate is a fraction of: all samples, with pointwise losses observed and sampled items alike, or observed
interactions alone."""


class BatchDenoiser(Callback, ABC):
    """Attaches ``weigh`` to the module's losses while it is fitted.

    Raises:
        TypeError: the module has no ``sample_weights``.
        RuntimeError: it has, but a step did not call it.
    """

    _trainer: Trainer

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
        self._trainer = trainer
        pl_module.attach_denoiser(self.weigh)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check that the step asked for weights, unless it was skipped."""
        if outputs:
            assert isinstance(pl_module, SampleWeights)
            pl_module.require_asked()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the module."""
        if stage == "fit" and isinstance(pl_module, SampleWeights):
            pl_module.detach_denoiser(self.weigh)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the module when a fit fails, where Lightning leaves out the teardown."""
        self.teardown(trainer, pl_module, "fit")

    @abstractmethod
    def weigh(self, batch: Batch, losses: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """What ``SampleWeights.attach_denoiser`` asks of a denoiser."""

    def gather(self, values: Tensor) -> tuple[Tensor, int]:
        """The values of all processes, [m], from [B] each, and where this process's own begin; one number per row."""
        if self._trainer.world_size == 1:
            return values, 0
        strategy, rank = self._trainer.strategy, self._trainer.global_rank
        # Shares of a batch differ, and all_gather wants them alike.
        sizes = strategy.all_gather(torch.tensor([len(values)], device=values.device)).flatten().tolist()
        rows = strategy.all_gather(F.pad(values, (0, max(sizes) - len(values))))
        return torch.cat([row[:size] for row, size in zip(rows, sizes, strict=True)]), sum(sizes[:rank])


def check_ramp(max_drop_rate: float, ramp_iterations: int, ramp_epochs: int | None) -> None:
    """Check the arguments of a drop rate.

    Raises:
        ValueError: one is out of its range.
    """
    if not 0 <= max_drop_rate <= 1:
        raise ValueError(f"max_drop_rate is {max_drop_rate}; it is a fraction, from 0 to 1.")
    if ramp_iterations < 1:
        raise ValueError(f"ramp_iterations is {ramp_iterations}; it counts optimiser steps and must be at least 1.")
    if ramp_epochs is not None and ramp_epochs < 1:
        raise ValueError(f"ramp_epochs is {ramp_epochs}; it counts epochs and must be at least 1.")


def check_rate_of(rate_of: RateOf) -> None:
    """Check what a drop rate is a fraction of.

    Raises:
        ValueError: If it is neither of the two.
    """
    if rate_of not in get_args(RateOf):
        raise ValueError(f"rate_of is {rate_of!r}; it must be 'samples' or 'interactions'.")


def ramp_length(trainer: Trainer, callback: Any) -> int:
    """Optimiser steps until a callback's drop rate is at its maximum, once the trainer knows its batches.

    Raises:
        ValueError: the length is given in epochs, and an epoch has no end.
    """
    if callback.ramp_epochs is None:
        return int(callback.ramp_iterations)
    if math.isinf(trainer.num_training_batches):
        raise ValueError("ramp_epochs needs epochs that end; give ramp_iterations for a data loader without a length.")
    return int(callback.ramp_epochs * math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))


def warn_of_slow_ramp(trainer: Trainer, callback: Any) -> None:
    """Warn of a drop rate that will not reach half its maximum before the run ends."""
    steps, length = trainer.estimated_stepping_batches, ramp_length(trainer, callback)
    reached = ramp(steps, length, 0.0, callback.max_drop_rate)
    if reached < callback.max_drop_rate / 2:
        remedy = "ramp_iterations, or set ramp_epochs=10, which suits data of any size"
        warnings.warn(
            f"{type(callback).__name__}: the drop rate takes {length:,} optimiser steps to reach "
            f"{callback.max_drop_rate:g}, and this run has at most {steps:,}: it ends at {reached:.2g}. Lower "
            f"{remedy if callback.ramp_epochs is None else 'ramp_epochs'}.",
            stacklevel=2,
        )
