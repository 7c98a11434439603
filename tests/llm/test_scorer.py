import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from torch import Tensor

from llmhd_pl.llm import vectors
from llmhd_pl.llm.judgements import Judgements
from llmhd_pl.llm.scorer import Preference, Scorer
from llmhd_pl.llm.vectors import Vectors, VectorScorer


class TableScorer(VectorScorer):
    """Item k has row k of a table, if it has text."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.table = table

    def vectorize(self, texts: list[str], pairs: np.ndarray) -> Vectors:
        return self.table[[int(text) for text in texts]]


def test_a_scorer_costs_nothing_unless_it_says_so() -> None:
    scorer: Scorer = TableScorer(np.eye(2))
    assert (scorer.usage, scorer.budget, scorer.refused) == (None, None, "")


def test_a_scorer_that_lacks_an_answer_cannot_be_made() -> None:
    class Silent(Scorer):
        def prepare(self, items: object, pairs: Tensor) -> None: ...

    with pytest.raises(TypeError, match=r"abstract methods.* revise.* score.* summarize"):
        Silent()  # type: ignore[abstract]


def items_with_text(num_items: int, without: tuple[int, ...] = ()) -> list[dict[str, str]]:
    return [{} if item in without else {"title": str(item)} for item in range(num_items)]


def two_tastes(num_users: int = 40, num_items: int = 30, seed: int = 0) -> tuple[np.ndarray, Tensor]:
    """Vectors that say to which of two tastes an item belongs, and interactions of users who have one."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(num_items, 6)).astype(np.float32)
    table[:, 0] += np.where(np.arange(num_items) % 2, 2, -2)
    likes = (np.arange(num_items) % 2 == np.arange(num_users)[:, None] % 2) & (rng.random((num_users, num_items)) < 0.5)
    likes |= rng.random((num_users, num_items)) < 0.05
    return table, torch.from_numpy(np.argwhere(likes))


def prepared(without: tuple[int, ...] = ()) -> tuple[TableScorer, Tensor]:
    table, pairs = two_tastes()
    scorer = TableScorer(table)
    scorer.prepare(items_with_text(len(table), without), pairs)
    return scorer, pairs


def histories(pairs: Tensor) -> dict[int, list[int]]:
    return {user: pairs[pairs[:, 0] == user, 1].tolist() for user in pairs[:, 0].unique().tolist()}


def naive_score(
    scorer: TableScorer, preferences: dict[int, list[int]], pair: tuple[int, int], without: tuple[int, ...]
) -> float:
    user, item = pair
    others = [other for other in set(preferences.get(user, [])) if other != item and other not in without]
    if not others or item in without:
        return float("nan")
    mean, judged = scorer.table[others].astype(np.float64).mean(axis=0), scorer.table[item].astype(np.float64)
    cosine = mean @ judged / np.linalg.norm(mean) / np.linalg.norm(judged)
    intercept, slope = scorer.curve
    return float(1 + 9 * expit(intercept + slope * cosine))


users_and_items = st.tuples(st.integers(0, 5), st.integers(0, 29))


@settings(max_examples=60)
@given(
    st.dictionaries(st.integers(0, 5), st.lists(st.integers(0, 29), max_size=8)),
    st.lists(users_and_items, max_size=30),
    st.integers(1, 40),
)
def test_scores_equal_a_loop_that_leaves_the_judged_item_out(
    preferences: dict[int, list[int]], pairs: list[tuple[int, int]], chunk: int
) -> None:
    without = (3, 4, 17)
    scorer, _ = prepared(without)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "CHUNK", chunk)
        scores = scorer.score({**preferences}, torch.tensor(pairs, dtype=torch.int64).view(-1, 2))
    expected = [naive_score(scorer, preferences, pair, without) for pair in pairs]
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-4, rtol=0, equal_nan=True)


def test_a_preference_that_holds_the_judged_item_is_not_flattered_by_it() -> None:
    scorer, _ = prepared()
    with_it, without_it = scorer.score({0: [1, 2, 5], 1: [1, 2]}, torch.tensor([[0, 5], [1, 5]]))
    assert float(with_it) == pytest.approx(float(without_it), abs=1e-5)


def test_no_answer_is_nan() -> None:
    scorer, _ = prepared(without=(7,))
    preferences: dict[int, Preference] = {0: [1, 2], 1: [5], 2: [7], 3: []}
    pairs = torch.tensor([[0, 7], [1, 5], [2, 1], [3, 1], [9, 1], [0, 3], [1, 3]])
    # no text; nothing but the item itself; nothing with text; nothing; no preference; and two answers
    assert scorer.score(preferences, pairs).isnan().tolist() == [True] * 5 + [False] * 2


def test_blank_fields_are_no_text() -> None:
    table, pairs = two_tastes()
    scorer = TableScorer(table)
    items = items_with_text(len(table))
    items[3] = {"title": " ", "city": ""}
    scorer.prepare(items, pairs)
    assert scorer.score({0: [1, 2]}, torch.tensor([[0, 3], [0, 4]])).isnan().tolist() == [True, False]


