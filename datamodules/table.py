"""Interactions as columns of numbers: their canonical order, the k-core, and the split of each user's rows."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_ROWS = 1 << 18
"""The rows that are looked up at once: NumPy copies all row numbers to 8 bytes each before it begins."""


@dataclass
class Table:
    """Some interactions, a row each.

    Attributes:
        users: The number of each row's user, int32 [n].
        items: The number of each row's item, int32 [n].
        grades: How many of the bounds that the caller gave each row's rating reaches, uint8 [n]; None if no rating is
            needed.
        times: Numbers in the order of the times, integers [n]; None if they are not needed.
        cuts: The numbers of the cut-off times that the caller gave: a row is at or after one if its number is.
    """

    users: np.ndarray
    items: np.ndarray
    grades: np.ndarray | None = None
    times: np.ndarray | None = None
    cuts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> None:
        """Keep these rows (numbers, or a bool for each row), column by column, so that no second table is needed."""
        self.users = self.users[rows]
        self.items = self.items[rows]
        self.grades = None if self.grades is None else self.grades[rows]
        self.times = None if self.times is None else self.times[rows]

    def pairs(self, rows: np.ndarray | slice = slice(None)) -> Tensor:
        """Return the users and items of some rows, by default all, int64 [m, 2]."""
        users, items = self.users[rows], self.items[rows]
        pairs = np.empty((len(users), 2), dtype=np.int64)
        pairs[:, 0], pairs[:, 1] = users, items
        return torch.from_numpy(pairs)


def sort_pairs(table: Table, num_items: int) -> None:
    """Sort a table by user, then item, and keep one row of each pair.

    That row is the latest if there are times, and of equally late ones the one with the highest grade; without times it
    is the last in the order that the table has.

    Args:
        table: The interactions.
        num_items: The number of items.
    """
    keys = table.users.astype(np.int64)
    keys *= num_items
    keys += table.items
    table.users = table.items = np.empty(0, dtype=np.int32)  # the keys hold both; this is where memory peaks
    order = _stable_order(keys)
    keys = _gather(keys, order)
    again = keys[1:] == keys[:-1]  # the pair of the row before
    if again.any():
        if table.times is not None:
            rows = np.flatnonzero(np.append(again, False) | np.insert(again, 0, False))
            by = [column[order[rows]] for column in (table.grades, table.times) if column is not None]
            order[rows] = order[rows[np.lexsort((*by, keys[rows]))]]
        last = np.append(~again, True)
        keys, order = keys[last], order[last]
    table.grades = None if table.grades is None else _gather(table.grades, order)
    table.times = None if table.times is None else _gather(table.times, order)
    del order
    table.users = (keys // num_items).astype(np.int32)
    keys %= num_items
    table.items = keys.astype(np.int32)


def _stable_order(values: np.ndarray) -> np.ndarray:
    """Return the rows in the order of their values, and as they were where these are equal, int32 [n] if that fits."""
    order = values.argsort(kind="stable")
    return order.astype(np.int32) if len(order) < 2**31 else order


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Find the rows that are left when users and items with fewer than k interactions are removed, repeatedly.

    Args:
        users: The user of each interaction, integers [n].
        items: The item of each interaction, integers [n].
        k: The smallest number of interactions that a user or an item may have.

    Returns:
        Whether each row is left, bool [n].
    """
    keep = np.ones(len(users), dtype=bool)
    while k > 1:
        enough = [np.bincount(column[keep], minlength=int(column.max(initial=0)) + 1) >= k for column in (users, items)]
        left = keep & enough[0][users] & enough[1][items]
        if left.sum() == keep.sum():
            break
        keep = left
    return keep


