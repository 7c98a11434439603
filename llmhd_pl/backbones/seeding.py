"""Random draws that depend on a key alone, so that a resumed run repeats them."""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def seeded_generator(device: torch.device, *key: int | str) -> torch.Generator:
    """Return a generator whose draws depend on a key such as (seed, epoch) alone, not on what was drawn before.

    Args:
        device: The device of the draws.
        *key: What the draws belong to, for example a name, the seed and the epoch.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest) >> 1)


def dropout_factors(shape: Sequence[int], rate: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return what ``F.dropout`` multiplies a tensor by: 0 with some probability, else 1 / (1 - rate).

    Args:
        shape: The shape of the tensor.
        rate: The probability that an entry is zeroed, less than 1; on a CPU a multiple of 2^-16.
        generator: The source of the draws, on the device of the tensor.
        device: This device.

    Returns:
        float32 of this shape.
    """
    if device.type == "cpu":  # each draw decides about four entries, which takes half the time
        size = math.prod(shape)
        draws = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
        keep = draws.view(torch.int16)[:size].view(*shape) >= round(rate * 2**16) - 2**15
    else:
        keep = torch.rand(*shape, generator=generator, device=device) >= rate
    return keep.float().div_(1 - rate)
