"""pad_samples: the numbers of training interactions in the shape of a padded batch; plain torch, no Lightning."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

PADDING = -1
"""What stands in ``sample`` where there is no interaction: such a loss is neither recorded nor weighted."""


def pad_samples(rows: Sequence[Sequence[int]], length: int, side: Literal["left", "right"] = "left") -> Tensor:
    """Return the samples of some sequences as one tensor, padded with -1 at one end.

    Sequences that are too long are cut at the end where shorter ones are padded, so that what is next to the other end
    stays in its place: "left" keeps the last ``length`` samples of each, as models do that predict the next item, and
    "right" keeps the first.

    Args:
        rows: The samples of each sequence in its order: the numbers of its training interactions. A row may be empty.
        length: The length L of the padded sequences.
        side: The end that is padded, and at which sequences that are too long are cut.

    Returns:
        The samples, int64 [B, L]; -1 is padding.

    Raises:
        ValueError: If ``length`` is below 1 or ``side`` is neither "left" nor "right".
    """
    if length < 1:
        raise ValueError(f"length is {length}; the padded sequences need at least one place.")
    if side not in ("left", "right"):
        raise ValueError(f"side is {side!r}; it must be 'left' or 'right'.")
    padded = torch.full((len(rows), length), PADDING, dtype=torch.int64)
    for row, samples in zip(padded, rows, strict=True):
        kept = samples[-length:] if side == "left" else samples[:length]
        places = slice(length - len(kept), length) if side == "left" else slice(len(kept))
        row[places] = torch.as_tensor(kept, dtype=torch.int64)
    return padded
