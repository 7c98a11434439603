"""The drop rate, which grows while a model trains: arguments, length and a warning (docs/paper.md, section 1)."""

import math
import warnings
from typing import Any, Literal, get_args

from pytorch_lightning import Trainer

from llmhd_pl.denoising.schedules import ramp

RateOf = Literal["samples", "interactions"]
"""What a drop rate is a fraction of: all samples, with pointwise losses observed and sampled items alike, or the
observed interactions alone."""


def check_ramp(max_drop_rate: float, ramp_iterations: int, ramp_epochs: int | None, rate_of: RateOf) -> None:
    """Check the arguments of a drop rate.

    Raises:
        ValueError: If one of them is out of its range.
    """
    if not 0 <= max_drop_rate <= 1:
        raise ValueError(f"max_drop_rate is {max_drop_rate}; it is a fraction, from 0 to 1.")
    if ramp_iterations < 1:
        raise ValueError(f"ramp_iterations is {ramp_iterations}; it counts optimiser steps and must be at least 1.")
    if ramp_epochs is not None and ramp_epochs < 1:
        raise ValueError(f"ramp_epochs is {ramp_epochs}; it counts epochs and must be at least 1.")
    if rate_of not in get_args(RateOf):
        raise ValueError(f"rate_of is {rate_of!r}; it must be 'samples' or 'interactions'.")


def ramp_length(trainer: Trainer, callback: Any) -> int:
    """Return the number of optimiser steps until a callback's drop rate is at its maximum.

    Args:
        trainer: The trainer, once it knows its batches.
        callback: Has ``ramp_iterations`` and ``ramp_epochs``.

    Raises:
        ValueError: If the length is given in epochs and an epoch has no end.
    """
    if callback.ramp_epochs is None:
        return int(callback.ramp_iterations)
    if math.isinf(trainer.num_training_batches):
        raise ValueError("ramp_epochs needs epochs that end; give ramp_iterations for a data loader without a length.")
    batches = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return int(callback.ramp_epochs * batches * _steps_of_a_batch(trainer))


def _steps_of_a_batch(trainer: Trainer) -> int:
    # The trainer counts the steps of all optimisers; a module with several is taken to use each for every batch.
    return max(1, len(trainer.optimizers))


def warn_of_slow_ramp(trainer: Trainer, callback: Any) -> None:
    """Warn if a callback's drop rate will not reach half of its maximum before the run ends."""
    steps, length = trainer.estimated_stepping_batches, ramp_length(trainer, callback)
    if trainer.max_steps == -1:
        steps *= _steps_of_a_batch(trainer)
    reached = ramp(steps, length, 0.0, callback.max_drop_rate)
    if reached < callback.max_drop_rate / 2:
        remedy = "ramp_iterations, or set ramp_epochs=10, which suits data of any size"
        warnings.warn(
            f"{type(callback).__name__}: the drop rate takes {length:,} optimiser steps to reach "
            f"{callback.max_drop_rate:g}, and this run has at most {steps:,}: it ends at {reached:.2g}. Lower "
            f"{remedy if callback.ramp_epochs is None else 'ramp_epochs'}.",
            stacklevel=2,
        )
