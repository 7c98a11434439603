"""Randomness as a function of (seed, epoch, sample): order, negatives, and which rank owns which user.

Nothing here keeps a generator between calls, so a resumed run and a run on another number of devices draw the same.
"""

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); int64 wraps around as it should."""
    x = (x ^ _logical_shift(x, 30)) * -4658895280553007687
    x = (x ^ _logical_shift(x, 27)) * -7723592293110705685
    return x ^ _logical_shift(x, 31)


def counter_hash(seed: int, stream: int, counters: Tensor) -> Tensor:
    """A pseudo-random number per counter, in [0, 2**63): int64, the shape of ``counters``."""
    key = torch.zeros((), dtype=torch.int64, device=counters.device)
    for part in (seed, stream):
        key = _mix((key ^ part) + _GOLDEN)
    return _mix(key + (counters + 1) * _GOLDEN) & ((1 << 63) - 1)


def epoch_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits the samples: a permutation, int64 [num_samples]."""
    key = int(counter_hash(seed, epoch, torch.zeros((), dtype=torch.int64)))
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(key))


class NegativeSampler:
    """Draws a negative for every sample, uniformly among the items that are not train positives of its user.

    Nothing is rejected: the r-th item that a user has *not* interacted with is found by a binary search in the sorted
    positives, so the sampler ends for every user, also for one who has seen all items but one.

    Args:
        users: int64 [n], the user of each sample; sorted by (user, item), no pair twice.
        items: int64 [n], the observed item of each sample.
        num_users: number of users.
        num_items: number of items.
        lifetime: number of epochs for which a negative stays with its sample.
        seed: seed of the run.

    Raises:
        ValueError: a user has interacted with every item, so no negative exists.
    """

    def __init__(self, users: Tensor, items: Tensor, num_users: int, num_items: int, lifetime: int, seed: int) -> None:
        if lifetime < 1:
            raise ValueError(f"negative_lifetime is {lifetime}; it counts epochs and must be at least 1.")
        degree = torch.bincount(users, minlength=num_users)
        if int(degree.max()) >= num_items:
            raise ValueError(
                f"User {int(degree.argmax())} has interacted with all {num_items} items in train, so there is no "
                "negative to draw. Remove that user, or use a catalog with more items."
            )
        self.users, self.num_items, self.lifetime, self.seed = users, num_items, lifetime, seed
        first = torch.cumsum(degree, 0) - degree  # row of each user's first positive
        self._first = first[users]
        self._free = num_items - degree[users]
        # The k-th positive p_k of a user has p_k - k free items before it.
        free_before = items - (torch.arange(len(users)) - self._first)
        self._keys = users * (num_items + 1) + free_before

    def draw(self, epoch: int) -> Tensor:
        """The negative of every sample in this epoch: int64 [n]."""
        samples = torch.arange(len(self.users))
        # Stream 0, 1, 2, ... would repeat the seeds of epoch_order; negative streams belong to the negatives.
        nth_free = counter_hash(self.seed, -1 - epoch // self.lifetime, samples) % self._free
        positives_before = torch.searchsorted(self._keys, self.users * (self.num_items + 1) + nth_free, right=True)
        return nth_free + positives_before - self._first


def user_owners(users: Tensor, num_users: int, world_size: int) -> Tensor:
    """The rank that owns each user: whole users, balanced by their number of interactions: int64 [num_users].

    Users are dealt out by falling number of interactions, back and forth over the ranks.
    """
    by_degree = torch.bincount(users, minlength=num_users).argsort(descending=True, stable=True)
    turn = torch.arange(num_users) % (2 * world_size)
    owners = torch.empty(num_users, dtype=torch.int64)
    owners[by_degree] = torch.minimum(turn, 2 * world_size - 1 - turn)
    return owners
