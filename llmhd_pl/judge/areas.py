"""How well values tell genuine pairs from others: areas under the ROC curve, over all pairs and within users."""

import numpy as np

from llmhd_pl.bootstrap import PERCENTILES, RESAMPLES, exact, resampled


def pooled_auc(values: np.ndarray, genuine: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Return the probability that a genuine pair has a higher value than another pair. Ties count half.

    Args:
        values: The value of each pair, [n], without NaN.
        genuine: Whether each pair is genuine, bool [n].
        weight: How often each pair counts, [n]; None is once.

    Returns:
        0 to 1; NaN if one of the two groups is empty.
    """
    weight = np.ones(len(values)) if weight is None else weight
    places, place = np.unique(values, return_inverse=True)
    ours, others = (np.bincount(place, weight * group, len(places)) for group in (genuine, ~genuine))
    below = others.cumsum() - others
    comparisons = ours.sum() * others.sum()
    return float((ours * (below + others / 2)).sum() / comparisons) if comparisons else float("nan")


def wins_by_user(users: np.ndarray, values: np.ndarray, genuine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare each genuine pair with each other pair of the same user.

    Args:
        users: The user of each pair, int64 [n].
        values: The value of each pair, [n], without NaN.
        genuine: Whether each pair is genuine, bool [n].

    Returns:
        How many comparisons the genuine pair wins, with half a win for a tie, and the number of comparisons; both for
        every user in ``users``, sorted by user.
    """
    names, user = np.unique(users, return_inverse=True)
    levels, level = np.unique(values, return_inverse=True)
    # The mean rank of each pair among those of its user, as in the Mann-Whitney U test.
    _, place, ties = np.unique(user * len(levels) + level, return_inverse=True, return_counts=True)
    sizes = np.bincount(user, minlength=len(names))
    rank = (ties.cumsum() - (ties - 1) / 2)[place] - (sizes.cumsum() - sizes)[user]
    ours = np.bincount(user, genuine, len(names))
    wins = np.bincount(user, rank * genuine, len(names)) - ours * (ours + 1) / 2
    return wins, ours * (sizes - ours)


def within_user_auc(users: np.ndarray, values: np.ndarray, genuine: np.ndarray) -> float:
    """Return the mean over users of the AUC among the user's own pairs (GAUC).

    A user's weight is the number of comparisons, genuine pairs times others, so that this is the probability that of
    two pairs *of the same user* the genuine one has the higher value. Users with pairs of one kind only do not count.

    Args:
        users: The user of each pair, int64 [n].
        values: The value of each pair, [n], without NaN.
        genuine: Whether each pair is genuine, bool [n].

    Returns:
        0 to 1; NaN if no user has pairs of both kinds.
    """
    wins, comparisons = wins_by_user(users, values, genuine)
    return float(wins.sum() / comparisons.sum()) if comparisons.sum() else float("nan")


def interval(
    users: np.ndarray, values: np.ndarray, genuine: np.ndarray, within: bool = False, seed: int = 0
) -> tuple[float, float]:
    """Return a 95 % interval of an AUC, by drawing as many users with replacement again and again (bootstrap).

    Args:
        users: The user of each pair, int64 [n].
        values: The value of each pair, [n], without NaN.
        genuine: Whether each pair is genuine, bool [n].
        within: Whether it is the AUC within users.
        seed: The seed of the draws.

    Returns:
        The 2.5th and the 97.5th percentile; if all draws are alike, as with one user or where no pair is misjudged, the
        exact interval of a share of so many users. NaN if one of the two groups is empty.
    """
    names, user = np.unique(users, return_inverse=True)
    if not len(names):
        return float("nan"), float("nan")
    drawn = np.stack(list(resampled(len(names), seed)))
    if within:
        wins, comparisons = wins_by_user(users, values, genuine)
        areas = np.full(RESAMPLES, np.nan)
        np.divide(drawn @ wins, drawn @ comparisons, out=areas, where=drawn @ comparisons > 0)
    else:
        areas = np.array([pooled_auc(values, genuine, times[user]) for times in drawn])
    areas = areas[~np.isnan(areas)]
    if not len(areas):
        return float("nan"), float("nan")
    low, high = np.percentile(areas, PERCENTILES)
    return exact(float(low), len(names)) if low == high else (float(low), float(high))
