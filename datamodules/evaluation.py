"""EvaluationBatches: the users to rank items for, with the items they have seen and those that are relevant to them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from llmhd_pl.sample_weights import Batch


class EvaluationBatches:
    """The loader for validation, test and prediction.

    A batch holds ``user``, int64 [b], and ``seen`` and ``relevant``, each int64 [2, n]: the first row is the position
    of the user in the batch, the second the item.

    The users are dealt out to the processes one by one. Every user is ranked once, and all processes see the same
    number of batches. What users have seen is copied to the device once, in 4 bytes for each interaction, and the
    batches of every epoch are cut from it there.

    Args:
        users: The users to rank items for, int64 [u].
        seen: The (user, item) pairs to mask in the ranking, int64 [n, 2].
        relevant: The (user, item) pairs to find, int64 [n, 2].
        num_users: The number of users in the data set.
        batch_size: The largest number of users in a batch.
        rank: The rank of this process.
        world_size: The number of processes.
        device: The device of the batches.
    """

    def __init__(
        self,
        users: Tensor,
        seen: Tensor,
        relevant: Tensor,
        num_users: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self._seen, self._relevant = (_Rows(pairs, num_users, device) for pairs in (seen, relevant))
        self._users = users[rank::world_size].to(device)
        self._batches = -(-len(users) // (world_size * batch_size))

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        if self._batches == 0:
            return
        for users in self._users.tensor_split(self._batches):
            yield {"user": users, "seen": self._seen.of(users), "relevant": self._relevant.of(users)}


class _Rows:
    """The items of each user, as the rows of a CSR matrix without values."""

    def __init__(self, pairs: Tensor, num_users: int, device: torch.device | str) -> None:
        sizes = torch.bincount(pairs[:, 0], minlength=num_users)
        self._sizes, self._first = sizes.to(device), (torch.cumsum(sizes, 0) - sizes).to(device)
        items = pairs[:, 1].int() if len(pairs) == 0 or int(pairs[:, 1].max()) < 2**31 else pairs[:, 1]
        self._items = items[pairs[:, 0].argsort(stable=True)].to(device)

    def of(self, users: Tensor) -> Tensor:
        """Return the entries of these users as int64 [2, n]: the position in ``users`` and the item."""
        sizes = self._sizes[users]
        row = torch.repeat_interleave(torch.arange(len(users), device=users.device), sizes)
        offset = torch.arange(len(row), device=users.device) - (torch.cumsum(sizes, 0) - sizes)[row]
        return torch.stack([row, self._items[self._first[users][row] + offset].long()])