def test_calibration_is_monotone_and_centred() -> None:
    scorer, pairs = prepared()
    preferences = {**histories(pairs)}
    everything = torch.cartesian_prod(torch.arange(40), torch.arange(30))
    scores = scorer.score({**preferences}, everything)
    observed = pairs.numpy()
    similarity = scorer.similarity(observed, *everything.numpy().T)
    order = similarity.argsort()
    assert (scores[order].diff() >= 0).all()
    assert len(scores.unique()) > 1000  # no steps: the order of the candidates is wanted
    assert scores.min() >= 1
    assert scores.max() <= 10
    # As likely observed as random: 5.5 on average over as many of the one as of the other.
    is_observed = torch.isin(everything @ torch.tensor([30, 1]), pairs @ torch.tensor([30, 1]))
    assert scores[is_observed].mean() > 6.3
    assert scores[~is_observed].mean() < 4.7
    assert scores[is_observed].mean() + scores[~is_observed].mean() == pytest.approx(11, abs=0.3)


def test_calibration_is_never_turned_round() -> None:
    # Observed items are *less* alike than random ones: each user has one item of each of two opposite directions.
    table = np.repeat(np.array([[1.0, 0.1], [-1.0, 0.1]]), 20, axis=0)
    pairs = torch.tensor([[user, item] for user in range(20) for item in (user, 20 + user)])
    scorer = TableScorer(table)
    with pytest.warns(UserWarning, match="does not tell observed from random"):
        scorer.prepare(items_with_text(40), pairs)
    assert scorer.score({0: [0, 1]}, torch.tensor([[0, 2], [0, 30]])).tolist() == pytest.approx([5.5, 5.5], abs=0.01)


def test_calibration_stays_finite_when_the_groups_do_not_overlap() -> None:
    table = np.eye(10)[np.arange(100) // 10]
    pairs = torch.tensor([[user, item] for user in range(10) for item in range(10 * user, 10 * user + 10)])
    scorer = TableScorer(table)
    scorer.prepare(items_with_text(100), pairs)
    own, other = scorer.score({0: [0, 1]}, torch.tensor([[0, 2], [0, 30]])).tolist()
    assert 9.5 < own < 9.99
    assert 1.01 < other < 1.5


def test_same_seed_same_scores() -> None:
    first, pairs = prepared()
    second, _ = prepared()
    preferences = {**histories(pairs)}
    assert torch.equal(first.score({**preferences}, pairs), second.score({**preferences}, pairs))


def test_summarize_and_revise() -> None:
    scorer, _ = prepared()
    preferences = scorer.summarize({0: [1, 2, 2, 3], 1: (4, 5), 2: [6], 3: []})  # type: ignore[dict-item]
    assert preferences == {0: [1, 2, 3], 1: [4, 5], 2: [6], 3: []}
    revised = scorer.revise(preferences, disliked={0: [2, 9, 11], 8: [1]}, liked={0: [11, 1], 1: [7], 3: [8], 9: [1]})
    # Disliked first, then liked; the untouched user 2 and the unknown 8 and 9 are left out.
    assert revised == {0: [1, 3, 11], 1: [4, 5, 7], 3: [8]}
    assert preferences == {0: [1, 2, 3], 1: [4, 5], 2: [6], 3: []}


def test_revision_moves_the_scores() -> None:
    scorer, _ = prepared()
    odd, even = [1, 3, 5, 7], [0, 2, 4, 6]
    before = {0: [*odd, *even]}
    pairs = torch.tensor([[0, 11], [0, 12]])
    after = scorer.revise({**before}, disliked={0: even}, liked={0: [9]})
    (odd_before, even_before), (odd_after, even_after) = scorer.score({**before}, pairs), scorer.score(after, pairs)
    assert odd_after > odd_before
    assert even_after < even_before


def test_misuse_is_explained() -> None:
    table, pairs = two_tastes()
    scorer = TableScorer(table)
    with pytest.raises(RuntimeError, match="prepare"):
        scorer.score({}, pairs)
    with pytest.raises(ValueError, match="None of the 30 items has text"):
        scorer.prepare([{}] * 30, pairs)
    with pytest.raises(ValueError, match="Item 29 does not exist"):
        scorer.prepare(items_with_text(29), torch.tensor([[0, 29]]))
    with pytest.raises(ValueError, match="too few to fit"):
        scorer.prepare(items_with_text(30), torch.tensor([[0, 1], [1, 2]]))
    scorer.prepare(items_with_text(30), pairs)
    with pytest.raises(TypeError, match="user 0 is a text"):
        scorer.score({0: "Likes films."}, torch.tensor([[0, 1]]))
    with pytest.raises(TypeError, match="user 0 is a text"):
        scorer.revise({0: "Likes films."}, {0: [1]}, {})
    with pytest.raises(ValueError, match="Item 30 does not exist"):
        scorer.score({0: [1, 30]}, torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match="Item -1 does not exist"):
        scorer.score({0: [1]}, torch.tensor([[0, -1]]))


def test_nothing_to_score() -> None:
    scorer, _ = prepared()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scorer.score({0: [1]}, torch.empty(0, 2, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30])
@pytest.mark.parametrize("sparse", [False, True])
def test_vectors_that_cannot_be_compared_are_refused(value: float, sparse: bool) -> None:
    table, pairs = two_tastes()
    table[7, 0] = value
    scorer = TableScorer(sp.csr_array(table) if sparse else table)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"TableScorer: the vectors of 1 of 30 texts are not finite.*float32.* '7'"):
        scorer.prepare(items_with_text(30), pairs)


