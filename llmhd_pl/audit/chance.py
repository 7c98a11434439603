"""From scores to the share of interactions that came about by chance, and to a probability for each of them.

"By chance" is the hypothesis that any other user might as well have come to the item. The share of other users whom the
item fits at least as well is then uniform between 0 and 1, whatever has made the item popular: it is a p-value.
Interactions for which the hypothesis is wrong have small p-values, if the judge is good; what is left near 1 is chance
(Storey, "A direct approach to false discovery rates", JRSS B 2002).
"""

import numpy as np
from numpy.typing import NDArray

from llmhd_pl.bootstrap import PERCENTILES, exact, resampled

TAIL = 0.1
"""The share of the largest p-values that the share of chance is taken from, one minus Storey's lambda."""
BINS = 20
"""The bins of the density of the p-values."""

Floats = NDArray[np.float64]


def p_values(scores: np.ndarray, references: np.ndarray, seed: int = 0) -> Floats:
    """Return the p-value of each interaction under the hypothesis that its user came to the item by chance.

    With ``b`` references that fit better, ``t`` that fit as well, and ``m`` in all, it is ``(b + x) / (m + 1)`` with x
    uniform between 0 and t + 1. So it is uniform under the hypothesis, for whole numbers as scores too.

    Args:
        scores: The score of each interaction, [n]; NaN is no answer.
        references: The scores of its item for other users, [n, references]; NaN is no answer.
        seed: The seed of x.

    Returns:
        float64 [n], between 0 and 1; NaN without a score, or without any reference.
    """
    there = ~np.isnan(references)
    better = (references > scores[:, None]).sum(axis=1)
    equal = (references == scores[:, None]).sum(axis=1)
    number = there.sum(axis=1)
    x = np.random.default_rng([seed, 0x9A1]).random(len(scores)) * (equal + 1)
    return np.where((number > 0) & ~np.isnan(scores), (better + x) / (number + 1), np.nan)


def tail(references: int) -> float:
    """Return the tail that the share is taken from: whole steps of a p-value with so many references, about ``TAIL``.

    Args:
        references: The number of references for each interaction.
    """
    return max(1, round(TAIL * (references + 1))) / (references + 1)


def share_of_chance(p: np.ndarray, width: float = TAIL, weights: np.ndarray | None = None) -> float:
    """Return Storey's estimate of the share of interactions by chance: those in the tail, divided by its width.

    It is an upper bound: whatever else has such p-values counts too. The better the judge, the less there is of that.

    Args:
        p: The p-values, [n], without NaN.
        width: The width of the tail.
        weights: How many interactions each stands for, [n], above 0; None is one.

    Returns:
        0 to 1; NaN without p-values.
    """
    return min(1.0, float(np.average(p > 1 - width, weights=weights)) / width) if len(p) else float("nan")


