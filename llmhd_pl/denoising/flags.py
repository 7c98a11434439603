"""Items that the model is sure about (docs/paper.md, section 4)."""

from torch import Tensor

from llmhd_pl.denoising.selection import Reduce, alone, largest


def flag(key: Tensor, fraction: float, flags: Tensor, confidence_epochs: int, reduce: Reduce = alone) -> Tensor:
    """Flag the items with the largest keys, and return those that have just been flagged often enough.

    Args:
        key: The negated variance for false positives (the lowest variances are flagged), or the variance for false
            negatives, float32 [n]. NaN is never flagged.
        fraction: The fraction to flag, eps_l(T).
        flags: The number of epochs in which each item was flagged, uint8 [n]; counted up in place.
        confidence_epochs: The number of epochs that make an item confident, eps_gamma.
        reduce: Sums a tensor over the processes.

    Returns:
        The newly confident items, bool [n].
    """
    flagged = largest(key, fraction, reduce) & (flags < 255)
    flags += flagged
    return flagged & (flags == confidence_epochs)
