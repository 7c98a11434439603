"""Which of the reviews are interactions, whose, and in which split."""

from dataclasses import dataclass

import numpy as np

from llmhd_pl.datamodules.table import Table, k_core, renumber, replace, sort_pairs, split
from llmhd_pl.memory import return_freed_memory

RATIOS = (0.6, 0.2, 0.2)
"""The shares of the training, validation and test split, as in the published folders."""


@dataclass
class Selection:
    """What is left of the reviews. Users and items are numbered in the order of their identifiers, sorted as text.

    Attributes:
        train: The interactions of the training split, sorted by user, then item.
        valid: Those of the validation split.
        test: Those of the test split.
        low: The interactions of the same users and items with a rating below the threshold; None without ratings.
        users: The identifiers of the users.
        items: The identifiers of the items.
        repeated: The reviews left out because a later one of the same user is about the same item.
        below: The interactions with a rating below the threshold, before users and items were removed.
        positives: The other ones.
        core: The positives in the k-core, before users were drawn.
        core_users: The users in the k-core, before users were drawn.
    """

    train: Table
    valid: Table
    test: Table
    low: Table | None
    users: list[str]
    items: list[str]
    repeated: int
    below: int
    positives: int
    core: int
    core_users: int


def select(
    table: Table, users: list[str], items: list[str], k: int, sample: int | None, temporal: bool, seed: int
) -> Selection:
    """Choose and divide the interactions. The order of the reviews makes no difference.

    Of several reviews of an item by a user, the latest counts, and of equally late ones the one with the highest grade.
    Then low ratings are set apart, users and items with fewer than ``k`` positives are removed, repeatedly, and, if a
    sample is wanted, users are drawn, and the k-core is taken again.

    Args:
        table: The reviews with their times, and with a grade of 0 for those below the threshold. It is used up.
        users: The identifiers of the users by their numbers.
        items: The identifiers of the items by their numbers.
        k: The smallest number of positives that a user or an item may have.
        sample: How many users to draw from those of the k-core; None takes all.
        temporal: Whether each user's latest interactions are held out, and not random ones.
        seed: The seed of the sample and of the random split.

    Raises:
        ValueError: If no interaction is left.
    """
    reviews = len(table)
    sort_pairs(table, len(items))
    return_freed_memory()
    repeated = reviews - len(table)
    low = None
    if table.grades is not None:
        liked = table.grades > 0
        table.grades = None
        low = Table(table.users[~liked], table.items[~liked])
        table.take(liked)
    below, positives = 0 if low is None else len(low), len(table)
    table.take(k_core(table.users, table.items, k))
    left = np.unique(table.users).tolist()
    core, core_users = len(table), len(left)
    if sample is not None and sample < len(left):
        left.sort(key=users.__getitem__)
        drawn = np.zeros(len(users), dtype=bool)
        drawn[np.random.default_rng([seed, 0x05E4]).choice(left, sample, replace=False)] = True
        table.take(drawn[table.users])
        table.take(k_core(table.users, table.items, k))
    if len(table) == 0:
        raise ValueError(
            f"No interaction is left: {reviews:,} reviews, {positives:,} positive interactions, {core:,} of them by "
            f"users and about items with {k} or more. Lower k_core or the threshold, or take a larger sample."
        )
    for column, names in (("users", users), ("items", items)):
        known, order = _by_name(getattr(table, column), names)
        if low is not None:
            low.take(known[getattr(low, column)])
            replace(getattr(low, column), order)
        replace(getattr(table, column), order)
        names[:] = sorted(name for name, kept in zip(names, known, strict=True) if kept)
    return_freed_memory()
    for rows in (table, low):
        if rows is not None:
            sort_pairs(rows, len(items))
    if not temporal:
        table.times = None
    parts = split(table, RATIOS, 0 if temporal else seed)
    train, valid, test = (Table(table.users[parts == part], table.items[parts == part]) for part in range(3))
    return Selection(train, valid, test, low, users, items, repeated, below, positives, core, core_users)


def _by_name(codes: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Number the codes that occur anew, in the order of their names.

    Args:
        codes: Numbers that count the names, int32 [n].
        names: The names.

    Returns:
        Whether each old number occurs, bool [len(names)], and the new number of those that do, int32 [len(names)].
    """
    known, _ = renumber(codes, len(names))
    kept = sorted(np.flatnonzero(known).tolist(), key=names.__getitem__)
    order = np.full(len(names), -1, dtype=np.int32)
    order[kept] = np.arange(len(kept), dtype=np.int32)
    return known, order
