"""The pairs that a judge is measured on: matched ones that popularity cannot tell apart, and the groups of a sample."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from llmhd_pl.datamodules import AmazonBooks, AtomicFiles, InteractionDataModule, Interactions, Steam, Yelp
from llmhd_pl.judge.areas import pooled_auc, within_user_auc
from llmhd_pl.judge.pairs import (
    GENUINE,
    HELD_OUT,
    PLANTED,
    TOLERANCE,
    UNKNOWN,
    Sample,
    compared,
    draw_sample,
    popularity,
    popularity_matched,
    training_pairs,
)

DATA = Path(__file__).parents[3] / "shared" / "data"
Pair = tuple[int, int]


def tensor(pairs: Any) -> Tensor:
    return torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2)


def rows(pairs: Tensor) -> list[Pair]:
    return [(user, item) for user, item in pairs.tolist()]


class Given(InteractionDataModule):
    """Interactions that are given, as a data module after ``setup``."""

    def __init__(self, users: int, items: int, train: Any, valid: Any = (), test: Any = (), **arguments: Any) -> None:
        super().__init__(**arguments)
        self.given = Interactions("given", users, items, tensor(train), tensor(valid), tensor(test))
        self.setup()

    def load(self) -> Interactions:
        return self.given

    def known(self, user: int) -> set[int]:
        pairs = torch.cat([training_pairs(self), self.given.train, self.given.valid, self.given.test])
        return {item for who, item in rows(pairs) if who == user}


def test_popularity_leaves_the_pair_itself_out() -> None:
    data = Given(3, 3, [(0, 0), (1, 0), (2, 0), (0, 1)])
    asked = tensor([(0, 0), (0, 1), (1, 1), (0, 2)])
    assert popularity(asked, data).tolist() == [2, 0, 1, 0]


# Items 0 to 5 have 4, 4, 4, 3, 1 and 0 training interactions; user 9 has none of them yet.
COUNTED = [(user, item) for item, count in enumerate((4, 4, 4, 3, 1, 0)) for user in range(count)]


def test_a_match_is_the_nearest_unknown_item() -> None:
    held_out = [(9, 0), (8, 1), (7, 3), (6, 4), (5, 5)]
    data = Given(10, 6, [*COUNTED, (8, 2), (6, 0)], valid=held_out, test=[(9, 2)])
    # Items 0 and 2 now have 5 interactions. User 9 knows 0 and 2, and what is nearest to 0 is too far away.
    matched, unknown = popularity_matched(tensor(held_out), data)
    assert TOLERANCE * 5 < 1
    assert matched.tolist() == [False] * 5 and unknown.shape == (0, 2)
    data = Given(10, 6, COUNTED, valid=[(9, 0), (9, 4), (8, 1)], test=[(9, 2)])
    matched, unknown = popularity_matched(data.interactions.valid, data)
    assert matched.tolist() == [True, False, True]
    assert rows(unknown)[0] == (9, 1) and rows(unknown)[1] in [(8, 0), (8, 2)]
    other_items = {rows(popularity_matched(tensor([(8, 1)]), data, seed)[1])[0] for seed in range(20)}
    assert other_items == {(8, 0), (8, 2)}  # ties are drawn


def test_no_item_is_drawn_twice_for_a_user() -> None:
    data = Given(10, 6, COUNTED, valid=[(9, 0), (9, 1)])
    matched, unknown = popularity_matched(data.interactions.valid, data)
    assert matched.sum() == 1 and rows(unknown) == [(9, 2)]


@st.composite
def modules(draw: st.DrawFn) -> Given:
    users, items = draw(st.integers(1, 6)), draw(st.integers(2, 9))
    split = st.lists(st.sampled_from(["none", "train", "valid", "test"]), min_size=items, max_size=items)
    where: dict[str, list[Pair]] = {name: [] for name in ("none", "train", "valid", "test")}
    for user in range(users):
        for item, name in enumerate(draw(split)):
            where[name].append((user, item))
    assume(where["train"])
    noise = draw(st.sampled_from([0.0, 0.3]))
    assume(round(noise * len(where["train"])) <= len(where["none"]))
    try:
        return Given(users, items, where["train"], where["valid"], where["test"], noise_ratio=noise)
    except ValueError as error:  # a user who has everything has no negative
        assume("no negative" not in str(error))
        raise


@given(modules(), st.integers(0, 3))
def test_matches_are_unknown_items_of_the_same_user_and_popularity(data: Given, seed: int) -> None:
    held_out = data.interactions.test
    matched, unknown = popularity_matched(held_out, data, seed)
    count = Counter(data.train_items.tolist())
    assert len(set(rows(unknown))) == len(unknown) == int(matched.sum())
    for (user, item), (same, other) in zip(rows(held_out[matched]), rows(unknown), strict=True):
        assert same == user and other not in data.known(user)
        assert abs(count[other] - count[item]) <= TOLERANCE * count[item]
    taken = set(rows(unknown))
    for user, item in rows(held_out[~matched]):
        free = set(range(data.num_items)) - data.known(user) - {other for who, other in taken if who == user}
        assert all(abs(count[other] - count[item]) > TOLERANCE * count[item] for other in free)


@pytest.mark.parametrize(
    ("module", "name"),
    [(Yelp, "yelp"), (Steam, "steam"), (AmazonBooks, "amazon-books"), (AtomicFiles, "ml-100k")],
)
def test_popularity_alone_cannot_tell_the_held_out_pairs_of_real_data(module: Any, name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not here; docs/data.md says where the data comes from.")
    data = module(str(DATA / name), noise_ratio=0.2)
    data.setup()
    held_out = data.interactions.valid
    matched, unknown = popularity_matched(held_out, data)
    assert matched.double().mean() > 0.95
    pairs, genuine = torch.cat([held_out[matched], unknown]), np.repeat([True, False], int(matched.sum()))
    counts = popularity(pairs, data).numpy()
    assert 0.49 <= pooled_auc(counts, genuine) <= 0.51
    assert 0.49 <= within_user_auc(pairs[:, 0].numpy(), counts, genuine) <= 0.51


def shop(**arguments: Any) -> Given:
    """30 users with ten items each of 40; the last two are held out."""
    rng = np.random.default_rng(0)
    items = [rng.permutation(40)[:10].tolist() for _ in range(30)]
    parts = [[(user, item) for user, some in enumerate(items) for item in some[part]] for part in (
        slice(8), slice(8, 9), slice(9, 10),
    )]  # fmt: skip
    return Given(31, 40, *parts, **arguments)


def groups(sample: Sample) -> dict[str, list[Pair]]:
    return {name: rows(sample.pairs[sample.group == name]) for name in (GENUINE, PLANTED, HELD_OUT, UNKNOWN)}


def test_the_groups_of_a_sample() -> None:
    data = shop(noise_ratio=0.25)
    noise = set(rows(training_pairs(data)[data.noise_mask]))
    sample = draw_sample(data, 20)
    found = groups(sample)
    assert not sample.planted_here and len(found[PLANTED]) == 20 == len(set(found[PLANTED]))
    assert set(found[PLANTED]) < noise
    assert set(found[GENUINE]) < set(rows(data.interactions.train)) and len(set(found[GENUINE])) == 20
    assert Counter(user for user, _ in found[GENUINE]) == Counter(user for user, _ in found[PLANTED])
    users = {user for user, _ in found[PLANTED]}
    assert set(found[HELD_OUT]) < set(rows(data.interactions.valid))
    assert [user for user, _ in found[HELD_OUT]] == [user for user, _ in found[UNKNOWN]]
    assert {user for user, _ in found[HELD_OUT]} <= users
    assert not any(item in data.known(user) for user, item in found[UNKNOWN])
    test = groups(draw_sample(data, 20, held_out=data.interactions.test))
    assert set(test[HELD_OUT]) < set(rows(data.interactions.test)) and test[PLANTED] == found[PLANTED]


def test_the_seed_decides_the_sample() -> None:
    data = shop(noise_ratio=0.25)
    first, again, other = (groups(draw_sample(data, 20, seed)) for seed in (0, 0, 1))
    assert first == again and all(first[name] != other[name] for name in first)
    everything = groups(draw_sample(data, 10_000))
    assert set(everything[PLANTED]) <= set(rows(training_pairs(data)[data.noise_mask]))
    with_history = {user for user, _ in rows(data.interactions.train)}
    assert {user for user, _ in everything[PLANTED]} <= with_history  # user 30 has noise alone


def test_of_many_held_out_pairs_some_are_drawn() -> None:
    """Not the first ones: they are sorted by user."""
    train = [(int(item >= 8), item) for item in range(40)]  # all are equally popular
    data = Given(2, 40, train, valid=[(0, item) for item in range(8, 18)])
    drawn = [groups(draw_sample(data, 3, seed))[HELD_OUT] for seed in range(10)]
    assert max(map(len, drawn)) == 3 and len({pair for some in drawn for pair in some}) > 6


def test_without_noise_random_pairs_are_drawn() -> None:
    data = shop()
    sample = draw_sample(data, 20)
    found = groups(sample)
    assert sample.planted_here and 15 <= len(found[PLANTED]) <= 20
    assert not any(item in data.known(user) for user, item in found[PLANTED])
    assert all(user < 30 for user, _ in found[PLANTED])
    assert not set(found[PLANTED]) & set(rows(training_pairs(data)))


def test_a_held_out_pair_and_its_match_are_left_out_together() -> None:
    group = np.array([GENUINE, GENUINE, PLANTED, HELD_OUT, HELD_OUT, HELD_OUT, UNKNOWN, UNKNOWN, UNKNOWN])
    sample = Sample(torch.zeros(9, 2, dtype=torch.int64), group, False)
    nan = float("nan")
    found = compared(sample, np.array([1, nan, 1, nan, 1, 1, 1, 1, nan]))
    assert {name: (some.tolist(), genuine.tolist()) for name, (some, genuine) in found.items()} == {
        "train": ([0, 2], [True, False]),
        "held-out": ([4, 7], [True, False]),
    }
