from math import inf, nan
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from small_data import interactions, make, pairs_of, ready

from llmhd_pl.datamodules import Interactions
from llmhd_pl.datamodules.sampling import NegativeSampler, counter_hash, epoch_order, user_owners

WORD = 2**64
GOLDEN = 0x9E3779B97F4A7C15
int64 = st.integers(-(2**62), 2**62)


def sampler(data: Interactions, lifetime: int = 1, seed: int = 0) -> NegativeSampler:
    return NegativeSampler(data.train[:, 0], data.train[:, 1], data.num_users, data.num_items, lifetime, seed)


def one_user(num_items: int, positives: list[int], lifetime: int = 1, seed: int = 0) -> NegativeSampler:
    items = torch.tensor(positives)
    return NegativeSampler(torch.zeros_like(items), items, 1, num_items, lifetime, seed)


def split_mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return x ^ (x >> 31)


@given(int64, int64, st.integers(0, 2**40))
def test_counter_hash_is_split_mix_on_64_bit_words(seed: int, stream: int, counter: int) -> None:
    key = split_mix(((0 ^ seed) + GOLDEN) % WORD)
    key = split_mix(((key ^ (stream % WORD)) + GOLDEN) % WORD)
    expected = split_mix((key + (counter + 1) * GOLDEN) % WORD) % 2**63
    assert int(counter_hash(seed, stream, torch.tensor(counter))) == expected


def test_counter_hash_of_one_counter_ignores_the_others() -> None:
    everything = counter_hash(3, 5, torch.arange(100))
    assert torch.equal(counter_hash(3, 5, torch.tensor([70, 2])), everything[[70, 2]])
    assert len(everything.unique()) == 100
    assert int(everything.min()) >= 0 and int(everything.max()) > 2**62


@given(st.integers(0, 50), st.integers(0, 2**32 - 1), st.integers(0, 10_000))
def test_epoch_order_is_a_permutation_fixed_by_seed_and_epoch(size: int, seed: int, epoch: int) -> None:
    order = epoch_order(size, seed, epoch)
    assert order.dtype == torch.int64 and order.sort().values.tolist() == list(range(size))
    torch.rand(3)  # the global generator plays no part
    assert torch.equal(order, epoch_order(size, seed, epoch))


def test_epoch_orders_differ_between_epochs_and_seeds_and_favour_no_place() -> None:
    orders = torch.stack([epoch_order(10, seed, epoch) for seed in range(20) for epoch in range(50)])
    assert len(orders.unique(dim=0)) == 1000
    for place in (0, 9):
        assert chisquare(torch.bincount(orders[:, place], minlength=10).numpy()).pvalue > 1e-3


