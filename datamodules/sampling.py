"""Order, negatives and the owners of users, as functions of (seed, epoch, sample).

Nothing here keeps a generator between calls, so a resumed run and a run on another number of devices draw the same
values.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from llmhd_pl.datamodules.arguments import check_whole
from llmhd_pl.datamodules.interactions import named

_CHUNK = 1 << 20
"""The samples that are looked up at once."""
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """Apply the output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); int64 wraps around, as it must."""
    x = (x ^ _logical_shift(x, 30)) * -4658895280553007687
    x = (x ^ _logical_shift(x, 27)) * -7723592293110705685
    return x ^ _logical_shift(x, 31)


def counter_hash(seed: int, stream: int, counters: Tensor) -> Tensor:
    """Return a pseudo-random number in [0, 2**63) for each counter.

    Args:
        seed: The seed of the run.
        stream: The number of the sequence to read from; any integer.
        counters: The positions in the sequence, int64, of any shape.

    Returns:
        int64, of the shape of ``counters``. The number of one counter does not depend on the others.
    """
    key = torch.zeros((), dtype=torch.int64, device=counters.device)
    for part in (seed, stream):
        key = _mix((key ^ part) + _GOLDEN)
    return _mix(key + (counters + 1) * _GOLDEN) & ((1 << 63) - 1)


def epoch_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """Return the order in which an epoch visits the samples.

    Args:
        num_samples: The number of training samples.
        seed: The seed of the run.
        epoch: The number of the epoch.

    Returns:
        A permutation of the samples, int64 [num_samples].
    """
    key = int(counter_hash(seed, epoch, torch.zeros((), dtype=torch.int64)))
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(key))


class NegativeSampler:
    """Draws a negative for every sample, uniformly from the items that are not training positives of its user.

    A binary search in the user's sorted positives finds the r-th item that the user has *not* interacted with. Since no
    draw is rejected, the sampler terminates for every user, even for one who has seen all items but one.

    Args:
        users: The user of each sample, int64 [n]. The samples are sorted by user, then item, and no pair occurs twice.
        items: The observed item of each sample, int64 [n].
        num_users: The number of users.
        num_items: The number of items.
        lifetime: The number of epochs for which a negative stays with its sample.
        seed: The seed of the run.
        user_names: The identifiers of the users in the source, for the error message; None if it has none.

    Raises:
        ValueError: If the lifetime is below 1, or a user has interacted with every item, so that no negative exists.
    """

    def __init__(
        self,
        users: Tensor,
        items: Tensor,
        num_users: int,
        num_items: int,
        lifetime: int,
        seed: int,
        user_names: list[str] | None = None,
    ) -> None:
        check_whole("negative_lifetime", lifetime, 1, "a number of epochs")
        degree = torch.bincount(users, minlength=num_users)
        if int(degree.max()) >= num_items:
            user = named("User", int(degree.argmax()), user_names)
            raise ValueError(
                f"{user} has interacted with all {num_items} items in train, added noise included, so there is no "
                "negative to draw. Remove that user, lower noise_ratio, or use a catalog with more items."
            )
        self.users, self.num_items, self.lifetime, self.seed = users, num_items, lifetime, seed
        self._first = torch.cumsum(degree, 0) - degree  # the row of each user's first positive
        self._free = num_items - degree
        # The k-th positive p_k of a user has p_k - k free items before it.
        self._keys = torch.empty_like(users)
        for part in _parts(len(users)):
            free_before = items[part] - (torch.arange(part.start, part.stop) - self._first[users[part]])
            self._keys[part] = users[part] * (num_items + 1) + free_before

    def draw(self, epoch: int, candidate: int = 0) -> Tensor:
        """Return a negative of every sample in this epoch.

        Args:
            epoch: The number of the epoch.
            candidate: Which of the candidates of each sample; 0 is the negative of a run that has only one.

        Returns:
            The items, int64 [n]. Two candidates of a sample may be the same.
        """
        drawn = torch.empty_like(self.users)
        for part in _parts(len(drawn)):
            users = self.users[part]
            samples = torch.arange(part.start, part.stop) + candidate * len(drawn)
            # epoch_order uses the streams 0, 1, 2, ...; the streams below zero belong to the negatives.
            nth_free = counter_hash(self.seed, -1 - epoch // self.lifetime, samples) % self._free[users]
            positives_before = torch.searchsorted(self._keys, users * (self.num_items + 1) + nth_free, right=True)
            drawn[part] = nth_free + positives_before - self._first[users]
        return drawn


def _parts(count: int) -> Iterator[slice]:
    """Divide samples, for temporary memory that does not grow with them."""
    for start in range(0, count, _CHUNK):
        yield slice(start, min(start + _CHUNK, count))


def user_owners(users: Tensor, num_users: int, world_size: int) -> Tensor:
    """Assign each user to a process, so that all processes own about the same number of interactions.

    The users are sorted by decreasing number of interactions and dealt out to the processes back and forth.

    Args:
        users: The user of each training sample, int64 [n].
        num_users: The number of users.
        world_size: The number of processes.

    Returns:
        The rank of the process that owns each user, int64 [num_users].
    """
    by_degree = torch.bincount(users, minlength=num_users).argsort(descending=True, stable=True)
    turn = torch.arange(num_users) % (2 * world_size)
    owners = torch.empty(num_users, dtype=torch.int64)
    owners[by_degree] = torch.minimum(turn, 2 * world_size - 1 - turn)
    return owners
