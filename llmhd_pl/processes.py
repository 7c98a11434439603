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
        The result, the same on every process; with one process the tensor itself. A mean is of floats.
    """
    if trainer.world_size == 1:
        return tensor
    result = tensor.clone()
    # The strategy's own reduce begins with a barrier, at which the CPU waits for a GPU in every step.
    kinds = torch.distributed.ReduceOp
    torch.distributed.all_reduce(result, kinds.MAX if operation == "max" else kinds.SUM)
    return result / trainer.world_size if operation == "mean" else result


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
    torch.distributed.barrier(group=_meeting(trainer))


def numbers_of_all(trainer: Any, number: int) -> list[int]:
    """Return a number of each process, by rank, without waiting for a GPU. Every process must call it.

    As with ``wait_for_all``, the first call must come when all processes are about to arrive.

    Args:
        trainer: A Lightning ``Trainer``.
        number: This process's number.
    """
    numbers = [torch.zeros(1, dtype=torch.int64) for _ in range(trainer.world_size)]
    torch.distributed.all_gather(numbers, torch.tensor([number]), group=_meeting(trainer))
    return [int(each) for each in numbers]


def _meeting(trainer: Any) -> Any:
    """Return the group in which the CPUs of the processes meet."""
    if trainer.strategy not in _meetings:
        _meetings[trainer.strategy] = torch.distributed.new_group(backend="gloo", timeout=_LONG)
    return _meetings[trainer.strategy]


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