def slope(p: np.ndarray, width: float = TAIL, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Return by how much the density of the p-values still falls before the tail, and the standard error of that.

    If all p-values near 1 are chance, it is flat there. If it still falls, the judge has not recognised everything that
    is not chance, and some of it is in the tail too.

    Args:
        p: The p-values, [n], without NaN.
        width: The width of the tail.
        weights: As for ``share_of_chance``.
    """
    if not len(p):
        return float("nan"), float("nan")
    weights = np.ones(len(p)) if weights is None else weights
    in_tail = np.average(p > 1 - width, weights=weights)
    before = np.average((p > 1 - 2 * width) & (p <= 1 - width), weights=weights)
    number = weights.sum() ** 2 / (weights**2).sum()  # of interactions of the same weight that say as much
    return float(before - in_tail) / width, float(np.sqrt((before + in_tail) / number)) / width


def intervals(
    users: np.ndarray,
    p: np.ndarray,
    groups: np.ndarray,
    width: float = TAIL,
    seed: int = 0,
    weights: np.ndarray | None = None,
) -> NDArray[np.float64]:
    """Return 95 % intervals of the share of chance in groups, by drawing users with replacement (bootstrap).

    Args:
        users: The user of each interaction, int64 [n], n > 0.
        p: The p-values, [n], without NaN.
        groups: Whether each interaction is in each group, bool [n, groups].
        width: The width of the tail.
        seed: The seed of the draws.
        weights: As for ``share_of_chance``.

    Returns:
        The 2.5th and the 97.5th percentile for each group, [groups, 2]; if all draws are alike, as where no p-value
        is in the tail, the exact interval of a share of so many users. NaN for an empty group.
    """
    names, user = np.unique(users, return_inverse=True)
    groups_of = groups if weights is None else groups * weights[:, None]
    columns = [(p > 1 - width)[:, None] * groups_of, groups_of]
    counts = np.concatenate(
        [np.stack([np.bincount(user, column, len(names)) for column in some.T], axis=1) for some in columns], axis=1
    )
    above, size = np.split(np.stack([drawn @ counts for drawn in resampled(len(names), seed)]), 2, axis=1)
    shares = np.full(above.shape, np.nan)
    np.divide(above, size * width, out=shares, where=size > 0)
    there = groups.any(axis=0)
    ends = np.full((groups.shape[1], 2), np.nan)
    ends[there] = np.nanpercentile(shares[:, there], PERCENTILES, axis=0).T
    for group in np.flatnonzero(there & (ends[:, 0] == ends[:, 1])):
        in_tail = min(1.0, ends[group, 0] * width)  # which rounding may take above 1
        ends[group] = np.divide(exact(in_tail, len(np.unique(users[groups[:, group]]))), width)
    return ends.clip(max=1)


def preferred(scores: np.ndarray, references: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return how often a judge prefers the user of an interaction to another user; a tie counts half.

    Args:
        scores: The score of each interaction, [n]; NaN is no answer.
        references: The scores of its item for other users, [n, references]; NaN is no answer.
        weights: As for ``share_of_chance``.

    Returns:
        The mean over the interactions, 0 to 1; NaN if there is nothing to compare.
    """
    number = (~np.isnan(references)).sum(axis=1)
    won = (references < scores[:, None]).sum(axis=1) + (references == scores[:, None]).sum(axis=1) / 2
    there = (number > 0) & ~np.isnan(scores)
    weights = np.ones(len(scores)) if weights is None else weights
    return float(np.average(won[there] / number[there], weights=weights[there])) if there.any() else float("nan")


def chance(p: np.ndarray, share: float, weights: np.ndarray | None = None) -> Floats:
    """Return the probability that each interaction came about by chance, given its p-value.

    It is the density of chance, which is the share, divided by the density of all p-values. The latter is a histogram
    that isotonic regression makes fall.

    Args:
        p: The p-values, [n], without NaN.
        share: The share of chance.
        weights: As for ``share_of_chance``.

    Returns:
        float64 [n], 0 to 1, which never falls when p rises.
    """
    from sklearn.isotonic import isotonic_regression  # type: ignore[import-untyped]  # takes a second

    if not len(p):
        return np.empty(0)
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    counted = np.bincount(place, weights, minlength=BINS) * BINS / (len(p) if weights is None else weights.sum())
    density = isotonic_regression(counted, increasing=False)
    probability: Floats = np.minimum(1.0, share / np.maximum(density, 1e-12))[place]
    return probability


def cut_at(
    p: np.ndarray, chance: np.ndarray, right: float, weights: np.ndarray | None = None
) -> tuple[float, int, float]:
    """Return where to cut so that at most a given share of what is dropped is expected to be right.

    Args:
        p: The p-values, [n], without NaN.
        chance: The probability that each interaction came about by chance, [n]; see ``chance``.
        right: The largest share of the dropped interactions that may be right, and dropped by mistake.
        weights: As for ``share_of_chance``; the share is one of all the interactions that the dropped ones stand for.

    Returns:
        The bound, above which interactions are dropped, how many there are, and the share of them that is expected to
        be right. If nothing can be dropped, the bound is 1.
    """
    order = np.argsort(-p, kind="stable")
    weights = np.ones(len(p)) if weights is None else weights[order]
    expected = (weights * (1 - chance[order])).cumsum() / weights.cumsum()
    number = int(np.searchsorted(expected, right + 1e-9, side="right"))  # it never falls, because chance never rises
    if number == 0:
        return 1.0, 0, 0.0
    bound = float(p[order[number]]) if number < len(p) else 0.0
    number = int((p > bound).sum())
    return bound, number, float(expected[number - 1]) if number else 0.0
