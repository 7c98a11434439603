import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from llmhd_pl.audit.chance import chance, cut_at, intervals, p_values, preferred, share_of_chance, slope, tail

NAN = float("nan")


def test_a_p_value_counts_who_fits_better_and_a_random_share_of_the_ties() -> None:
    scores = np.array([5.0, 5.0, 5.0, 9.0, NAN, 5.0])
    references = np.array(
        [[1, 2, 3, 4], [6, 7, 8, 9], [5, 5, 6, 1], [1, NAN, NAN, NAN], [1, 2, 3, 4], [NAN, NAN, NAN, NAN]]
    )
    least = np.array([0, 4 / 5, 1 / 5, 0])
    most = np.array([1 / 5, 1, 4 / 5, 1 / 2])
    drawn = np.stack([p_values(scores, references, seed) for seed in range(500)])
    assert np.isnan(drawn[:, 4:]).all()
    assert (drawn[:, :4] >= least).all() and (drawn[:, :4] <= most).all()
    assert drawn[:, :4].min(axis=0) == pytest.approx(least, abs=0.01)
    assert drawn[:, :4].max(axis=0) == pytest.approx(most, abs=0.01)
    assert np.array_equal(p_values(scores, references, 3), drawn[3], equal_nan=True)


@pytest.mark.parametrize("levels", [2, 10, 100_000])
def test_by_chance_p_values_are_uniform_with_whole_numbers_as_scores_too(levels: int) -> None:
    drawn = np.random.default_rng(levels).integers(levels, size=(20_000, 5)).astype(float)
    assert kstest(p_values(drawn[:, 0], drawn[:, 1:]), "uniform").pvalue > 1e-3


def test_the_tail_is_a_whole_number_of_steps() -> None:
    assert (tail(4), tail(9), tail(20), tail(1)) == (1 / 5, 1 / 10, 2 / 21, 1 / 2)


def test_the_share_of_chance_is_what_is_in_the_tail() -> None:
    p = np.array([0.05, 0.1, 0.2, 0.3, 0.91, 0.95, 0.9, 0.01, 0.02, 0.03])
    assert share_of_chance(p) == pytest.approx(1.0)  # two of ten in a tenth: more than all
    assert share_of_chance(p[:5], 0.1) == pytest.approx(1.0)
    assert share_of_chance(np.r_[p, np.zeros(30)]) == pytest.approx(2 / 40 / 0.1)
    assert np.isnan(share_of_chance(np.empty(0)))


@pytest.mark.parametrize("planted", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_a_planted_share_is_found_and_lies_in_its_interval(planted: float) -> None:
    rng = np.random.default_rng(7)
    users = np.repeat(np.arange(2000), 20)
    by_chance = rng.random(len(users)) < planted
    p = np.where(by_chance, rng.random(len(users)), rng.beta(0.3, 12, len(users)))
    deviation = np.sqrt(planted / 10 * (1 - planted / 10) / len(p)) * 10
    assert share_of_chance(p) == pytest.approx(planted, abs=4 * deviation + 1e-3)
    everything, few = intervals(users, p, np.stack([by_chance | True, users < 50], axis=1))
    assert everything[0] <= share_of_chance(p) <= everything[1]
    in_tail = share_of_chance(p) / 10  # users do not differ here, so that it is the interval of a binomial
    width = 2 * 1.96 * np.sqrt(in_tail * (1 - in_tail) / len(p)) * 10
    if planted == 0:  # of 2000 users none has one
        width = (1 - 0.025 ** (1 / 2000)) * 10
    assert everything[1] - everything[0] == pytest.approx(width, rel=0.2) or planted == 1.0
    assert few[1] - few[0] >= everything[1] - everything[0]
    falls, error = slope(p)
    assert abs(falls) < 4 * error + 1e-9
    probability = chance(p, share_of_chance(p))
    assert probability.mean() == pytest.approx(share_of_chance(p), abs=0.03)


def test_users_are_drawn_for_the_interval_and_not_interactions() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(100), 50)
    drawn = np.where(rng.random(5000) < 0.5, 0, rng.random(5000))
    together, alone = np.repeat(drawn[:100], 50), drawn  # once, the interactions of a user all have the same p-value
    (low, high), (low_alone, high_alone) = (intervals(users, p, np.ones((5000, 1), bool))[0] for p in (together, alone))
    assert high - low > 3 * (high_alone - low_alone)


def test_the_interval_of_what_is_in_no_sample_is_exact() -> None:
    users, p = np.repeat(np.arange(50), 2), np.full(100, 0.3)  # no p-value is in the tail
    low, high = intervals(users, p, np.ones((100, 1), bool))[0]
    assert (low, high) == (0, pytest.approx((1 - 0.025 ** (1 / 50)) / 0.1))
    assert intervals(users, p + 0.65, np.ones((100, 1), bool))[0].tolist() == [1, 1]  # at least a share of 9.3 tenths
    assert intervals(users[:1], p[:1], np.ones((1, 1), bool))[0].tolist() == [0, 1]  # of one user nothing is known


