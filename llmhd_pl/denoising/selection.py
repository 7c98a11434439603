"""Which samples are suspicious: the noise set (docs/paper.md, section 1) and the candidates in it (section 2)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes; with one process, the identity."""

_DIGIT = 16  # bits per pass
_LOW = 2**_DIGIT - 1
_OFFSET = 2 ** (_DIGIT - 1)  # added to the upper digit of a key, which has a sign
_NOTHING = -(2**31)  # the key of NaN; no other value has it
_CHUNK = 2**20  # values at once: the temporary memory does not grow with the samples


def alone(tensor: Tensor) -> Tensor:
    """``Reduce`` for one process."""
    return tensor


def largest(values: Tensor, fraction: float, reduce: Reduce = alone) -> Tensor:
    """Select the largest ``fraction`` of the values of all processes; ties go to the smaller index.

    No values are gathered. The smallest value that is selected is found digit by digit (a radix select) from histograms
    that are summed over the processes; if not all that equal it are selected, the last index is found in the same way.
    So two processes that share the values, each with NaN in place of the other's, select exactly what one process
    selects.

    Args:
        values: Floats [n]; NaN is neither counted nor selected.
        fraction: The fraction of the values other than NaN, 0 to 1; the number is rounded to the nearest, half to even.
        reduce: Sums a tensor over the processes.

    Returns:
        What is selected, bool [n].
    """
    few = list(_keys(values)) if len(values) <= _CHUNK else None  # many are made anew in each pass
    histogram = torch.zeros(2**_DIGIT, dtype=torch.int64, device=values.device)
    for keys in few or _keys(values):
        histogram += _histogram((keys >> _DIGIT) + _OFFSET)
    histogram[0] = 0  # NaN
    histogram = reduce(histogram)
    left = round(fraction * int(histogram.sum()))
    if left <= 0:
        return torch.zeros(len(values), dtype=torch.bool, device=values.device)
    high, left, _ = _digit_of(left, histogram)
    rest = torch.cat([keys[keys >> _DIGIT == high - _OFFSET] for keys in few or _keys(values)])
    low, left, equal = _digit_of(left, reduce(_histogram(rest & _LOW)))
    threshold = ((high - _OFFSET) << _DIGIT) | low
    mask = torch.cat([keys >= threshold for keys in few or _keys(values)])
    if left < equal:
        tied = torch.cat([keys == threshold for keys in few or _keys(values)]).nonzero().flatten()
        backwards = (2**31 - 1) - tied  # larger keys are selected first, and here the smaller indices are
        high, left, _ = _digit_of(left, reduce(_histogram(backwards >> _DIGIT)))
        low, _, _ = _digit_of(left, reduce(_histogram(backwards[backwards >> _DIGIT == high] & _LOW)))
        mask[tied[backwards < (high << _DIGIT) | low]] = False
    return mask


def _keys(values: Tensor) -> Iterator[Tensor]:
    """Yield the values as int32, a part at a time, in the order of the floats; NaN becomes ``_NOTHING``."""
    for part in values.split(_CHUNK):
        bits = (part.float() + 0.0).view(torch.int32)  # + 0.0: minus zero is zero
        # As integers, floats are in order once the negative ones are reversed.
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        yield ordered.masked_fill_(part.isnan(), _NOTHING)


def _histogram(digits: Tensor) -> Tensor:
    return torch.bincount(digits, minlength=2**_DIGIT)


def _digit_of(left: int, histogram: Tensor) -> tuple[int, int, int]:
    """Return the digit of the ``left``-th largest key, how many with it are to be taken, and how many have it."""
    above = histogram.flip(0).cumsum(0).flip(0)  # keys with this digit or a larger one
    digit = int((above >= left).sum()) - 1
    here = int(histogram[digit])
    return digit, left - int(above[digit]) + here, here


def fraction_of(some: Tensor, rate: float, of: Tensor, reduce: Reduce = alone) -> float:
    """Return the fraction of some losses that is as many as ``rate`` of all losses, at most 1. NaN counts in neither.

    Args:
        some: The losses of which the fraction is asked, of any shape.
        rate: The fraction of all losses.
        of: All losses, of any shape.
        reduce: Sums a tensor over the processes.
    """
    there, everything = (
        float(count) for count in reduce(torch.stack([(~losses.isnan()).sum() for losses in (some, of)]))
    )
    return min(1.0, rate * everything / max(there, 1.0))