@given(interactions(), st.integers(0, 2**32 - 1), st.integers(0, 100), st.integers(1, 4))
def test_a_negative_is_the_hashed_free_item_of_its_user(
    data: Interactions, seed: int, epoch: int, lifetime: int
) -> None:
    train = pairs_of(data.train)
    drawn = sampler(data, lifetime, seed).draw(epoch)
    hashes = counter_hash(seed, -1 - epoch // lifetime, torch.arange(len(train))).tolist()
    for (user, _), negative, number in zip(train, drawn.tolist(), hashes, strict=True):
        free = [item for item in range(data.num_items) if (user, item) not in train]
        assert negative in free  # says more when it fails
        assert negative == free[number % len(free)]


@pytest.mark.parametrize("free", range(5))
def test_a_user_who_has_seen_all_but_one_gets_that_one(free: int) -> None:
    positives = [item for item in range(5) if item != free]
    assert one_user(5, positives).draw(0).tolist() == [free] * 4


@pytest.mark.parametrize("positives", [[0, 1, 2], [17, 18, 19], [0, 4, 5, 6, 13, 19], [7]])
def test_negatives_are_uniform_over_the_free_items(positives: list[int]) -> None:
    negatives = one_user(20, positives, seed=1)
    counts = torch.bincount(torch.cat([negatives.draw(epoch) for epoch in range(3000)]), minlength=20)
    free = [item for item in range(20) if item not in positives]
    assert counts[positives].sum() == 0
    assert chisquare(counts[free].numpy()).pvalue > 1e-3


def test_negatives_of_samples_epochs_and_seeds_are_independent() -> None:
    def draws(epoch: int, seed: int) -> torch.Tensor:
        return one_user(4000, list(range(2000)), seed=seed).draw(epoch)

    first = draws(0, 0)
    assert len(first.unique()) > 1000  # 2000 draws out of 2000 free items: 1264 different ones are to be expected
    for other in (draws(1, 0), draws(0, 1), draws(1, 1)):
        assert int((first == other).sum()) < 15  # one is to be expected


@pytest.mark.parametrize("lifetime", [1, 2, 5])
def test_a_negative_stays_for_its_lifetime_then_changes(lifetime: int) -> None:
    negatives = one_user(10_000, list(range(50)), lifetime)
    drawn = torch.stack([negatives.draw(epoch) for epoch in range(4 * lifetime)])
    windows = drawn.view(4, lifetime, 50)
    assert (windows == windows[:, :1]).all()
    assert (windows[1:, 0] != windows[:-1, 0]).float().mean() > 0.95


@pytest.mark.parametrize("num_items", [1, 3])
def test_a_user_who_has_seen_everything_is_refused(num_items: int) -> None:
    users, items = torch.tensor([0] + [2] * num_items), torch.tensor([0, *range(num_items)])
    with pytest.raises(ValueError, match=rf"User \d has interacted with all {num_items} items") as error:
        NegativeSampler(users, items, 3, num_items, 1, 0)
    assert num_items == 1 or "User 2" in str(error.value)


def test_a_user_who_has_seen_everything_is_called_what_the_source_calls_them() -> None:
    data = make(2, 2, [(0, 0), (1, 0), (1, 1)], user_names=["anna", "bob"], item_names=["x", "y"])
    with pytest.raises(ValueError, match=r"^User 'bob' has interacted with all 2 items"):
        ready(data)


@pytest.mark.parametrize("lifetime", [0, -1, nan, inf, 1.5])
def test_a_lifetime_below_one_is_refused(lifetime: Any) -> None:
    with pytest.raises(ValueError, match=f"negative_lifetime is {lifetime}; .* at least 1"):
        one_user(3, [0], lifetime)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(any), st.integers(1, 6))
def test_user_owners_are_balanced(degrees: list[int], world_size: int) -> None:
    users = torch.repeat_interleave(torch.arange(len(degrees)), torch.tensor(degrees))
    owners = user_owners(users, len(degrees), world_size)
    assert owners.dtype == torch.int64 and len(owners) == len(degrees)
    assert int(owners.min()) >= 0 and int(owners.max()) < world_size
    loads = torch.bincount(owners[users], minlength=world_size)
    assert int(loads.max() - loads.min()) <= max(degrees)  # dealing back and forth guarantees that much
    numbers = torch.bincount(owners, minlength=world_size)
    assert int(numbers.max() - numbers.min()) <= 1


def test_user_owners_by_hand() -> None:
    users = torch.repeat_interleave(torch.arange(6), torch.tensor([1, 6, 5, 0, 4, 3]))
    # By falling degree: 1, 2, 4, 5, 0, 3; dealt to ranks 0, 1, 1, 0, 0, 1.
    assert user_owners(users, 6, 2).tolist() == [0, 0, 1, 1, 1, 0]


@given(st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_candidates_are_drawn_anew_and_the_first_is_the_only_one_of_other_runs(seed: int, epoch: int) -> None:
    draws = [one_user(1000, list(range(40)), lifetime=3, seed=seed).draw(epoch, candidate) for candidate in range(3)]
    assert torch.equal(draws[0], one_user(1000, list(range(40)), lifetime=3, seed=seed).draw(epoch))
    together = torch.stack(draws)
    assert int(together.min()) >= 40
    assert all(
        (one != other).any() for one, other in ((draws[0], draws[1]), (draws[1], draws[2]), (draws[0], draws[2]))
    )
