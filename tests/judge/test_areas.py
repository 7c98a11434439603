"""The areas against counting all comparisons one by one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmhd_pl.judge.areas import interval, pooled_auc, within_user_auc
from llmhd_pl.metrics import auc

Rows = list[tuple[int, int, bool]]
ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans()), max_size=25)


def columns(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    users, values, genuine = ([row[place] for row in rows] for place in range(3))
    return np.array(users, dtype=np.int64), np.array(values, dtype=float), np.array(genuine, dtype=bool)


def counted(rows: Rows, within: bool) -> float:
    wins = [
        1.0 if ours > theirs else 0.5 if ours == theirs else 0.0
        for user, ours, genuine in rows
        for other, theirs, other_genuine in rows
        if genuine and not other_genuine and (user == other or not within)
    ]
    return sum(wins) / len(wins) if wins else math.nan


@settings(deadline=None)  # the first call imports scikit-learn
@given(ROWS)
def test_they_are_the_shares_of_comparisons_that_are_won(rows: Rows) -> None:
    users, values, genuine = columns(rows)
    assert pooled_auc(values, genuine) == pytest.approx(counted(rows, within=False), nan_ok=True)
    assert within_user_auc(users, values, genuine) == pytest.approx(counted(rows, within=True), nan_ok=True)
    groups = torch.from_numpy(values[genuine]), torch.from_numpy(values[~genuine])
    assert pooled_auc(values, genuine) == pytest.approx(auc(*groups), nan_ok=True)


@given(ROWS)
def test_a_weight_is_a_repetition(rows: Rows) -> None:
    _, values, genuine = columns(rows)
    times = np.arange(len(rows)) % 3
    repeated = pooled_auc(values.repeat(times), genuine.repeat(times))
    assert pooled_auc(values, genuine, times) == pytest.approx(repeated, nan_ok=True)


def test_users_count_by_their_comparisons() -> None:
    """User 0 wins one of one, user 1 one of four; what users 2 and 3 have cannot be compared."""
    rows = [(0, 2, True), (0, 1, False), (1, 3, True), (1, 0, True), (1, 1, False), (1, 4, False)]
    users, values, genuine = columns([*rows, (2, 9, True), (3, 9, False)])
    assert within_user_auc(users, values, genuine) == pytest.approx((1 + 1) / (1 + 4))


def test_an_interval_is_narrower_with_more_users() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for size in (20, 500):
        users, genuine = np.repeat(np.arange(size), 2), np.tile([True, False], size)
        values = rng.normal(size=2 * size) + genuine
        for within, area in ((False, pooled_auc(values, genuine)), (True, within_user_auc(users, values, genuine))):
            low, high = interval(users, values, genuine, within)
            assert low < area < high
            widths.append(high - low)
        assert interval(users, values, genuine) == interval(users, values, genuine)
    assert widths[2] < widths[0] / 3 and widths[3] < widths[1] / 3


def test_users_are_drawn_not_pairs() -> None:
    """A hundred times the pairs of the same users say no more about other users."""
    users, genuine = np.repeat(np.arange(12), 2), np.tile([True, False], 12)
    values = np.random.default_rng(1).normal(size=24) + genuine
    many = (np.tile(users, 100), np.tile(values, 100), np.tile(genuine, 100))
    assert interval(*many) == pytest.approx(interval(users, values, genuine))
    alone = interval(np.zeros(24, dtype=np.int64), values, genuine)
    assert alone[0] < 0.05 < 0.95 < alone[1]  # one user says nothing about others


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("people", [1, 20])
def test_an_interval_without_a_mistake_is_exact(people: int, within: bool) -> None:
    rows = columns([(user, value, value > 5) for user in range(people) for value in (1, 9)])
    low, high = interval(*rows, within)
    assert (low, high) == (pytest.approx(0.025 ** (1 / people)), 1)


@pytest.mark.parametrize("within", [False, True])
def test_nothing_to_compare(within: bool) -> None:
    empty = columns([])
    assert all(map(math.isnan, (*interval(*empty, within), pooled_auc(*empty[1:]), within_user_auc(*empty))))
    assert all(map(math.isnan, interval(*columns([(0, 1, True), (1, 2, True)]), within)))
