from typing import Any

import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from scipy.stats import chisquare
from small_data import interactions, make, pairs_of, ready, tensor

from llmhd_pl.datamodules import Interactions, SyntheticCatalog
from llmhd_pl.datamodules.noise import NoiseSource, draw_noise

sources = st.sampled_from(["random", "popular", "low_rating"])


def pool(data: Interactions, source: str) -> set[tuple[int, int]]:
    """All pairs that may become noise."""
    if source == "low_rating":
        assert data.low_rated is not None
        candidates = set(pairs_of(data.low_rated))
    else:
        candidates = {(user, item) for user in range(data.num_users) for item in range(data.num_items)}
        if source == "popular":  # nobody without a training interaction is active, and no such item is popular
            known = [set(column.tolist()) for column in data.train.T]
            candidates = {
                pair for pair in candidates if all(one in some for one, some in zip(pair, known, strict=True))
            }
    return candidates.difference(*(pairs_of(split) for split in (data.train, data.valid, data.test)))


@given(interactions(), sources, st.integers(0, 2**32 - 1), st.data())
def test_noise_is_exact_in_number_distinct_and_outside_all_splits(
    data: Interactions, source: NoiseSource, seed: int, draw: st.DataObject
) -> None:
    allowed = pool(data, source)
    wanted = draw.draw(st.integers(0, len(allowed)))
    noise = draw_noise(data, wanted / len(data.train), source, seed)
    assert noise.dtype == torch.int64 and noise.shape == (wanted, 2)
    assert len(set(pairs_of(noise))) == wanted
    assert set(pairs_of(noise)) <= allowed
    assert torch.equal(noise, draw_noise(data, wanted / len(data.train), source, seed))


@given(interactions(), sources, st.integers(1, 5))
def test_more_noise_than_there_is_is_refused(data: Interactions, source: NoiseSource, excess: int) -> None:
    wanted = len(pool(data, source)) + excess
    with pytest.raises(ValueError, match=rf"^small: .*asks for {wanted} pairs .*{source}.*Lower noise_ratio"):
        draw_noise(data, wanted / len(data.train), source, 0)


@pytest.mark.parametrize(("ratio", "count"), [(0, 0), (0.04, 0), (0.06, 1), (0.1, 1), (0.25, 2), (1.0, 10), (3.5, 35)])
def test_noise_ratio_is_relative_to_the_clean_training_split(ratio: float, count: int) -> None:
    data = make(10, 10, train=[(user, 0) for user in range(10)], valid=[(user, 1) for user in range(10)])
    assert len(draw_noise(data, ratio, "random", 0)) == count


def test_an_all_but_full_matrix_yields_its_last_free_pairs() -> None:
    free = {(0, 0), (123, 45), (299, 199)}
    cells = [(user, item) for user in range(300) for item in range(200) if (user, item) not in free]
    noise = draw_noise(make(300, 200, cells[::2], cells[1::4], cells[3::4]), 3 / len(cells[::2]), "random", 0)
    assert set(pairs_of(noise)) == free


@pytest.mark.parametrize("source", ["random", "low_rating"])
def test_noise_is_uniform_over_what_is_allowed_and_differs_between_seeds(source: NoiseSource) -> None:
    data = make(4, 5, [(0, 0), (1, 2), (3, 4)], [(0, 1)], [(2, 2)], low_rated=tensor([(0, 0), (0, 3), (2, 4), (3, 0)]))
    allowed = sorted(pool(data, source))
    drawn = [pairs_of(draw_noise(data, 2 / 3, source, seed)) for seed in range(500)]
    counts = [sum(pair in noise for noise in drawn) for pair in allowed]
    assert sum(counts) == 1000
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    ("ratio", "source", "message"),
    [
        (-0.1, "random", "noise_ratio is -0.1"),
        (float("nan"), "random", "noise_ratio is nan"),
        (float("inf"), "low_rating", "noise_ratio is inf"),
        (0.5, "seldom", "noise_source is 'seldom'; it must be 'random', 'popular' or 'low_rating'"),
        (0.0, "seldom", "noise_source is 'seldom'"),
        (0.5, "low_rating", "^small: noise_source is 'low_rating', but this data holds no low ratings.*'random'"),
    ],
)
def test_impossible_requests_are_refused(ratio: float, source: Any, message: str) -> None:
    data = make(3, 3, [(0, 0), (1, 1)])
    with pytest.raises(ValueError, match=message):
        draw_noise(data, ratio, source, 0)
    with pytest.raises(ValueError, match=message):
        ready(data, noise_ratio=ratio, noise_source=source)