@pytest.mark.parametrize(
    "wrong", [lambda table: table[:-1], lambda table: table[:, 0], lambda table: table.astype(np.int64)]
)
def test_vectors_of_another_form_are_refused(wrong: Callable[[np.ndarray], np.ndarray]) -> None:
    class Crooked(TableScorer):
        def vectorize(self, texts: list[str], pairs: np.ndarray) -> Vectors:
            return wrong(self.table)

    table, pairs = two_tastes()
    with pytest.raises(ValueError, match=r"Crooked.vectorize must return one row .* 30 texts; it returned"):
        Crooked(table).prepare(items_with_text(30), pairs)


def test_a_vector_of_zeros_resembles_nothing() -> None:
    table, pairs = two_tastes()
    table[7] = 0
    scorer = TableScorer(table)
    scorer.prepare(items_with_text(30), pairs)
    scores = scorer.score(dict(histories(pairs)), pairs)
    assert scores[pairs[:, 1] == 7].isnan().all() and not scores[pairs[:, 1] != 7].isnan().any()


@pytest.mark.parametrize("wrong", [lambda found: found * np.inf, lambda found: found[:1], lambda found: found[:, None]])
def test_similarities_of_another_form_are_refused(wrong: Callable[[np.ndarray], np.ndarray]) -> None:
    class Crooked(TableScorer):
        def cosine(self, *arguments: np.ndarray) -> np.ndarray:  # type: ignore[override]
            return wrong(super().cosine(*arguments))

    table, pairs = two_tastes()
    with pytest.raises(ValueError, match=r"Crooked.cosine must return one number for each of"):
        Crooked(table).prepare(items_with_text(30), pairs)


class Saying(Scorer):
    """A scorer of somebody else's, which returns what it is told to."""

    def __init__(self, said: object) -> None:
        self.said = said

    def prepare(self, items: object, pairs: Tensor) -> None: ...

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        return dict.fromkeys(histories, "all")

    def score(self, preferences: object, pairs: Tensor) -> Tensor:
        return self.said  # type: ignore[return-value]

    def revise(self, preferences: object, disliked: object, liked: object) -> dict[int, Preference]:
        return {}


def said(scorer: Scorer) -> Tensor:
    users, items = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 2])
    return Judgements(scorer, [{"title": "x"}] * 3, users, items).score(0, users, items)


def test_scores_on_the_scale_and_no_answers_are_taken() -> None:
    scores = torch.tensor([1.0, math.nan, 10.0], requires_grad=True)
    taken = said(Saying(scores))
    assert torch.equal(taken.nan_to_num(0), torch.tensor([1.0, 0.0, 10.0])) and not taken.requires_grad


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (torch.tensor([5.0, 0.5, 7.0]), ValueError, "to 10 .*1 of 3 are outside, first 0.5 for user 1 and item 0"),
        (torch.tensor([5.0, 7.0, 10.01]), ValueError, "first 10.01.* for user 1 and item 2"),
        (torch.tensor([math.inf, 7.0, 7.0]), ValueError, "first inf for user 0 and item 1"),
        (torch.tensor([7.0, -math.inf, 7.0]), ValueError, "first -inf"),
        (torch.tensor([0.2, 0.9, 0.5]), ValueError, "3 of 3 are outside"),  # probabilities
        (torch.tensor([80.0, 90.0, math.nan]), ValueError, "2 of 3 are outside"),  # percent
        (torch.tensor([5.0, 7.0]), ValueError, r"each of 3 pairs.*returned shape \[2\]"),
        (torch.tensor([[5.0, 7.0, 7.0]]), ValueError, r"shape \[1, 3\]"),
        (torch.tensor(5.0), ValueError, r"shape \[\]"),
        (torch.empty(3, device="meta"), ValueError, "on meta"),
        (torch.tensor([5, 7, 7]), TypeError, "float32 tensor.*torch.int64"),
        (torch.tensor([5.0, 7.0, 7.0], dtype=torch.float64), TypeError, "torch.float64"),
        (torch.tensor([5.0, 7.0, 7.0], dtype=torch.float16), TypeError, "torch.float16"),
        ([5.0, 7.0, 7.0], TypeError, "a list"),
        (np.array([5.0, 7.0, 7.0]), TypeError, "a ndarray"),
        (None, TypeError, "a NoneType"),
    ],
)
def test_what_is_no_score_is_refused_where_it_comes_in(scores: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"Saying.score must return .*{message}"):
        said(Saying(scores))
