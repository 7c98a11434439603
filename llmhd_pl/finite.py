"""Numbers that are not finite end a run: a NaN that is ranked or recorded looks like a result."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Step = TypeVar("Step", bound=Callable[..., Any])

_REMEDY = (
    "Lower the learning rate, clip the gradient (--trainer.gradient_clip_val 1), or train in a wider precision; the "
    "checkpoints that were written before are intact."
)


def checks_finite(training_step: Step) -> Step:
    """Mark a ``training_step`` that itself raises if a loss or a prediction is not finite, so that nobody checks again.

    A child class that overrides the step is without the mark.
    """
    training_step.checks_finite = True  # type: ignore[attr-defined]
    return training_step


class FiniteCheck:
    """Checks the values of every training step.

    On a CPU an error is raised at once. Elsewhere a check would make each step wait for the device, so the first step
    with such a value is remembered there, and the error is raised by ``verify``.

    Args:
        what: What the values are, in the plural: "losses".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._first: Tensor | None = None  # the first step whose values were not finite, on the device

    def see(self, values: Tensor, epoch: int, step: int) -> None:
        """Check the values of a step.

        Args:
            values: The values, of any shape.
            epoch: The epoch, counted from 0.
            step: The optimiser step, counted from 0 over all epochs.

        Raises:
            FloatingPointError: If a value on a CPU is not finite.
        """
        if values.device.type == "cpu":
            # Nearly always finite values have a finite sum, which is found ten times faster than all are looked at.
            if not math.isfinite(float(values.sum())) and not values.isfinite().all():
                raise self._error(epoch, step)
            return
        finite = values.isfinite().all()
        first = torch.where(finite, torch.inf, float(step))
        self._first = first if self._first is None else torch.minimum(self._first, first)

    def verify(self, epoch: int) -> None:
        """Raise the error of a device other than the CPU.

        Args:
            epoch: The epoch.

        Raises:
            FloatingPointError: If a value since the last call was not finite.
        """
        first, self._first = self._first, None
        if first is not None and first.isfinite():
            raise self._error(epoch, int(first))

    def _error(self, epoch: int, step: int) -> FloatingPointError:
        return FloatingPointError(
            f"Epoch {epoch}, step {step}: the {self._what} are not finite (NaN or infinite). {_REMEDY}"
        )


def check_predictions(values: Tensor, where: str) -> None:
    """Check predictions before they are ranked.

    Args:
        values: The predictions, [users, items]; -inf leaves an item out of a ranking.
        where: Where they belong, for the beginning of the message: "Epoch 3".

    Raises:
        FloatingPointError: If one of them is NaN or +inf, or if all of a user's are -inf.
    """
    # The largest of some values with a NaN among them is NaN, and it is found ten times faster than all are looked at.
    if values.numel() and not values.amax(dim=-1).isfinite().all():
        raise FloatingPointError(
            f"{where}: predictions are not finite (NaN or infinite), so that a ranking by them means nothing. {_REMEDY}"
        )


def check_parameters(module: torch.nn.Module, where: str) -> None:
    """Check the parameters of a module.

    Args:
        module: The module.
        where: When it is checked, for the beginning of the message: "Epoch 3".

    Raises:
        FloatingPointError: If a parameter is not finite.
    """
    for name, parameter in module.named_parameters():
        if parameter.numel() and not parameter.detach().abs().amax().isfinite():
            raise FloatingPointError(f"{where}: the parameter {name} is not finite (NaN or infinite). {_REMEDY}")
