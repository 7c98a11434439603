"""The interactions of a data set, checked once, and the text of its items."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

EASY, HARD, NOISE = 0, 1, 2
"""The values of ``train_kinds``."""


def pair_keys(pairs: Tensor, num_items: int) -> Tensor:
    """One int64 per (user, item) pair, ordered by user, then item: ``user * num_items + item``.

    Args:
        pairs: int64 [n, 2].
        num_items: size of the catalog.
    """
    return pairs[:, 0] * num_items + pairs[:, 1]


def unique_pairs(users: np.ndarray, items: np.ndarray, num_items: int) -> Tensor:
    """Pairs without repetition, sorted by user, then item: int64 [n, 2]."""
    keys = np.unique(users.astype(np.int64) * num_items + items.astype(np.int64))
    return torch.from_numpy(np.stack([keys // num_items, keys % num_items], axis=1))


@dataclass
class Interactions:
    """Train, valid and test interactions of one data set.

    Attributes:
        name: where the data comes from; error messages begin with it.
        num_users: number of users, with or without interactions.
        num_items: number of items, with or without interactions.
        train: int64 [n, 2], (user, item), no pair twice.
        valid: int64 [n, 2].
        test: int64 [n, 2].
        items: one dict of text fields per item, empty where nothing is known of it.
        low_rated: int64 [n, 2], interactions whose rating says dislike, or None where ratings are unknown.
        train_kinds: int8 [len(train)], ground truth (see ``SyntheticCatalog``), or None.
        user_names: the source's own user identifiers, or None where it numbers users itself.
        item_names: the same for items.

    Raises:
        ValueError: a pair out of range, a pair twice in a split or in two, or a wrong number of item texts.
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
                        f"but the {what}s are numbered 0 to {size - 1}. Repair or remove that row."
                    )
        if len(self.train) == 0:
            raise ValueError(f"{self.name}: there is no training interaction, so there is nothing to learn from.")
        keys = {split: pair_keys(pairs, self.num_items) for split, pairs in splits.items()}
        for split in splits:
            unique, counts = keys[split].unique(return_counts=True)
            if len(unique) < len(keys[split]):
                user, item = divmod(int(unique[counts.argmax()]), self.num_items)
                raise ValueError(f"{self.name}: {split} holds user {user} with item {item} twice. Keep it once.")
        for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
            common = keys[first][torch.isin(keys[first], keys[second])]
            if len(common):
                user, item = divmod(int(common[0]), self.num_items)
                raise ValueError(
                    f"{self.name}: {len(common)} interactions are in both {first} and {second}, for example "
                    f"user {user} with item {item}. The splits must be disjoint: remove them from one of the two."
                )
        if self.items and len(self.items) != self.num_items:
            raise ValueError(f"{self.name}: {len(self.items)} item texts for {self.num_items} items.")