def per_label(select: Callable[[Tensor], Tensor], values: Tensor, labels: Tensor | None) -> Tensor:
    """Select among the values of each label for itself, because losses of clicks and of non-clicks do not compare.

    Args:
        select: Selects among values, of which NaN is never selected.
        values: The values, [n], or any shape without labels.
        labels: The labels, 0 or 1, [n]; None is one group.

    Returns:
        What was selected, bool of the shape of the values.
    """
    if labels is None:
        return select(values)
    return select(values.where(labels == 1, torch.nan)) | select(values.where(labels == 0, torch.nan))


def telling(values: Tensor, reduce: Reduce = alone) -> bool:
    """Return whether the values differ at all. Among equal ones, as dummies are, the row numbers would decide.

    Args:
        values: Floats of any shape; NaN does not count.
        reduce: Sums a tensor over the processes.
    """
    if not values.numel():
        differ = torch.tensor(False, device=values.device)
    else:
        lowest, highest = (values.nan_to_num(nan, torch.inf, -torch.inf) for nan in (torch.inf, -torch.inf))
        differ = lowest.amin() < highest.amax()
    return bool(reduce(differ.int()) > 0)


def noise_set(losses: Tensor, rate: float, reduce: Reduce = alone, labels: Tensor | None = None) -> Tensor:
    """Select the noise set B_N, the samples with the highest losses (section 1).

    Args:
        losses: The losses, [n] or [n, 2]; NaN for samples of other processes.
        rate: The fraction of the losses, eps_l(T).
        reduce: Sums a tensor over the processes.
        labels: The labels of the samples, 0 or 1, [n]; with them it is the fraction of the losses of each label.

    Returns:
        The members, bool of the shape of the losses. There is none if all losses are equal.
    """
    if not telling(losses, reduce):
        return torch.zeros_like(losses, dtype=torch.bool)
    return per_label(lambda part: largest(part.flatten(), rate, reduce).view(losses.shape), losses, labels)


def candidates(
    noise: Tensor,
    positive_variance: Tensor,
    negative_variance: Tensor,
    fraction: float,
    reduce: Reduce = alone,
    labels: Tensor | None = None,
) -> Tensor:
    """Select the candidates B_HC, the members of the noise set whose predictions vary most (section 2).

    Observed and sampled items are selected separately, and so are the items of each label. Of a group whose predictions
    all vary alike, as those for a dummy do, none is selected.

    Args:
        noise: The noise set, bool [n] or [n, 2].
        positive_variance: The variances of the observed items, [n]; NaN is never selected.
        negative_variance: The variances of the sampled items, [n].
        fraction: The fraction of each group, eps_v.
        reduce: Sums a tensor over the processes.
        labels: The labels of the samples, 0 or 1, [n], if they have labels.

    Returns:
        The candidates, bool of the shape of ``noise``. With the pairwise objective a triple is a candidate if either of
        its items is.
    """

    def most_varied(variance: Tensor, members: Tensor) -> Tensor:
        if not telling(variance, reduce):
            return torch.zeros_like(members)
        return per_label(lambda part: largest(part, fraction, reduce), variance.where(members, torch.nan), labels)

    variances = (positive_variance, negative_variance)
    if noise.dim() == 2:
        return torch.stack([most_varied(variance, noise[:, column]) for column, variance in enumerate(variances)], 1)
    return torch.stack([most_varied(variance, noise) for variance in variances]).any(dim=0)


def random_members(members: Tensor, count: int, keys: Tensor, reduce: Reduce = alone) -> Tensor:
    """Draw ``count`` members at random: the paper's ablation of variance pruning.

    Args:
        members: Who may be drawn, bool of any shape.
        count: The number to draw over all processes.
        keys: A random float32 for each, the same on every process.
        reduce: Sums a tensor over the processes.

    Returns:
        Who was drawn, bool of the shape of ``members``.
    """
    total = int(reduce(members.sum()))
    drawn = keys.flatten().where(members.flatten(), torch.nan)
    return largest(drawn, count / max(total, 1), reduce).view(members.shape)
