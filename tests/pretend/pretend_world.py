"""One process of a pretended run of two: it is told that there is another one, which has nothing.

What is summed over both is its own, and what comes from the other is zeros, or a copy where it is an object. The
collectives are as strict as NCCL's: a tensor of the CPU, of a type that NCCL does not know, or with gaps is an error,
and at a barrier and for an object the CPU waits for the device. A group of gloo takes tensors of the CPU alone. DDP
itself, which averages the gradients, is left out: its C++ knows no pretend tensors.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from pretend_gpu import DEVICE, Pretend, Waits, strategy
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.distributed import ReduceOp
from torch.utils._pytree import tree_leaves

GLOO = object()
"""The group that ``new_group`` returns."""
_NCCL_TYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool),
}


@contextmanager
def one_of_two(rank: int) -> Iterator[DDPStrategy]:
    """Within it, ``torch.distributed`` says that this is one of two processes. Yields the strategy of its trainer."""
    world = _World(rank)
    names = [name for name in vars(_World) if not name.startswith("_")]
    before = rank_zero_only.rank
    try:
        with patch.multiple(torch.distributed, **{name: getattr(world, name) for name in names}):
            yield _TwoDevices(
                accelerator=strategy().accelerator,
                parallel_devices=[DEVICE, DEVICE],
                cluster_environment=_Environment(rank),
            )
    finally:
        rank_zero_only.rank = before


class _World:
    """What takes the place of the functions of ``torch.distributed``."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self, group: Any = None) -> int:
        return 2

    def get_rank(self, group: Any = None) -> int:
        return self._rank

    def get_backend(self, group: Any = None) -> str:
        return "gloo" if group is GLOO else "nccl"

    def new_group(self, backend: str, timeout: Any) -> object:
        assert backend == "gloo"
        return GLOO

    def barrier(self, group: Any = None, device_ids: Any = None) -> None:
        if group is not GLOO:
            Waits.note("a barrier")

    def all_reduce(self, tensor: Tensor, op: Any = ReduceOp.SUM, group: Any = None, async_op: bool = False) -> None:
        _check(group, tensor)
        if op == ReduceOp.AVG:
            tensor.div_(2)

    def all_gather(self, tensor_list: list[Tensor], tensor: Tensor, group: Any = None) -> None:
        _check(group, tensor, *tensor_list)
        for rank, part in enumerate(tensor_list):
            part.copy_(tensor) if rank == self._rank else part.zero_()

    def broadcast(self, tensor: Tensor, src: int, group: Any = None) -> None:
        _check(group, tensor)

    def all_gather_object(self, object_list: list[Any], obj: Any) -> None:
        object_list[:] = [_sent(obj), _sent(obj)]

    def broadcast_object_list(self, object_list: list[Any], src: int, group: Any = None) -> None:
        object_list[:] = _sent(object_list)


def _check(group: Any, *tensors: Tensor) -> None:
    for tensor in tensors:
        if isinstance(tensor, Pretend) == (group is GLOO):
            raise RuntimeError(f"a collective of {'gloo' if group is GLOO else 'NCCL'} was given {tensor!r}")
        if tensor.dtype not in _NCCL_TYPES or not tensor.is_contiguous():
            raise RuntimeError(f"NCCL takes no {tensor.dtype} of strides {tensor.stride()}")


def _sent(value: Any) -> Any:
    """A copy, as another process would get it. A tensor of the device would arrive on the sender's device."""
    if any(isinstance(leaf, Pretend) for leaf in tree_leaves(value)):
        raise RuntimeError("an object that holds tensors of the device is sent to another process")
    Waits.note("an object for all")
    return pickle.loads(pickle.dumps(value))


class _Environment(LightningEnvironment):
    """As if somebody had started both processes."""

    creates_processes_externally = True

    def __init__(self, rank: int) -> None:
        super().__init__()
        self._rank = rank

    def local_rank(self) -> int:
        return self._rank


class _TwoDevices(DDPStrategy):
    """DDP without what connects the processes and without the wrapper around the module."""

    def setup_distributed(self) -> None:
        self.set_world_ranks()

    def _setup_model(self, model: Any) -> Any:
        return model
