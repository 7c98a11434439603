"""What the processes of a run do together; with a single process nothing is communicated."""

from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

_LONG = timedelta(days=7)
_meetings: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""By strategy, the group of processes that wait for each other."""


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


def wait_for_all(trainer: Any) -> None:
    """Wait until all processes have come here, for up to a week. Every process must call it.

    What one process does alone, such as asking a language model, may take longer than the half hour after which NCCL
    (and gloo) gives up on the next thing that all do together. The first call of a run must come when all of them are
    about to arrive: it makes the group that waits.

    Args:
        trainer: A Lightning ``Trainer``.
    """
    if trainer.world_size == 1:
        return
    if trainer.strategy not in _meetings:
        _meetings[trainer.strategy] = torch.distributed.new_group(backend="gloo", timeout=_LONG)
    torch.distributed.barrier(group=_meetings[trainer.strategy])


def gathered(trainer: Any, value: Any) -> list[Any]:
    """Return the values of all processes, by rank. Every process must call it.

    Args:
        trainer: A Lightning ``Trainer``.
        value: This process's value; it must be picklable.
    """
    if trainer is None or trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def own_file(trainer: Any, path: Path) -> Path:
    """Return the path of this process's own file: ``path``, or ``NAME-rankR.ending`` where there are several processes.

    Args:
        trainer: A Lightning ``Trainer``.
        path: The path that a single process would write to.
    """
    if trainer.world_size == 1:
        return path
    return path.with_name(f"{path.stem}-rank{trainer.global_rank}{path.suffix}")
