from random import Random

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from processes import in_processes, split
from torch import Tensor

from llmhd_pl.denoising.selection import Reduce, alone, candidates, fraction_of, largest, noise_set, random_members

NAN, INF = float("nan"), float("inf")
few_values = st.sampled_from([NAN, -INF, INF, 0.0, -0.0, 1.0, -1.0, 2.5, 1e-45, -1e-45, 3.4e38])  # many ties
lists = st.lists(st.one_of(few_values, st.floats(width=32)), max_size=30)
fractions = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))


def by_sorting(values: list[float], fraction: float) -> list[bool]:
    """NumPy's stable sort: falling values, the smaller index first where they tie."""
    numbers = np.array(values, dtype=np.float32)
    there = np.flatnonzero(~np.isnan(numbers))
    order = there[np.argsort(-numbers[there], kind="stable")]
    mask = np.zeros(len(numbers), dtype=bool)
    mask[order[: round(fraction * len(there))]] = True
    return [bool(entry) for entry in mask]


@given(lists, fractions)
@example([0.0, -0.0, 0.0], 0.34)
@example([-INF, NAN, -INF], 0.5)
def test_largest_is_the_head_of_a_stable_sort(values: list[float], fraction: float) -> None:
    assert largest(torch.tensor(values), fraction).tolist() == by_sorting(values, fraction)


@settings(max_examples=40)
@given(lists, fractions, st.integers(2, 4), st.randoms(use_true_random=False))
def test_processes_that_share_the_values_find_what_one_finds(
    values: list[float], fraction: float, count: int, random: Random
) -> None:
    numbers = torch.tensor(values)
    owner = torch.tensor([random.randrange(count) for _ in values], dtype=torch.int64)
    masks = in_processes(count, lambda process, reduce: largest(split(numbers, owner, process), fraction, reduce))
    assert not any((mask & (owner != process)).any() for process, mask in enumerate(masks))
    assert torch.stack(masks).any(dim=0).tolist() == by_sorting(values, fraction)