@given(interactions(), sources, st.integers(0, 9), st.data())
def test_the_module_adds_noise_to_train_only_and_its_mask_is_exact(
    data: Interactions, source: NoiseSource, seed: int, draw: st.DataObject
) -> None:
    clean, allowed = set(pairs_of(data.train)), pool(data, source)
    # Half of what is free, so that hardly any user ends up with every item.
    ratio = draw.draw(st.integers(0, len(allowed) // 2)) / len(clean)
    try:
        module = ready(data, noise_ratio=ratio, noise_source=source, seed=seed)
    except ValueError as error:
        assert "has interacted with all" in str(error)
        reject()
    train = pairs_of(module.train_users, module.train_items)
    assert train == sorted(set(train))  # no pair twice; the place says nothing about noise
    injected = {pair for pair, noisy in zip(train, module.noise_mask.tolist(), strict=True) if noisy}
    assert module.noise_mask.dtype == torch.bool
    assert injected == set(pairs_of(draw_noise(data, ratio, source, seed)))
    assert set(train) - injected == clean
    for loader, clean_split in ((module.val_dataloader(), data.valid), (module.test_dataloader(), data.test)):
        batches = list(loader)
        relevant = [(int(b["user"][row]), item) for b in batches for row, item in pairs_of(b["relevant"].T)]
        assert sorted(relevant) == sorted(pairs_of(clean_split))
    assert module.train_kinds is None


def test_noise_on_top_of_a_known_ground_truth_is_noise_too() -> None:
    arguments: dict[str, Any] = {"num_readers": 30, "num_books": 60, "num_topics": 5, "books_per_reader": 12}
    plain, noisy = SyntheticCatalog(**arguments), SyntheticCatalog(**arguments, noise_ratio=0.3)
    for module in (plain, noisy):
        module.setup()
    assert plain.train_kinds is not None and noisy.train_kinds is not None
    known = dict(zip(pairs_of(plain.train_users, plain.train_items), plain.train_kinds.tolist(), strict=True))
    kinds = dict(zip(pairs_of(noisy.train_users, noisy.train_items), noisy.train_kinds.tolist(), strict=True))
    assert {pair: kinds[pair] for pair in known} == known
    assert [kinds[pair] for pair in kinds.keys() - known.keys()] == [2] * round(0.3 * len(known))
    assert torch.equal(noisy.noise_mask, noisy.train_kinds == 2)


def test_popular_noise_takes_users_by_their_activity_and_items_by_their_popularity() -> None:
    # user 0 has six of ten interactions; item 0 has four of them; 200 further items nobody has
    train = [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (4, 6)]
    data = make(5, 207, train)
    drawn = torch.stack([draw_noise(data, 0.1, "popular", seed)[0] for seed in range(4000)])
    users, items = (
        torch.bincount(column, minlength=size).double() for column, size in zip(drawn.T, (5, 7), strict=True)
    )
    known = torch.zeros(5, 7)
    known[tuple(torch.tensor(train).T)] = 1
    activity, popularity = torch.tensor([6.0, 1, 1, 1, 1]).double(), torch.tensor([4.0, 1, 1, 1, 1, 1, 1]).double()
    free = activity[:, None] * popularity[None] * (1 - known)
    expected = free / free.sum() * len(drawn)
    for counted, wanted in ((users, expected.sum(1)), (items, expected.sum(0))):
        there = wanted > 0
        assert not counted[~there].any()
        assert chisquare(counted[there].numpy(), wanted[there].numpy()).pvalue > 1e-3
