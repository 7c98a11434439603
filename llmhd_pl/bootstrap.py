"""Samples of users, from which intervals are taken (bootstrap).

Users are drawn and not pairs of users and items, because the pairs of a user share a preference and so err together.
"""

from collections.abc import Iterator

import numpy as np
from scipy.stats import beta

RESAMPLES = 1000
"""The samples that an interval is taken from."""
PERCENTILES = (2.5, 97.5)
"""The ends of a 95 % interval."""


def exact(share: float, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of Clopper and Pearson, for what samples cannot show: they repeat what was seen.

    Where none of 50 users has something, none of the samples has it, and yet a few in a hundred users may.

    Args:
        share: The share of the trials that succeeded, 0 to 1.
        trials: The number of independent trials, at least 1.
    """
    won, lost = share * trials, (1 - share) * trials
    low, high = (percentile / 100 for percentile in PERCENTILES)
    return (
        float(beta.ppf(low, won, lost + 1)) if won else 0.0,
        float(beta.ppf(high, won + 1, lost)) if lost else 1.0,
    )


def resampled(users: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Draw as many users with replacement, ``RESAMPLES`` times.

    Args:
        users: The number of users, at least 1.
        seed: The seed of the draws.

    Yields:
        How often each user was drawn, int64 [users].
    """
    rng = np.random.default_rng([seed, 0xB007])
    evenly = np.full(users, 1 / users)
    for _ in range(RESAMPLES):
        yield rng.multinomial(users, evenly)
