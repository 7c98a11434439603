"""The splits by time that leave out each user's last interactions, or everything after a cut-off time."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import pairs_of

from llmhd_pl.datamodules import AtomicFiles, Interactions, TableData
from llmhd_pl.datamodules.table import Table, cut_times, known_from_training, place_in_time, split, split_at

SPLITS = ("train", "valid", "test")
Row = tuple[str, str, int]
log = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("uvwxyz"), st.integers(0, 8)), min_size=1, max_size=40
)


def load(rows: list[Any], **arguments: Any) -> Interactions:
    table = pd.DataFrame([row[:3] for row in rows], columns=["user_id", "item_id", "time"])
    if len(rows[0]) > 3:
        table["rating"] = [row[3] for row in rows]
    return TableData(table, time="time", **arguments).interactions


def named(data: Interactions) -> list[list[str]]:
    """The pairs of the three splits, as "user item"."""
    users, items = data.user_names, data.item_names
    assert users is not None and items is not None
    return [[users[user] + items[item] for user, item in pairs_of(getattr(data, name))] for name in SPLITS]


# Leave last out


def test_the_last_is_for_the_test_and_the_one_before_it_for_validation() -> None:
    rows = [
        *(("a", "w", 4), ("a", "x", 1), ("a", "y", 9), ("a", "z", 3)),  # x, z, w, y
        *(("b", "x", 2), ("b", "w", 1)),  # w, x: too few for validation
        ("c", "w", 5),  # nothing to hold out
        *(("d", "z", 7), ("d", "y", 7), ("d", "x", 7)),  # all at once: in the order of the rows
    ]
    assert named(load(rows, split="leave-last-out")) == [
        ["ax", "az", "bw", "cw", "dz"],
        ["aw", "dy"],
        ["ay", "bx", "dx"],
    ]
    backwards = load(rows[::-1], split="leave-last-out", seed=9, split_ratios=(1, 0, 0))
    assert named(backwards) == [["ax", "az", "bw", "cw", "dx"], ["aw", "dy"], ["ay", "bx", "dz"]]


def test_of_equal_rows_at_the_same_time_the_later_one_counts() -> None:
    rows = [("a", "x", 1, 5), ("a", "y", 1, 5), ("a", "x", 1, 1), ("a", "z", 0, 5)]
    data = load(rows, split="leave-last-out", rating="rating", rating_threshold=2)
    assert named(data) == [["az"], [], ["ay"]]


@given(log)
def test_leave_last_out_equals_a_plain_reference(rows: list[Row]) -> None:
    last: dict[tuple[str, str], tuple[int, int]] = {}
    for place, (user, item, time) in enumerate(rows):
        last[user, item] = max(last.get((user, item), (-1, 0)), (time, place))
    expected: list[list[str]] = [[], [], []]
    for user in sorted({row[0] for row in rows}):
        items = sorted((when, item) for (other, item), when in last.items() if other == user)
        held = {len(items) - 1: 2, len(items) - 2: 1} if len(items) > 2 else {1: 2}
        for place, (_, item) in enumerate(items):
            expected[held.get(place, 0)].append(user + item)
    assert named(load(rows, split="leave-last-out")) == [sorted(part) for part in expected]


# A cut-off time for all


LOG = [
    *(("a", "x", 1), ("b", "y", 2), ("a", "y", 3), ("b", "x", 4), ("c", "x", 5), ("a", "z", 6)),
    *(("c", "y", 7), ("b", "z", 8), ("d", "x", 9), ("c", "z", 10)),
]


def test_the_latest_shares_of_all_interactions_are_held_out() -> None:
    """Of ten, the times 7 and 8 are for validation and 9 and 10 for the test; d has nothing in training."""
    with pytest.warns(UserWarning, match=r"1 of 4 interactions from the first cut-off time on are of users or items"):
        data = load(LOG, split="temporal-global")
    assert named(data) == [["ax", "ay", "az", "bx", "by", "cx"], ["bz", "cy"], ["cz"]]
    assert (data.user_names, data.item_names) == (["a", "b", "c"], ["x", "y", "z"])
    nothing_held = load(LOG, split="temporal-global", split_ratios=(1, 0, 0))
    assert [len(part) for part in named(nothing_held)] == [10, 0, 0]
    no_validation = load(LOG[:8], split="temporal-global", split_ratios=(0.75, 0, 0.25))
    assert named(no_validation)[1:] == [[], ["bz", "cy"]]


@pytest.mark.parametrize("first", [5, 4.5, "5"])
def test_the_cut_off_times_can_be_given(first: Any) -> None:
    """Before 5, training knows neither c nor z, before 6 it knows c."""
    with pytest.warns(UserWarning, match="6 of 6"):
        assert named(load(LOG, split="temporal-global", split_times=(first, 8.5))) == [["ax", "ay", "bx", "by"], [], []]
    with pytest.warns(UserWarning, match="4 of 5"):
        data = load(LOG, split="temporal-global", split_times=("6", "8"))
    assert named(data) == [["ax", "ay", "bx", "by", "cx"], ["cy"], []]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_dates_cut_at_their_instant(zone: str | None, unit: Any) -> None:
    hours = [*range(20, 26), 26]  # of January 31: the cut at midnight UTC is hour 24
    when = pd.to_datetime("2026-01-31", utc=zone is not None) + pd.to_timedelta(hours, unit="h")
    if zone is not None:
        when = when.tz_convert(zone)
    table = pd.DataFrame({"user_id": "a", "item_id": list("tuvwxyz"), "time": when.as_unit(unit)})
    extra = table.assign(user_id="b", time=when[0])  # so that all items are known
    both = pd.concat([extra, table])
    data = TableData(
        both, time="time", split="temporal-global", split_times=("2026-02-01", "2026-02-01T02:00:00")
    ).interactions
    assert named(data)[1:] == [["ax", "ay"], ["az"]]
    if zone is None:
        with pytest.raises(ValueError, match=r"with a time zone, but the times .* have none"):
            TableData(
                both, time="time", split="temporal-global", split_times=("2026-02-01T00:00Z", "2027-01-01")
            ).setup()
    with pytest.raises(ValueError, match=r"split_times names 5, but the times .* are dates"):
        TableData(both, time="time", split="temporal-global", split_times=(5, 6)).setup()


def test_cut_off_times_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split_times names '2026-01-31', but the times .* are numbers"):
        load(LOG, split="temporal-global", split_times=("2026-01-31", "2026-02-01"))
    with pytest.raises(ValueError, match="no interaction is before the first cut-off time"):
        load(LOG, split="temporal-global", split_times=(1, 2))
    with pytest.raises(ValueError, match="the test begins after the validation"):
        load(LOG, split="temporal-global", split_times=(8, 5))
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\na\tx\t1\n")
    with pytest.raises(ValueError, match=r"split_times names 'soon', but the times of .*x\.inter are numbers"):
        AtomicFiles(str(tmp_path), split="temporal-global", split_times=("soon", 2)).setup()


def test_noise_of_low_ratings_is_not_from_after_the_cut() -> None:
    rows = [(*row, 5) for row in LOG[:8]] + [("c", "w", 1, 5), ("a", "w", 2, 1), ("b", "w", 7, 1)]
    data = load(rows, split="temporal-global", split_times=(7, 8), rating="rating", rating_threshold=3)
    assert data.low_rated is not None and data.user_names is not None and data.item_names is not None
    low = [data.user_names[user] + data.item_names[item] for user, item in pairs_of(data.low_rated)]
    assert low == ["aw"]


@pytest.mark.parametrize("scale", [1, 0.001, 10**12])
@given(rows=log, shares=st.tuples(*[st.integers(0, 10)] * 3).filter(lambda parts: parts[0] > 0))
def test_nothing_in_training_is_later_than_what_is_held_out(scale: float, rows: list[Row], shares: Any) -> None:
    ratios = tuple(share / sum(shares) for share in shares)
    rows = [(user, item, time * scale) for user, item, time in rows]  # type: ignore[misc]
    latest: dict[str, float] = {}
    for user, item, time in rows:
        latest[user + item] = max(latest.get(user + item, 0), time)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parts = named(load(rows, split="temporal-global", split_ratios=ratios))
        except ValueError as error:
            assert "no interaction is before the first cut-off" in str(error)
            return
    assert len(set().union(*map(set, parts))) == sum(map(len, parts)), "an interaction in two splits"
    times = [[latest[pair] for pair in part] for part in parts]
    for earlier, later in ((0, 1), (1, 2), (0, 2)):
        assert max(times[earlier], default=-1) < min(times[later], default=np.inf)
    users, items = ({pair[place] for pair in parts[0]} for place in (0, 1))
    assert all(pair[0] in users and pair[1] in items for part in parts[1:] for pair in part)
    # Only what training does not know is left out.
    first_held = min((time for pair, time in latest.items() if pair not in parts[0]), default=np.inf)
    for pair in latest.keys() - set().union(*map(set, parts)):
        assert latest[pair] >= first_held and not (pair[0] in users and pair[1] in items)
    held = len([time for time in latest.values() if time >= first_held])
    assert held >= int((ratios[1] + ratios[2]) * len(latest) - 1e-6) - 1


@given(log, st.sampled_from([None, (2, 5), (2.5, 2.5), (0.25, 8)]), st.booleans())
def test_atomic_files_are_cut_in_the_same_places(tmp_path_factory: Any, rows: list[Row], cuts: Any, part: bool) -> None:
    rows = [(user, item, time + part / 2) for user, item, time in rows]  # type: ignore[misc]
    folder = tmp_path_factory.mktemp("cut")
    lines = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    (folder / "x.inter").write_text(f"user_id:token\titem_id:token\ttimestamp:float\n{lines}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = []
        for read in (
            lambda: load(rows, split="temporal-global", split_times=cuts),
            lambda: AtomicFiles(str(folder), split="temporal-global", split_times=cuts).interactions,
        ):
            try:
                found.append(named(read()))
            except ValueError as error:
                found.append([[str(error).partition(":")[2]]])
    assert found[0] == found[1]


# The parts


@given(st.lists(st.integers(-3, 3), max_size=20))
def test_places_in_time(times: list[int]) -> None:
    places = place_in_time(np.array(times, dtype=np.int64))
    order = sorted(range(len(times)), key=lambda row: times[row])
    assert places.tolist() == [order.index(row) for row in range(len(times))]


def test_shares_of_times() -> None:
    times = np.array([5, 1, 3, 3, 4, 2, 9, 7, 8, 6])
    assert cut_times(times, (0.6, 0.2, 0.2)) == (6, 8)
    assert cut_times(times, (0.2, 0.7, 0.1)) == (3, 9)  # both threes
    assert cut_times(times, (1, 0, 0)) == (10, 10)
    assert split_at(times, (3, 8)).tolist() == [1, 0, 1, 1, 1, 0, 2, 1, 2, 1]
    assert split_at(times.astype(np.int32), (-(2**70), 2**70)).tolist() == [1] * 10


def test_one_row_of_each_user() -> None:
    table = Table(np.array([0, 2, 2, 4, 4, 4], np.int32), np.arange(6, dtype=np.int32), times=np.arange(6)[::-1])
    assert split(table, None, 0).tolist() == [0, 2, 0, 2, 1, 0]
    assert known_from_training(table, np.array([0, 0, 1, 1, 1, 1])).tolist() == [True, True, False, False, False, False]
