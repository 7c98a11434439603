"""Sums over the processes of a run; with a single process nothing is communicated."""

from typing import Any, Literal

from torch import Tensor


def reduced(trainer: Any, tensor: Tensor, operation: Literal["sum", "mean", "max"] = "sum") -> Tensor:
    """Reduce a tensor over all processes of a Lightning trainer. Every process must call it.

    Args:
        trainer: A Lightning ``Trainer``.
        tensor: This process's part, of the same shape on every process. It is not changed.
        operation: How the parts are combined.

    Returns:
        The result, the same on every process; with one process the tensor itself.
    """
    if trainer.world_size == 1:
        return tensor
    result: Tensor = trainer.strategy.reduce(tensor.clone(), reduce_op=operation)
    return result
