import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import in_processes, split
from torch import Tensor

from llmhd_pl.denoising.rules import FITTING, consistent, joint, paper_pairwise, paper_pointwise

NAN = float("nan")


def test_paper_pairwise_keeps_a_small_gap() -> None:
    positive = torch.tensor([9.0, 9.0, 1.0, 6.0, NAN, 9.0, NAN])
    negative = torch.tensor([1.0, 5.0, 9.0, 2.0, 1.0, NAN, NAN])
    # The gaps are 8, 4, -8, 4 and none.
    assert paper_pairwise(positive, negative, 7.0).tolist() == [False, True, True, True, False, False, False]
    assert paper_pairwise(positive, negative, 4.0).tolist() == [False, False, True, False, False, False, False]


def test_paper_pointwise_keeps_what_the_label_contradicts() -> None:
    positive = torch.tensor([7.9, 8.0, 1.0, NAN])
    negative = torch.tensor([2.0, 2.1, NAN, 10.0])
    hard = paper_pointwise(positive, negative, low=8.0, high=2.0)
    assert hard.tolist() == [[True, False], [False, True], [True, False], [False, True]]


def test_consistent_keeps_what_the_label_agrees_with() -> None:
    assert FITTING == 5.5
    positive = torch.tensor([5.5, 5.4, 10.0, NAN])
    assert consistent(positive).tolist() == [True, False, True, False]
    negative = torch.tensor([5.5, 5.4, NAN, 1.0])
    assert consistent(positive, negative).tolist() == [[True, False], [False, True], [True, False], [False, True]]


def test_joint_by_hand() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0])
    fits = torch.tensor([1.0, 10.0, 10.0, NAN])  # a misclick of low loss; two hard ones; no answer
    # z(loss) = -1.34, -.45, .45, 1.34; z(score) = -1.41, .71, .71, and 0: differences .07, -1.15, -.26, 1.34
    assert joint(losses, fits, 0.25).tolist() == [False, False, False, True]
    assert joint(losses, fits, 0.5).tolist() == [True, False, False, True]
    assert joint(losses, fits, 0.5, weight=0.0).tolist() == [False, False, True, True]
    assert joint(losses, torch.full((4,), NAN), 0.5).tolist() == [False, False, True, True]  # loss alone decides
    assert not joint(losses, fits, 0.0).any()
    # Somebody whose loss is not there is not dropped, and does not count.
    assert joint(torch.tensor([1.0, NAN, 2.0]), torch.tensor([NAN, 1.0, NAN]), 0.5).tolist() == [False, False, True]
    assert joint(torch.tensor([1.0, NAN, 2.0]), torch.tensor([NAN, 1.0, NAN]), 1.0).tolist() == [True, False, True]


def test_joint_of_equal_losses_is_decided_by_the_score() -> None:
    assert joint(torch.ones(3), torch.tensor([5.0, 1.0, 9.0]), 0.34).tolist() == [False, True, False]
    assert joint(torch.arange(3.0), torch.full((3,), 5.0), 0.34).tolist() == [False, False, True]


@pytest.mark.parametrize("columns", [1, 2])
def test_joint_drops_nothing_where_neither_loss_nor_score_tells(columns: int) -> None:
    """Ties go to the smaller row, which would drop the first users."""
    losses, fits = (torch.full((10, columns), value).squeeze(1) for value in (2.0, NAN))
    assert not joint(losses, fits, 0.3).any()
    if columns == 1:  # each label is a group of its own
        losses = torch.tensor([2.0] * 5 + [1.0, 2.0, 3.0, 4.0, 5.0])
        labels = torch.tensor([1] * 5 + [0] * 5)
        assert joint(losses, fits, 0.4, labels=labels).nonzero().flatten().tolist() == [8, 9]


def numpy_joint(losses: np.ndarray, agreement: np.ndarray, rate: float, weight: float) -> np.ndarray:
    def standard(values: np.ndarray) -> np.ndarray:
        spread = np.nanstd(values) if not np.isnan(values).all() else 0.0
        return (values - (np.nanmean(values) if not np.isnan(values).all() else 0.0)) / max(spread, 1e-12)

    columns = agreement.T if agreement.ndim == 2 else [agreement]
    scores = np.stack([np.nan_to_num(standard(column)) for column in columns], axis=-1).reshape(losses.shape)
    key = (standard(losses) - weight * scores).astype(np.float32).ravel()
    count = round(rate * int((~np.isnan(key)).sum()))
    if np.isnan(key).all() or np.nanmin(key) == np.nanmax(key):
        count = 0
    dropped = np.zeros(key.size, dtype=bool)
    dropped[np.argsort(np.where(np.isnan(key), np.inf, -key), kind="stable")[:count]] = True
    return dropped.reshape(losses.shape)


def drawn(seed: int, columns: int, size: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    shape = (size, 2) if columns == 2 else (size,)
    losses = rng.exponential(size=shape).astype(np.float32)
    losses[rng.random(size) < 0.1] = np.nan
    scores = (1 + 9 * rng.random(shape)).astype(np.float32)
    scores[rng.random(shape) < 0.4] = np.nan
    return torch.from_numpy(losses), torch.from_numpy(scores)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 2), st.integers(1, 60), st.floats(0, 1), st.sampled_from([0.0, 0.5, 2.0]))
@pytest.mark.filterwarnings("ignore:.*(Mean of empty|Degrees of freedom).*")
def test_joint_is_ten_lines_of_numpy(seed: int, columns: int, size: int, rate: float, weight: float) -> None:
    losses, scores = drawn(seed, columns, size)
    given = losses.clone(), scores.clone()
    expected = numpy_joint(losses.double().numpy(), scores.double().numpy(), rate, weight)
    assert joint(losses, scores, rate, weight).tolist() == expected.tolist()
    for before, after in zip(given, (losses, scores), strict=True):
        assert torch.equal(before.nan_to_num(-1), after.nan_to_num(-1))  # the arguments are as they were


@pytest.mark.parametrize("columns", [1, 2])
def test_joint_is_the_same_on_three_processes(columns: int) -> None:
    losses, scores = drawn(7, columns, 400)
    owner = torch.randint(3, (400,), generator=torch.Generator().manual_seed(0))
    parts = in_processes(
        3,
        lambda process, reduce: joint(split(losses, owner, process), split(scores, owner, process), 0.3, 1.0, reduce),
    )
    whole = joint(losses, scores, 0.3)
    assert whole.any() and torch.equal(torch.stack(parts).any(dim=0), whole)
