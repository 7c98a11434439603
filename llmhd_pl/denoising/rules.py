"""Which suspicious samples are hard: three rules over the scores of the language model (PAPER.md, section 3).

Scores go from 1 to 10; NaN is no answer, and a sample without one is not found hard.
"""

from typing import Literal

import torch
from torch import Tensor

from llmhd_pl.denoising.selection import Reduce, alone, largest

Rule = Literal["paper", "consistent", "joint"]
RULES: tuple[Rule, ...] = ("paper", "consistent", "joint")
FITTING = 5.5
"""The middle of the scale: from here on an item fits."""


def paper_pairwise(positive: Tensor, negative: Tensor, threshold: float) -> Tensor:
    """As printed: hard if ``s(u, i) - s(u, j) < eps_pair(T)``.

    Args:
        positive: s(u, i), [n].
        negative: s(u, j), [n].
        threshold: eps_pair(T), which falls from 7 to 3.

    Returns:
        bool [n].
    """
    return positive - negative < threshold


def paper_pointwise(positive: Tensor, negative: Tensor, low: float, high: float) -> Tensor:
    """As printed: an observed item is hard if ``s(u, i) < eps_pos(T)``, a sampled one if ``s(u, j) > eps_neg(T)``.

    Args:
        positive: s(u, i), [n].
        negative: s(u, j), [n].
        low: eps_pos(T), which falls from 8 to 6.
        high: eps_neg(T), which rises from 2 to 4.

    Returns:
        bool [n, 2].
    """
    return torch.stack([positive < low, negative > high], dim=1)


def consistent(positive: Tensor, negative: Tensor | None = None) -> Tensor:
    """Hard if the label agrees with the language model: the observed item fits, the sampled one does not.

    For a pair of items the observed one decides: the gap to a negative that was drawn at random is mostly chance.

    Args:
        positive: s(u, i), [n].
        negative: s(u, j), [n], for the pointwise objective.

    Returns:
        bool [n], or [n, 2] with ``negative``.
    """
    hard = positive >= FITTING
    return hard if negative is None else torch.stack([hard, negative < FITTING], dim=1)


def joint(losses: Tensor, agreement: Tensor, rate: float, weight: float = 1.0, reduce: Reduce = alone) -> Tensor:
    """Loss and score decide together: dropped is the top of ``z(loss) - weight * z(agreement)``.

    z takes off the mean and divides by the standard deviation; a sample without a score has z = 0 there, so that its
    loss alone decides.

    Args:
        losses: [n] or [n, 2]; NaN is not there.
        agreement: the shape of the losses: s(u, i) for observed items, -s(u, j) for sampled ones; NaN is no answer.
        rate: fraction to drop, of all losses.
        weight: of the score against the loss.
        reduce: sums over the processes.

    Returns:
        bool, the shape of the losses: what is dropped.
    """
    key = _standard(losses, reduce)
    if losses.dim() == 2:
        for column in range(2):
            key[:, column] -= weight * _standard(agreement[:, column], reduce).nan_to_num(0.0)
    else:
        key -= weight * _standard(agreement, reduce).nan_to_num(0.0)
    return largest(key.flatten(), rate, reduce).view(losses.shape)


def _standard(values: Tensor, reduce: Reduce) -> Tensor:
    there = values[~values.isnan()].double()
    sums = torch.stack([torch.tensor(float(len(there)), device=values.device, dtype=torch.float64), there.sum()])
    count, total = reduce(sums).unbind()
    mean = total / count.clamp(min=1)
    deviation = (reduce((there - mean).square().sum()) / count.clamp(min=1)).sqrt()
    return ((values.double() - mean) / deviation.clamp(min=1e-12)).float()
