"""Items that the model is sure of (PAPER.md, section 4)."""

from torch import Tensor

from llmhd_pl.denoising.selection import Reduce, alone, largest


def flag(key: Tensor, fraction: float, flags: Tensor, confidence_epochs: int, reduce: Reduce = alone) -> Tensor:
    """Flag the largest fraction, and say which items have now been flagged often enough, for the first time.

    Args:
        key: float32 [n]: minus the variance for false positives (the lowest are flagged), the variance for false
            negatives; NaN is not flagged.
        fraction: eps_l(T).
        flags: uint8 [n], epochs in which each was flagged; counted up in place.
        confidence_epochs: eps_gamma.
        reduce: sums over the processes.

    Returns:
        bool [n], the newly confident.
    """
    flagged = largest(key, fraction, reduce) & (flags < 255)
    flags += flagged
    return flagged & (flags == confidence_epochs)