def split(table: Table, ratios: tuple[float, float, float] | None, seed: int) -> np.ndarray:
    """Divide the rows of each user among the splits, at random or, if the table has times, by time.

    A held-out share is rounded down; above zero it gets at least one row, as long as one is left for training. Rows of
    the same time are put in a random order, because any other would favour some items.

    Args:
        table: The interactions, sorted by user.
        ratios: The shares of the training, validation and test split. None leaves one row for the test split and one
            for the validation split; of two rows, the second is for the test split, and a single row is for training.
        seed: The seed of the random order.

    Returns:
        0, 1 or 2 (train, valid, test) for each row, int8 [n].
    """
    sizes = np.bincount(table.users)
    if ratios is None:
        valid, test = (sizes > 2).astype(np.int64), (sizes > 1).astype(np.int64)
        train = sizes - valid - test
    else:
        # 1e-9: 0.2 * 15 is 3.0000000000000004 in one order of multiplication and 2.9999999999999996 in another
        valid, test = (np.floor(ratio * sizes + 1e-9).astype(np.int64) for ratio in ratios[1:])
        train = sizes - valid - test
        for ratio, count in ((ratios[2], test), (ratios[1], valid)):
            short = (count == 0) & (ratio > 0) & (train > 1)
            count += short
            train -= short
    order = np.arange(len(table), dtype=np.int32 if len(table) < 2**31 else np.int64)
    np.random.default_rng([seed, 0x5117]).shuffle(order)
    if table.times is not None:
        order = _gather(order, _stable_order(_gather(table.times, order)))
    order = _gather(order, _stable_order(_gather(table.users, order)))
    # Like the table itself, the new order is sorted by user.
    counts = np.stack([train, valid, test], axis=1).ravel()
    parts = np.empty(len(table), dtype=np.int8)
    parts[order] = np.repeat(np.tile(np.arange(3, dtype=np.int8), len(sizes)), counts)
    return parts


def place_in_time(times: np.ndarray) -> np.ndarray:
    """Return the place of each row in the order of time, where rows of the same time are in the order that they have.

    Args:
        times: Numbers in the order of the times, integers [n].

    Returns:
        The numbers from 0 to n - 1, each once: int32 [n] if they fit.
    """
    order = _stable_order(times)
    places = np.empty_like(order)
    places[order] = np.arange(len(order), dtype=order.dtype)
    return places


def cut_times(times: np.ndarray, ratios: tuple[float, float, float]) -> tuple[int, int]:
    """Return the cut-off times that hold out the latest shares of all rows.

    Rows of the same time are not parted, so that a held-out share may become larger.

    Args:
        times: Numbers in the order of the times, integers [n] with n > 0.
        ratios: The shares of the training, validation and test split.

    Returns:
        The time from which on rows are for validation, and the one from which on they are for the test.
    """
    test = int(ratios[2] * len(times) + 1e-9)
    held_out = test + int(ratios[1] * len(times) + 1e-9)
    ordered = np.sort(times)
    never = int(ordered[-1]) + 1
    from_valid, from_test = (int(ordered[-count]) if count else never for count in (held_out, test))
    return from_valid, from_test


def split_at(times: np.ndarray, cuts: tuple[int, ...]) -> np.ndarray:
    """Divide rows by two cut-off times, the same for all users.

    Args:
        times: Numbers in the order of the times, integers [n].
        cuts: The first number of the validation split and the first of the test split.

    Returns:
        0, 1 or 2 (train, valid, test) for each row, int8 [n].
    """
    from_valid, from_test = cuts
    return (times >= from_valid).astype(np.int8) + (times >= from_test).astype(np.int8)


def known_from_training(table: Table, parts: np.ndarray) -> np.ndarray:
    """Return the rows whose user and item both have a row in the training split, bool [n].

    Args:
        table: The interactions.
        parts: The split of each row; 0 is training.
    """
    known = np.ones(len(table), dtype=bool)
    for codes in (table.users, table.items):
        trained = np.zeros(int(codes.max(initial=-1)) + 1, dtype=bool)
        trained[codes[parts == 0]] = True
        known &= trained[codes]
    return known


def replace(codes: np.ndarray, new: np.ndarray) -> None:
    """Set each code c to ``new[c]``, in place.

    Args:
        codes: The codes, int32 [n].
        new: The new code of each old one, int32.
    """
    for start in range(0, len(codes), _ROWS):
        block = codes[start : start + _ROWS]
        block[:] = new[block]


def _gather(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return ``values[rows]``."""
    found = np.empty(len(rows), dtype=values.dtype)
    for start in range(0, len(rows), _ROWS):
        found[start : start + _ROWS] = values[rows[start : start + _ROWS]]
    return found


def renumber(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Find new numbers without gaps, in the same order, for the numbers that occur.

    Args:
        codes: Numbers from 0 to ``size - 1``, integers [n].
        size: How many numbers there are.

    Returns:
        Whether each old number occurs, bool [size], and the new number of each, int32 [size].
    """
    occurs = np.zeros(size, dtype=bool)
    occurs[codes] = True
    return occurs, occurs.cumsum(dtype=np.int32) - 1
