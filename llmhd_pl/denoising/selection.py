"""Which samples are suspicious: the noise set (PAPER.md, section 1) and the candidates in it (section 2)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes; with one process, the identity."""

_DIGIT = 16  # bits per pass
_CHUNK = 2**20  # values at once: the temporary memory does not grow with the samples


def alone(tensor: Tensor) -> Tensor:
    """``Reduce`` for one process."""
    return tensor


def largest(values: Tensor, fraction: float, reduce: Reduce = alone) -> Tensor:
    """The largest ``fraction`` of the values of all processes; ties go to the smaller index.

    Nothing is gathered: the threshold is found digit by digit (a radix select) from histograms that are summed over
    the processes, and the index makes every key unique. So two processes that share the values, each holding NaN where
    the other has one, find exactly what one process finds.

    Args:
        values: floats [n]; NaN is not there, neither counted nor selected.
        fraction: 0 to 1, of the values that are there; the number is rounded to the nearest, half to even.
        reduce: sums over the processes.

    Returns:
        bool [n].
    """
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    histogram = torch.zeros(2**_DIGIT, dtype=torch.int64, device=values.device)
    few = list(_keys(values)) if len(values) <= _CHUNK else None  # many are made anew in each pass
    for _, keys in few or _keys(values):
        histogram += _histogram(keys >> 48)
    histogram = reduce(histogram)
    left = round(fraction * int(histogram.sum()))
    if left <= 0:
        return mask
    threshold, rest = 0, torch.empty(0, dtype=torch.int64, device=values.device)
    for shift in (48, 32, 16, 0):
        above = histogram.flip(0).cumsum(0).flip(0)  # keys with this digit or a larger one
        digit = int((above >= left).sum()) - 1
        left -= int(above[digit] - histogram[digit])
        threshold |= digit << shift
        parts = (keys for _, keys in few or _keys(values)) if shift == 48 else [rest]
        rest = torch.cat([part[part >> shift == threshold >> shift] for part in parts])
        if shift:
            histogram = reduce(_histogram((rest >> (shift - _DIGIT)) & (2**_DIGIT - 1)))
    for rows, keys in few or _keys(values):
        mask[rows[keys >= threshold]] = True
    return mask


def _keys(values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows of the values that are there, and for each an integer of 63 bits; larger means selected earlier."""
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK].float()
        there = (~part.isnan()).nonzero().flatten()
        rows = there + start
        bits = (part[there] + 0.0).view(torch.int32).long()  # + 0.0: minus zero is zero
        # As integers, floats are in order once the negative ones are turned round.
        ordered = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits) + 0x7FFFFFFF
        yield rows, (ordered << 31) | (0x7FFFFFFF - rows)


def _histogram(digits: Tensor) -> Tensor:
    return torch.bincount(digits, minlength=2**_DIGIT)


def fraction_of(some: Tensor, rate: float, of: Tensor, reduce: Reduce = alone) -> float:
    """Which fraction of some losses is as many as ``rate`` of all, at most 1: NaN is not there, in neither.

    Args:
        some: any shape.
        rate: of all.
        of: all.
        reduce: sums over the processes.
    """
    there, everything = (
        float(count) for count in reduce(torch.stack([(~losses.isnan()).sum() for losses in (some, of)]))
    )
    return min(1.0, rate * everything / max(there, 1.0))


def noise_set(losses: Tensor, rate: float, reduce: Reduce = alone) -> Tensor:
    """B_N: the samples with the highest losses (section 1).

    Args:
        losses: [n] or [n, 2], NaN for samples of other processes.
        rate: eps_l(T), of all losses.
        reduce: sums over the processes.

    Returns:
        bool, the shape of the losses.
    """
    return largest(losses.flatten(), rate, reduce).view(losses.shape)


def candidates(
    noise: Tensor, positive_variance: Tensor, negative_variance: Tensor, fraction: float, reduce: Reduce = alone
) -> Tensor:
    """B_HC: members of the noise set whose prediction varies most, observed and sampled items apart (section 2).

    Args:
        noise: bool [n] or [n, 2].
        positive_variance: [n]; NaN is never selected.
        negative_variance: [n].
        fraction: eps_v, of each group.
        reduce: sums over the processes.

    Returns:
        bool, the shape of ``noise``. A triple of the pairwise objective is a candidate if either of its items is.
    """
    if noise.dim() == 2:
        columns = (
            largest(variance.where(noise[:, column], torch.nan), fraction, reduce)
            for column, variance in enumerate((positive_variance, negative_variance))
        )
        return torch.stack(list(columns), dim=1)
    groups = (
        largest(variance.where(noise, torch.nan), fraction, reduce)
        for variance in (positive_variance, negative_variance)
    )
    return torch.stack(list(groups)).any(dim=0)


def random_members(members: Tensor, count: int, keys: Tensor, reduce: Reduce = alone) -> Tensor:
    """As many members as ``count`` says, drawn at random: the paper's ablation of variance pruning.

    Args:
        members: bool, any shape.
        count: over all processes.
        keys: a random float32 for each, the same on every process.
        reduce: sums over the processes.

    Returns:
        bool, the shape of ``members``.
    """
    total = int(reduce(members.sum()))
    drawn = keys.flatten().where(members.flatten(), torch.nan)
    return largest(drawn, count / max(total, 1), reduce).view(members.shape)