@pytest.mark.parametrize("references", [3, 4, 7, 10, 18, 20, 33, 48])
def test_the_interval_where_all_is_in_the_tail_is_a_number(references: int) -> None:
    users, everything = np.arange(49), np.ones((49, 1), bool)
    assert intervals(users, np.ones(49), everything, tail(references))[0].tolist() == [1, 1]


def test_how_often_a_judge_prefers_the_user_does_not_depend_on_the_number_of_references() -> None:
    rng = np.random.default_rng(0)
    for references in (1, 4, 20):
        scores, others = rng.normal(1, 1, 20_000), rng.normal(0, 1, (20_000, references))
        assert preferred(scores, others) == pytest.approx(0.760, abs=0.01)  # of two normal ones, one deviation apart
        assert preferred(scores + 9, others) == 1
    with_ties = np.array([[1.0, 2.0, 3.0, NAN], [NAN, NAN, NAN, NAN], [0.0, 0.0, 0.0, 0.0]])
    assert preferred(np.array([2.0, 2.0, NAN]), with_ties) == 0.5
    assert np.isnan(preferred(np.array([2.0]), np.array([[NAN]])))


def test_the_density_still_falls_before_the_tail_of_a_judge_that_cannot_tell() -> None:
    p = np.random.default_rng(0).beta(1, 2, 100_000)  # density 2 (1 - p): in the last two tenths .3 and .1
    assert slope(p)[0] == pytest.approx(0.2, abs=0.02)
    assert np.isnan(slope(np.empty(0))[0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=80), st.floats(0, 1), st.floats(0, 1))
def test_cuts_keep_their_promise(p_list: list[float], share: float, right: float) -> None:
    p = np.array(p_list)
    probability = chance(p, share)
    order = p.argsort(kind="stable")
    assert (probability >= 0).all() and (probability <= 1).all()
    assert (np.diff(probability[order]) >= -1e-12).all()  # more suspicious, more probable
    bound, number, wrong = cut_at(p, probability, right)
    dropped = p > bound
    assert dropped.sum() == number
    assert wrong <= right + 1e-6
    if number:
        assert wrong == pytest.approx(1 - probability[dropped].mean(), abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 4)), min_size=2, max_size=30), st.floats(0, 1))
def test_a_weight_counts_as_so_many_interactions_of_the_user(rows: list[tuple[float, int]], right: float) -> None:
    p, number = (np.array(column) for column in zip(*rows, strict=True))
    weights, repeated = number.astype(float), np.repeat(p, number)
    share = share_of_chance(repeated, 0.2)
    assert share_of_chance(p, 0.2, weights) == pytest.approx(share)
    assert slope(p, 0.2, weights)[0] == pytest.approx(slope(repeated, 0.2)[0])
    probability = chance(p, share, weights)
    assert np.repeat(probability, number) == pytest.approx(chance(repeated, share))
    bound, dropped, wrong = cut_at(p, probability, right, weights)
    assert wrong <= right + 1e-6 and dropped == (p > bound).sum()
    if dropped:
        assert wrong == pytest.approx(1 - np.average(probability[p > bound], weights=weights[p > bound]), abs=1e-9)
    users = np.arange(len(p))
    one, two = (
        intervals(of, some, np.ones((len(some), 1), bool), 0.2, weights=with_)
        for of, some, with_ in ((users, p, weights), (np.repeat(users, number), repeated, None))
    )
    assert one == pytest.approx(two)
    scores, references = np.full(len(p), 5.0), np.stack([10 * p, 10 - 10 * p, np.full(len(p), 5.0)], axis=1)
    again = preferred(scores.repeat(number), references.repeat(number, axis=0))
    assert preferred(scores, references, weights) == pytest.approx(again)


def test_unequal_weights_say_less() -> None:
    p = np.random.default_rng(0).random(1000)
    even, uneven = np.ones(1000), np.r_[np.full(990, 0.1), np.full(10, 90.1)]
    assert slope(p, 0.1, uneven)[1] > 5 * slope(p, 0.1, even)[1] * 0.9
    assert slope(p, 0.1, 7 * even) == pytest.approx(slope(p, 0.1))


def test_a_cut_by_hand() -> None:
    p, probability = np.array([0.9, 0.1, 0.8, 0.5]), np.array([1.0, 0.0, 0.9, 0.5])
    assert cut_at(p, probability, 0.0) == (0.8, 1, 0.0)
    bound, number, wrong = cut_at(p, probability, 0.05)
    assert (bound, number) == (0.5, 2) and wrong == pytest.approx(0.05)
    assert cut_at(p, probability, 1.0)[:2] == (0.0, 4)
    assert cut_at(p, np.zeros(4), 0.1) == (1.0, 0, 0.0)
