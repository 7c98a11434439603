"""The drop rate, which grows while a model trains: arguments, length and a warning (docs/paper.md, section 1)."""

import math
import warnings
from typing import Any, Literal, get_args

from pytorch_lightning import LightningModule, Trainer

from llmhd_pl.denoising.schedules import ramp

RateOf = Literal["samples", "interactions"]
"""What a drop rate is a fraction of: all samples, with pointwise losses observed and sampled items alike, or the
observed interactions alone."""
_CLEARLY = 0.9
"""The share of its maximum that a drop rate should reach before a run ends; a little less does no harm."""
_MANY = 999  # the number of a batch by which a module has taken a step, even if its epoch has no end


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
    """Return the length of a callback's ramp: in epochs if it has ``ramp_epochs``, in optimiser steps otherwise.

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
    return int(callback.ramp_epochs)


def steps_of_an_epoch(trainer: Trainer) -> int:
    """Return the number of optimiser steps that an epoch takes, as the trainer counts them."""
    batches = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return max(1, batches * _steps_of_a_batch(trainer))


def _steps_of_a_batch(trainer: Trainer) -> int:
    # The trainer counts the steps of all optimisers; a module with several is taken to use each for every batch.
    return max(1, len(trainer.optimizers))


def check_steps(trainer: Trainer, module: LightningModule, batch_idx: int) -> None:
    """Check that the trainer counts the optimiser steps of a module that optimises by itself.

    Args:
        trainer: The trainer, at the end of a batch.
        module: The module.
        batch_idx: The number of the batch in its epoch.

    Raises:
        RuntimeError: If it has counted none in an epoch, or in a thousand batches.
    """
    over = trainer.is_last_batch or batch_idx == _MANY
    if over and trainer.global_step == 0 and not module.automatic_optimization:
        raise RuntimeError(
            f"The trainer has counted no optimiser step in {batch_idx + 1:,} batches, and a ramp in ramp_iterations "
            f"and decide_every count in steps: nothing would ever be dropped. {type(module).__name__} optimises by "
            "itself: step the optimiser that self.optimizers() returns, without use_pl_optimizer=False."
        )


def warn_of_slow_ramp(trainer: Trainer, callback: Any) -> None:
    """Warn if a callback's drop rate will stay clearly below its maximum until the run ends."""
    length = ramp_length(trainer, callback)
    if callback.ramp_epochs is None:
        unit = "optimiser steps"
        remedy = (
            "ramp_iterations, or set ramp_epochs in its place, which suits data of any size: a method takes "
            "ramp_epochs while ramp_iterations is None (null on the command line)"
        )
        end = trainer.estimated_stepping_batches * (_steps_of_a_batch(trainer) if trainer.max_steps == -1 else 1)
    else:
        unit, remedy = "epochs", "ramp_epochs"
        end = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        if trainer.max_steps != -1:
            end = min(end, trainer.max_steps / steps_of_an_epoch(trainer))
    if end < 0:  # nobody knows how long an epoch is
        return
    reached = ramp(end, length, 0.0, callback.max_drop_rate)
    if reached < _CLEARLY * callback.max_drop_rate:
        warnings.warn(
            f"{type(callback).__name__}: the drop rate takes {length:,} {unit} to reach "
            f"{callback.max_drop_rate:g}, and this run has at most {end:,.6g}: it ends at {reached:.2g}. Lower "
            f"{remedy}.",
            stacklevel=2,
        )