def test_largest_among_many() -> None:
    """Values, and rows of equal values, that agree in their first 16 bits, where the digits of the select meet."""
    torch.manual_seed(0)
    values = torch.cat([1 + torch.arange(3000) * 2.0**-23, torch.randn(70_000), torch.full((3000,), 0.5)])
    values = values[torch.randperm(len(values))]
    for fraction in (0.0001, 0.03, 0.31, 0.9):
        assert largest(values, fraction).tolist() == by_sorting(values.tolist(), fraction)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_largest_in_chunks(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("llmhd_pl.denoising.selection._CHUNK", chunk)
    torch.manual_seed(0)
    values = torch.randn(100).round(decimals=1)
    values[torch.rand(100) < 0.2] = NAN
    values[:10] = NAN  # a chunk with nothing in it
    for fraction in (0.0, 0.03, 0.31, 0.9, 1.0):
        assert largest(values, fraction).tolist() == by_sorting(values.tolist(), fraction)


def test_how_many_is_rounded_of_the_values_that_are_there() -> None:
    values = torch.tensor([NAN, 5.0, 4.0, NAN, 3.0, 2.0, 1.0])
    assert [int(largest(values, fraction).sum()) for fraction in (0.0, 0.1, 0.3, 0.49, 0.7, 1.0)] == [0, 0, 2, 2, 4, 5]
    assert largest(values, 0.4).tolist() == [False, True, True, False, False, False, False]
    assert largest(torch.empty(0), 1.0).tolist() == []


def test_the_noise_set_has_the_highest_losses_of_both_columns_together() -> None:
    assert noise_set(torch.tensor([0.1, 0.9, NAN, 0.5, 0.7]), 0.5).tolist() == [False, True, False, False, True]
    pointwise = torch.tensor([[0.1, 0.9], [0.8, 0.2], [NAN, NAN], [0.3, 0.4]])
    assert noise_set(pointwise, 0.5).tolist() == [[False, True], [True, False], [False, False], [False, True]]


NOISE = torch.tensor([True, True, True, True, False, True])
POSITIVE = torch.tensor([0.4, 0.3, 0.2, 0.1, 9.0, NAN])
NEGATIVE = torch.tensor([0.1, 0.2, NAN, 0.6, 9.0, 0.5])


def test_the_fraction_of_some_that_is_as_many_as_a_rate_of_all() -> None:
    everyone = torch.tensor([[1.0, 2.0], [3.0, 4.0], [NAN, NAN]])
    some = torch.tensor([[1.0, NAN], [3.0, 4.0], [NAN, NAN]])
    assert fraction_of(some, 0.3, everyone) == pytest.approx(0.4)  # 1.2 of four are 1.2 of three
    assert fraction_of(everyone, 0.3, everyone) == pytest.approx(0.3)
    assert fraction_of(some, 0.9, everyone) == 1.0
    assert fraction_of(torch.full((2,), NAN), 0.5, everyone) == 1.0  # of nothing


def test_pairwise_candidates_are_the_union_of_the_two_lists() -> None:
    # Of 4 observed items with a variance the 2 of 0 and 1, of 4 sampled ones the 2 of 3 and 5; outside the noise set
    # nobody counts, however large the variance.
    assert candidates(NOISE, POSITIVE, NEGATIVE, 0.5).tolist() == [True, True, False, True, False, True]
    assert candidates(NOISE, POSITIVE, NEGATIVE, 0.25).tolist() == [True, False, False, True, False, False]
    assert not candidates(NOISE, POSITIVE, NEGATIVE, 0.0).any()
    assert candidates(NOISE, POSITIVE, NEGATIVE, 1.0).tolist() == NOISE.tolist()


def test_pointwise_candidates_are_found_in_each_column() -> None:
    noise = torch.tensor([[True, False], [True, True], [True, True], [True, True], [False, False], [False, True]])
    chosen = candidates(noise, POSITIVE, NEGATIVE, 0.5)
    # Column 0: 0, 1, 2, 3 with .4, .3, .2, .1; column 1: 1, 3, 5 with .2, .6, .5.
    assert chosen[:, 0].tolist() == [True, True, False, False, False, False]
    assert chosen[:, 1].tolist() == [False, False, False, True, False, True]


def test_without_a_variance_there_is_no_candidate() -> None:
    nothing = torch.full((6,), NAN)
    assert not candidates(NOISE, nothing, nothing, 1.0).any()
    assert not candidates(NOISE[:, None].expand(6, 2), nothing, nothing, 1.0).any()


@pytest.mark.parametrize("shape", [(50,), (50, 2)])
def test_random_members_are_members_and_as_many_as_asked(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    members = torch.rand(shape) < 0.6
    for count in (0, 1, 7, int(members.sum())):
        drawn = random_members(members, count, torch.rand(shape))
        assert drawn.shape == members.shape and int(drawn.sum()) == count and not (drawn & ~members).any()
    assert not random_members(torch.zeros_like(members), 0, torch.rand(shape)).any()


def test_every_member_is_as_likely_as_another() -> None:
    members = torch.tensor([True, False, True, True, True])
    torch.manual_seed(0)
    counts = torch.stack([random_members(members, 1, torch.rand(5)) for _ in range(600)]).sum(dim=0)
    assert int(counts[1]) == 0 and int(counts[[0, 2, 3, 4]].min()) > 105  # 150 each are to be expected


@pytest.mark.parametrize("columns", [1, 2])
def test_the_whole_selection_is_the_same_on_three_processes(columns: int) -> None:
    torch.manual_seed(columns)
    shape = (300, 2) if columns == 2 else (300,)
    losses, owner = torch.rand(shape), torch.randint(3, (300,))
    variances = torch.rand(300), torch.where(torch.rand(300) < 0.2, NAN, torch.rand(300))
    keys = torch.rand(shape)

    def select(losses: Tensor, variances: tuple[Tensor, ...], reduce: Reduce) -> Tensor:
        noise = noise_set(losses, 0.3, reduce)
        chosen = candidates(noise, variances[0], variances[1], 0.4, reduce)
        drawn = random_members(noise, 20, keys, reduce)
        return torch.stack([noise, chosen, drawn])

    whole = select(losses, variances, alone)
    assert whole.flatten(1).sum(dim=1)[2] == 20 and whole[1].any()
    parts = in_processes(
        3,
        lambda process, reduce: select(
            split(losses, owner, process), tuple(split(values, owner, process) for values in variances), reduce
        ),
    )
    assert torch.equal(torch.stack(parts).any(dim=0), whole)
