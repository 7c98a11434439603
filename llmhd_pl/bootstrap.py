"""Samples of users, from which intervals are taken (bootstrap).

Users are drawn and not pairs of users and items, because the pairs of a user share a preference and so err together.
"""

from collections.abc import Iterator

import numpy as np

RESAMPLES = 1000
"""The samples that an interval is taken from."""
PERCENTILES = (2.5, 97.5)
"""The ends of a 95 % interval."""


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
