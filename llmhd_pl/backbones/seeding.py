"""Random draws that depend on a key alone, so that a resumed run repeats them."""

import hashlib

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


def dropout(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Zero the entries of a tensor with some probability and scale the others up, as ``F.dropout`` does.

    Args:
        x: The tensor.
        rate: The probability that an entry is zeroed, less than 1; the others are multiplied by 1 / (1 - rate).
        generator: The source of the draws, on the device of ``x``.

    Returns:
        A tensor of the shape of ``x``.
    """
    keep = torch.rand(x.shape, generator=generator, device=x.device) >= rate
    return x * keep / (1 - rate)
