"""A pretend accelerator: tensors say that they are on the device ``pretend:0`` and hold data of the CPU.

Every operation is looked at. One that mixes tensors of both devices is an error, as it would be on a GPU; one for which
the CPU would have to wait for a GPU is noted with the line that asked for it. It knows nothing of kernels: the graph
product, which is a kernel of its own on a GPU, is computed on the data.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.utils.backend_registration as backends
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from llmhd_pl import graph


class _Module:
    """What PyTorch asks a device's module for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def is_autocast_enabled(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(backends._DummyBackendModule(), name)  # type: ignore[attr-defined]


backends._setup_privateuseone_for_python_backend("pretend", backend_module=_Module())
DEVICE = torch.device("pretend:0")
_OURS = ("llmhd_pl/", "callbacks/", "datamodules/")
_READS = {"_local_scalar_dense", "is_nonzero", "equal", "item"}  # a number of the device, for Python
_SIZES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}  # results of any size


class Waits:
    """Where the CPU would have waited for the device, while ``on``, and what was copied there without a wait."""

    on = False
    found: ClassVar[Counter[str]] = Counter()
    copied: ClassVar[Counter[str]] = Counter()

    @classmethod
    def note(cls, what: str, waits: bool = True) -> None:
        """Note one, with the innermost of our lines."""
        if cls.on:
            frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()]
            ours = [frame for frame in frames if any(part in frame for part in _OURS) and "site-packages" not in frame]
            others = [frame for frame in frames if "tests/pretend/" not in frame and "/torch/" not in frame]
            (cls.found if waits else cls.copied)[f"{what} at {(ours or others)[-1]}"] += 1


class Pretend(Tensor):
    """A tensor on the pretend device."""

    data_on_cpu: Tensor

    @staticmethod
    def __new__(cls, data: Tensor) -> "Pretend":
        made: Pretend = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            data.size(),
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=DEVICE,
        )
        made.data_on_cpu = data
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Bring the numbers to Python."""
        Waits.note("tolist")
        return self.data_on_cpu.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A checkpoint holds the data, as it would be read back to the CPU."""
        return self.data_on_cpu.__reduce_ex__(protocol)

    def __repr__(self, **_: Any) -> str:
        return f"Pretend({self.data_on_cpu})"


class _Everywhere(TorchDispatchMode):
    """Sees operations that make tensors on the device, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def pretend_gpu() -> Iterator[type[Waits]]:
    """Within it, the device exists. Yields what is noted."""
    plain: Callable[..., Tensor] = graph.product
    generator = torch.Generator

    def product(crow: Tensor, col: Tensor, val: Tensor, x: Tensor) -> Tensor:
        kinds = {isinstance(part, Pretend) for part in (crow, col, val, x)}
        if len(kinds) > 1:
            raise RuntimeError("the graph product mixes devices")
        if kinds == {False}:
            return plain(crow, col, val, x)
        return Pretend(plain(*(part.data_on_cpu for part in (crow, col, val, x))))  # type: ignore[attr-defined]

    Waits.found, Waits.copied = Counter(), Counter()
    graph.product = product
    torch.Generator = lambda device="cpu": generator()  # type: ignore[misc, assignment]
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _Everywhere():
            yield Waits
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        graph.product, torch.Generator, Waits.on = plain, generator, False  # type: ignore[misc]


def strategy() -> SingleDeviceStrategy:
    """The strategy of a trainer on the device."""

    class Accelerator(CPUAccelerator):
        def setup_device(self, device: torch.device) -> None:
            pass

    return SingleDeviceStrategy(DEVICE, accelerator=Accelerator())


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = func._schema.name.removeprefix("aten::")
    leaves = tree_leaves((args, kwargs))
    here = any(isinstance(leaf, Pretend) for leaf in leaves)
    asked = kwargs.get("device")
    wanted = None if asked is None else torch.device(asked).type == "pretend"
    if not here and not wanted:
        return func(*args, **kwargs)
    if here or name == "_to_copy":
        _look(name, args, kwargs, leaves, wanted)
    inside = tree_map(lambda leaf: leaf.data_on_cpu if isinstance(leaf, Pretend) else leaf, (args, kwargs))
    if asked is not None:
        inside[1]["device"] = "cpu"
    for option in ("non_blocking", "pin_memory"):
        if option in inside[1]:
            inside[1][option] = False
    result = func(*inside[0], **inside[1])
    changed = [argument for argument in func._schema.arguments if argument.alias_info and argument.alias_info.is_write]
    if changed:  # in place: the object that was given
        first, names = changed[0], [argument.name for argument in func._schema.arguments]
        given = kwargs[first.name] if first.name in kwargs else args[names.index(first.name)]
        return given if func._schema.returns else None
    if name == "_local_scalar_dense":
        return result
    if wanted is False or (wanted is None and not here):  # to the CPU; a copy, as it would be
        return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, result)
    return tree_map(lambda leaf: Pretend(leaf) if isinstance(leaf, Tensor) else leaf, result)


def _look(name: str, args: Any, kwargs: Any, leaves: list[Any], wanted: bool | None) -> None:
    """Note where the CPU would wait, and refuse mixed devices."""
    if name in _READS | _SIZES or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        Waits.note(name)
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        if not isinstance(args[0], Pretend):
            raise RuntimeError(f"{name} mixes devices: what is indexed is on the CPU")
        indices = [index for index in args[1] if index is not None]
        number = name != "index" and args[2].dim() == 0
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            if not (number and len(indices) == 1):  # which PyTorch turns into masked_fill
                Waits.note("an index of booleans")
        elif any(not isinstance(index, Pretend) for index in indices):
            Waits.note("an index on the CPU")
        elif number and not isinstance(args[2], Pretend):
            Waits.note("the assignment of a number")
        return
    if name in ("_to_copy", "copy_"):
        source, target = (args[0], wanted) if name == "_to_copy" else (args[1], isinstance(args[0], Pretend))
        target = isinstance(source, Pretend) if target is None else target
        if isinstance(source, Pretend) and not target:
            Waits.note("a copy to the CPU")
        elif target and not isinstance(source, Pretend) and (source.dim() > 0 or name == "_to_copy"):
            waits = not (kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,)))
            Waits.note("a copy from the CPU" + ("" if waits else ", not waited for"), waits)
        return
    elsewhere = [
        leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Pretend) and leaf.dim() > 0
    ]
    if elsewhere:
        raise RuntimeError(f"{name} mixes devices: {[tuple(leaf.shape) for leaf in elsewhere]} is on the CPU")
