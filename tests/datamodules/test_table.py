import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from small_data import Pair, naive_k_core

from llmhd_pl.datamodules.table import Table, k_core, renumber, replace, sort_pairs


def core(pairs: list[Pair], k: int) -> list[Pair]:
    users, items = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    return [pair for pair, left in zip(pairs, k_core(users, items, k), strict=True) if left]


@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7))), st.integers(0, 5))
def test_k_core_equals_one_removal_at_a_time(pairs: set[Pair], k: int) -> None:
    assert core(sorted(pairs), k) == sorted(naive_k_core(pairs, k))


def test_k_core_cascades() -> None:
    """A chain: without its end the next pair falls, until nothing is left. The square stays."""
    chain = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]
    square = [(8, 8), (8, 9), (9, 8), (9, 9)]
    assert core(chain + square, 2) == square


rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 2), st.integers(-3, 3)), max_size=30)


@given(rows, st.booleans(), st.booleans())
def test_one_row_of_each_pair_stays_in_sorted_order(
    given_rows: list[tuple[int, int, int, int]], graded: bool, timed: bool
) -> None:
    users, items, grades, times = np.array(given_rows, dtype=np.int64).reshape(-1, 4).T
    table = Table(
        users.astype(np.int32),
        items.astype(np.int32),
        grades.astype(np.uint8) if graded else None,
        times if timed else None,
    )
    sort_pairs(table, 4)
    best: dict[Pair, tuple[int, int]] = {}
    for user, item, grade, time in given_rows:
        if not timed or (time, grade if graded else 0) >= best.get((user, item), (-9, 0)):
            best[user, item] = (time, grade if graded else 0)
    assert list(zip(table.users.tolist(), table.items.tolist(), strict=True)) == sorted(best)
    assert table.times is None or table.times.tolist() == [best[pair][0] for pair in sorted(best)]
    assert table.grades is None or table.grades.tolist() == [best[pair][1] for pair in sorted(best)]


def test_pairs_of_many_users_and_items_do_not_overflow() -> None:
    big = np.array([2**31 - 2, 0, 2**31 - 2], dtype=np.int32)
    table = Table(big, big.copy())
    sort_pairs(table, 2**31 - 1)
    assert table.users.tolist() == table.items.tolist() == [0, 2**31 - 2]


@given(st.lists(st.integers(0, 20)))
def test_new_numbers_have_no_gaps(codes: list[int]) -> None:
    array = np.array(codes, dtype=np.int32)
    occurs, new = renumber(array, 21)
    replace(array, new)
    order = sorted(set(codes))
    assert occurs.nonzero()[0].tolist() == order and array.tolist() == [order.index(code) for code in codes]
