"""The interactions of a data set, checked when they are loaded, and the text of its items."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

EASY, HARD, NOISE = 0, 1, 2
"""The values of ``train_kinds``. ``SyntheticCatalog`` says what they mean."""


def pair_keys(pairs: Tensor, num_items: int) -> Tensor:
    """Return one number per pair, ``user * num_items + item``, which sorts the pairs by user, then item.

    Args:
        pairs: The (user, item) pairs, int64 [n, 2].
        num_items: The number of items in the catalog.

    Returns:
        The keys, int64 [n].
    """
    return pairs[:, 0] * num_items + pairs[:, 1]


def unique_pairs(users: np.ndarray, items: np.ndarray, num_items: int) -> Tensor:
    """Return the distinct (user, item) pairs, sorted by user, then item.

    Args:
        users: The user of each pair, integers [n].
        items: The item of each pair, integers [n].
        num_items: The number of items in the catalog.

    Returns:
        The pairs, int64 [m, 2] with m <= n.
    """
    keys = np.unique(users.astype(np.int64) * num_items + items.astype(np.int64))
    return torch.from_numpy(np.stack([keys // num_items, keys % num_items], axis=1))


@dataclass
class Interactions:
    """The training, validation and test interactions of one data set.

    Users are numbered from 0 to ``num_users - 1`` and items from 0 to ``num_items - 1``.

    Attributes:
        name: Where the data comes from. Error messages begin with it.
        num_users: The number of users, with or without interactions.
        num_items: The number of items, with or without interactions.
        train: The (user, item) pairs of the training split, int64 [n, 2], each pair once.
        valid: The pairs of the validation split, int64 [n, 2].
        test: The pairs of the test split, int64 [n, 2].
        items: The text fields of each item; an empty dict for an item without text. The list is empty if no item has
            text.
        low_rated: The interactions whose rating expresses a dislike, int64 [n, 2]; None if there are no ratings.
        train_kinds: The ground truth of each training interaction (``EASY``, ``HARD`` or ``NOISE``), int8 [len(train)];
            None if it is unknown.
        user_names: The user identifiers of the source; None if the source numbers its users.
        item_names: The item identifiers of the source; None if the source numbers its items.

    Raises:
        ValueError: If a user or item is out of range, the training split is empty, a pair occurs twice in a split or in
            two splits, or the number of item texts is wrong.
    """

    name: str
    num_users: int
    num_items: int
    train: Tensor
    valid: Tensor
    test: Tensor
    items: list[dict[str, str]] = field(default_factory=list)
    low_rated: Tensor | None = None
    train_kinds: Tensor | None = None
    user_names: list[str] | None = None
    item_names: list[str] | None = None

    def __post_init__(self) -> None:
        splits = {"train": self.train, "valid": self.valid, "test": self.test}
        low_rated = {} if self.low_rated is None else {"low-rated": self.low_rated}
        for split, pairs in (splits | low_rated).items():
            for column, size, what in ((0, self.num_users, "user"), (1, self.num_items, "item")):
                outside = (pairs[:, column] < 0) | (pairs[:, column] >= size)
                if outside.any():
                    row = int(outside.nonzero()[0])
                    raise ValueError(
                        f"{self.name}: {split} interaction {row} names {what} {int(pairs[row, column])}, "
                        f"but the {what}s are numbered 0 to {size - 1}. Repair or remove that interaction."
                    )
        if len(self.train) == 0:
            raise ValueError(f"{self.name}: there is no training interaction, so there is nothing to learn.")
        keys = {split: pair_keys(pairs, self.num_items) for split, pairs in splits.items()}
        for split in splits:
            unique, counts = keys[split].unique(return_counts=True)
            if len(unique) < len(keys[split]):
                user, item = divmod(int(unique[counts.argmax()]), self.num_items)
                raise ValueError(f"{self.name}: {split} holds user {user} with item {item} twice. Keep one of them.")
        for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
            common = keys[first][torch.isin(keys[first], keys[second])]
            if len(common):
                user, item = divmod(int(common[0]), self.num_items)
                raise ValueError(
                    f"{self.name}: {len(common)} interactions are in both {first} and {second}, for example "
                    f"user {user} with item {item}. The splits must be disjoint: remove them from one of the two."
                )
        if self.items and len(self.items) != self.num_items:
            raise ValueError(f"{self.name}: there are {len(self.items)} item texts for {self.num_items} items.")
