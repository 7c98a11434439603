"""Which reviews become interactions, against plain Python; and the text of items in odd forms."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import naive_k_core

from llmhd_pl.datamodules.prepare.selection import Selection, select
from llmhd_pl.datamodules.prepare.texts import amazon_texts, steam_texts, yelp_texts
from llmhd_pl.datamodules.table import Table

Row = tuple[int, int, int, int]
"""A user, an item, 1 if the rating reaches the threshold, and a time."""
small = st.integers(0, 6)
reviews = st.lists(st.tuples(small, small, st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=60)


def selected(rows: list[Row], k: int, sample: int | None = None, temporal: bool = False, seed: int = 0) -> Selection:
    """The selection of reviews whose users are u0, u1 ... and whose items i0, i1 ..., numbered backwards."""
    user, item, grade, time = (np.array(column) for column in zip(*rows, strict=True))
    table = Table((6 - user).astype(np.int32), (6 - item).astype(np.int32), grade.astype(np.uint8), time)
    users, items = ([f"{letter}{6 - number}" for number in range(7)] for letter in "ui")
    return select(table, users, items, k, sample, temporal, seed)


def named(selection: Selection, table: Table | None) -> set[tuple[str, str]]:
    assert table is not None
    pairs = [
        (selection.users[user], selection.items[item]) for user, item in zip(table.users, table.items, strict=True)
    ]
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def expected(rows: list[Row], k: int) -> tuple[set[tuple[str, str]], set[tuple[str, str]], int]:
    """The positives that are left, the low ratings of their users and items, and the number of repeated reviews."""
    last: dict[tuple[str, str], tuple[int, int]] = {}
    for user, item, grade, time in rows:
        pair = (f"u{user}", f"i{item}")
        last[pair] = max(last.get(pair, (-1, -1)), (time, grade))
    core = naive_k_core({pair for pair, (_, grade) in last.items() if grade}, k)
    users, items = {user for user, _ in core}, {item for _, item in core}
    low = {pair for pair, (_, grade) in last.items() if not grade and pair[0] in users and pair[1] in items}
    return core, low, len(rows) - len(last)


@given(reviews, st.integers(0, 3), st.booleans())
def test_it_is_what_plain_python_finds(rows: list[Row], k: int, temporal: bool) -> None:
    core, low, repeated = expected(rows, k)
    if not core:
        with pytest.raises(ValueError, match="No interaction is left"):
            selected(rows, k)
        return
    found = selected(rows, k, temporal=temporal)
    parts = [named(found, part) for part in (found.train, found.valid, found.test)]
    assert sum(map(len, parts)) == len(core) == found.core and set.union(*parts) == core
    assert named(found, found.low) == low and found.repeated == repeated
    assert found.users == sorted({user for user, _ in core}) and found.items == sorted({item for _, item in core})
    assert found.positives + found.below + found.repeated == len(rows) and found.core_users == len(found.users)
    if temporal:
        times = {(f"u{user}", f"i{item}"): -1 for user, item, _, _ in rows}
        for user, item, _, time in rows:
            times[f"u{user}", f"i{item}"] = max(times[f"u{user}", f"i{item}"], time)
        for earlier, later in ((0, 1), (1, 2), (0, 2)):
            for one in parts[earlier]:
                assert all(times[one] <= times[other] for other in parts[later] if other[0] == one[0])


@given(reviews, st.randoms(use_true_random=False), st.booleans(), st.integers(1, 4))
def test_the_order_of_the_reviews_makes_no_difference(
    rows: list[Row], random: Any, temporal: bool, sample: int
) -> None:
    if not expected(rows, 1)[0]:
        return
    turned = random.sample(rows, len(rows))
    one, other = (selected(given, 1, sample, temporal, seed=3) for given in (rows, turned))
    assert (one.users, one.items) == (other.users, other.items) and len(one.users) <= sample
    for name in ("train", "valid", "test", "low"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.users.tolist() == second.users.tolist() and first.items.tolist() == second.items.tolist()


def nested(depth: int) -> list[Any]:
    value: list[Any] = ["deep"]
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({}, {}),
        ({"title": None, "brand": 7, "categories": {"a": 1}, "description": 3.5, "price": True}, {}),
        ({"title": ["a"], "author": ["b"], "store": None}, {}),
        ({"categories": nested(900), "description": nested(900)}, {}),
        ({"categories": [["Books", "Art"], ["Books"]], "description": "One  text\n"}, {"categories": "Books, Art"}),
        ({"price": 0.0}, {"price": "$0.00"}),
        ({"price": 1234.5}, {"price": "$1,234.50"}),
        ({"price": 10**400}, {}),
        ({"price": math.nan}, {}),
        ({"price": math.inf}, {}),
        ({"price": -1}, {}),
        ({"price": "$3.99 - $1,015.99"}, {"price": "$3.99 - $1,015.99"}),
        ({"price": "from $3.99"}, {"price": "from $3.99"}),
        ({"price": "\n.a-box-inner{background-color:#fff}"}, {}),
        ({"brand": "by\n\n  Melissa & Doug "}, {"brand": "Melissa & Doug"}),
        ({"brand": "Visit Amazon's Zo&euml; Heller Page"}, {"author": "Zoë Heller"}),
        ({"author": "Anna", "store": "Shop"}, {"author": "Anna"}),
        ({"title": "1 < 2 &amp; <b>3</b> <3"}, {"title": "1 < 2 & 3 <3"}),
    ],
)
def test_products_of_amazon_in_odd_forms(item: dict[str, Any], text: dict[str, str]) -> None:
    found = amazon_texts(item)
    if "description" in found:
        assert found.pop("description") == "One text"
    assert found == text


def test_other_items_in_odd_forms() -> None:
    assert yelp_texts({"name": "", "city": 3, "categories": ["Food", "Bars"]}) == {"categories": "Food, Bars"}
    assert steam_texts({"app_name": "Ark", "price": "Free to Play", "tags": None}) == {
        "title": "Ark",
        "price": "Free to Play",
    }
    assert steam_texts({"price": 10**400}) == {}
