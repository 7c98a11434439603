"""The interactions of a data set, checked when they are loaded, and the text of its items."""

import re
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


def named(what: str, number: int, names: list[str] | None) -> str:
    """Return what an error message calls a user or an item: ``user 'anna'``, or ``user 3`` without names.

    Args:
        what: "user" or "item".
        number: The number.
        names: The identifiers of the source; None if the source has only numbers.
    """
    return f"{what} {number}" if names is None else f"{what} {names[number]!r}"


def encodable(value: object) -> str:
    """Return a value as text that can be encoded: half a surrogate pair becomes U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", str(value))


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
        ValueError: If a split is not int64 [n, 2], a user or item is out of range, the training split is empty, a pair
            occurs twice in a split or in two splits, or there is the wrong number of texts, names or kinds.
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
            if pairs.dtype != torch.int64 or pairs.dim() != 2 or pairs.shape[1] != 2:
                raise ValueError(
                    f"{self.name}: {split} is {pairs.dtype} {list(pairs.shape)}; the pairs must be torch.int64 [n, 2]."
                )
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
        for owned, given, expected, what in (
            ("item texts", self.items or None, self.num_items, "items"),
            ("user names", self.user_names, self.num_users, "users"),
            ("item names", self.item_names, self.num_items, "items"),
            ("train_kinds", self.train_kinds, len(self.train), "training interactions"),
        ):
            if given is not None and len(given) != expected:
                raise ValueError(f"{self.name}: there are {len(given)} {owned} for {expected} {what}.")
        keys = {split: pair_keys(pairs, self.num_items) for split, pairs in splits.items()}
        for split in splits:
            if not (keys[split][1:] > keys[split][:-1]).all():  # sorting takes more time and memory
                keys[split] = keys[split].sort().values
            repeated = keys[split][1:] == keys[split][:-1]
            if repeated.any():
                pair = self._pair(keys[split][1:][repeated])
                raise ValueError(f"{self.name}: {split} holds {pair} twice. Keep one of them.")
        for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
            if len(keys[first]) == 0:
                continue
            place = torch.searchsorted(keys[first], keys[second]).clamp_(max=len(keys[first]) - 1)
            common = keys[second][keys[first][place] == keys[second]]
            if len(common):
                raise ValueError(
                    f"{self.name}: {len(common)} interactions are in both {first} and {second}, for example "
                    f"{self._pair(common)}. The splits must be disjoint: remove them from one of the two."
                )

    def _pair(self, keys: Tensor) -> str:
        """Return the first pair in words: by the names of the source, if it has names."""
        user, item = divmod(int(keys[0]), self.num_items)
        return f"{named('user', user, self.user_names)} with {named('item', item, self.item_names)}"
