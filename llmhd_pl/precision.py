"""The floating point formats of tensors: what is kept in a wider one than the model's."""

from collections.abc import Callable

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return a tensor in float32 if its own format is smaller, and otherwise as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def widest_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def keeping_dtype(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function for ``Module._apply`` that moves tensors as ``fn`` does, but leaves them in their format.

    Args:
        fn: What ``Module._apply`` was given, such as a conversion of the whole model to bfloat16.
    """

    def moved(tensor: Tensor) -> Tensor:
        result = fn(tensor)
        return result if result.dtype == tensor.dtype else tensor.to(result.device)

    return moved
