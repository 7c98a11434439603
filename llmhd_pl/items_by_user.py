"""The items of each user, from two tensors of the same length."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


class ItemsByUser(Mapping[int, list[int]]):
    """A read-only mapping from each user with interactions to the list of their items.

    Nothing is copied into Python objects until a user is looked up.

    Args:
        users: The user of each interaction, int64 [n].
        items: The item of each interaction, int64 [n]. A user's items keep this order.
    """

    def __init__(self, users: Tensor, items: Tensor) -> None:
        self._items = items[users.argsort(stable=True)]
        sizes = torch.bincount(users)
        self._first = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        self._users = sizes.nonzero().flatten()

    def __getitem__(self, user: int) -> list[int]:
        if not 0 <= user < len(self._first) - 1 or self._first[user] == self._first[user + 1]:
            raise KeyError(user)
        items: list[int] = self._items[self._first[user] : self._first[user + 1]].tolist()
        return items

    def __iter__(self) -> Iterator[int]:
        return iter(self._users.tolist())

    def __len__(self) -> int:
        return len(self._users)
