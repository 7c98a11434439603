from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmhd_pl.llm.accounting import Budget, Usage
from llmhd_pl.llm.cascade import CascadeScorer
from llmhd_pl.llm.quantized import QuantizedLLM
from llmhd_pl.llm.scorer import Preference, Scorer

NAN = float("nan")


class Table(Scorer):
    """Scores pairs by a table; remembers what it was asked."""

    def __init__(self, table: list[list[float]], texts: bool = False) -> None:
        self.table, self.texts = torch.tensor(table), texts
        self.usage = Usage()
        self.budget = Budget(self.usage)
        self.asked: list[list[int]] = []
        self.prepared = 0
        self.known: list[dict[int, Preference]] = []

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        self.prepared += 1

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        return {user: f"likes {list(items)}" if self.texts else list(items) for user, items in histories.items()}

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        self.known.append(dict(preferences))
        self.asked += pairs.tolist()
        return self.table[pairs[:, 0], pairs[:, 1]]

    def revise(
        self,
        preferences: Mapping[int, Preference],
        disliked: Mapping[int, Sequence[int]],
        liked: Mapping[int, Sequence[int]],
    ) -> dict[int, Preference]:
        return {user: [*liked.get(user, ())] for user in preferences}


PAIRS = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])


def test_the_second_judge_is_asked_about_the_pairs_nearest_to_the_cut() -> None:
    first, second = Table([[9.0, 5.0], [2.0, 6.5]]), Table([[1.0, 1.0], [1.0, 8.2]], texts=True)
    judge = CascadeScorer(first, second, share=0.25)
    judge.prepare([{}, {}], PAIRS)
    scores = judge.score(judge.summarize({0: [0, 1], 1: [1]}), PAIRS)
    assert second.asked == [[0, 1]] and second.known == [{0: "likes [0, 1]"}]
    assert scores.tolist() == pytest.approx([9, 1, 2, 6.5], abs=1e-4)
    assert (first.prepared, second.prepared) == (1, 1)
    cut = CascadeScorer(first, second, share=0.25, cut=2.5)
    assert cut.score(judge.summarize({0: [0, 1], 1: [1]}), PAIRS)[2] == pytest.approx(1, abs=1e-4)


def test_log_odds_add_up() -> None:
    """p = .6 and q = .8: odds of 1.5 and 4, together 6, which is a probability of 6/7."""
    judge = CascadeScorer(Table([[1 + 9 * 0.6, 5.5]]), Table([[1 + 9 * 0.8, 1 + 9 * 0.3]]), share=1)
    scores = judge.score({0: [0, 1]}, torch.tensor([[0, 0], [0, 1]]))
    assert scores.tolist() == pytest.approx([1 + 9 * 6 / 7, 1 + 9 * 0.3], abs=1e-4)


def test_an_answer_of_one_judge_alone_decides_alone() -> None:
    first, second = Table([[NAN, 5.0, 7.0]]), Table([[9.0, NAN, 5.5]])
    scores = CascadeScorer(first, second, share=1).score({0: [0]}, torch.tensor([[0, 0], [0, 1], [0, 2]]))
    assert scores[0].isnan() and scores[1:].tolist() == pytest.approx([5, 7], abs=1e-4)
    assert second.asked == [[0, 1], [0, 2]]


def test_a_pair_that_occurs_twice_is_asked_about_once() -> None:
    first, second = Table([[5.0, 7.0]]), Table([[8.0, 8.0]])
    pairs = torch.tensor([[0, 1], [0, 0], [0, 0]])
    scores = CascadeScorer(first, second, share=0.5).score({0: [0]}, pairs)
    assert second.asked == [[0, 0]] and scores[1] == scores[2] != scores[0]


def test_nothing_is_asked_with_a_share_of_0() -> None:
    first, second = Table([[5.0, 7.0]]), Table([[8.0, 8.0]])
    assert torch.equal(CascadeScorer(first, second, share=0).score({0: [0]}, PAIRS[:2]), first.table[0])
    assert second.asked == []


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(1, 10), st.floats(1, 10)), min_size=1, max_size=20), st.floats(0, 1))
def test_scores_stay_on_the_scale_and_only_a_share_is_asked_about(
    values: list[tuple[float, float]], share: float
) -> None:
    first, second = Table([[a for a, _ in values]]), Table([[b for _, b in values]])
    pairs = torch.tensor([[0, item] for item in range(len(values))])
    scores = CascadeScorer(first, second, share).score({0: [0]}, pairs)
    assert ((scores >= 1) & (scores <= 10)).all() and len(second.asked) == round(share * len(values))
    rest = [item for item in range(len(values)) if [0, item] not in second.asked]
    assert torch.equal(scores[rest], first.table[0, rest])


def test_costs_and_faults_are_those_of_the_second_judge() -> None:
    first, second = Table([[5.0]]), Table([[5.0]])
    judge = CascadeScorer(first, second)
    second.refused, second.fault = "no tags", "down"
    assert (judge.refused, judge.fault) == ("no tags", "down")
    assert judge.usage is second.usage and judge.budget is second.budget
    judge.fault = ""
    assert second.fault == ""
    assert judge.revise({0: [1]}, {}, {0: [2]}) == {0: [2]}


def test_what_cannot_be_combined_is_refused() -> None:
    table = Table([[5.0]])
    with pytest.raises(ValueError, match="both must be calibrated: set calibrate to true"):
        CascadeScorer(table, QuantizedLLM("model", calibrate=False))
    with pytest.raises(TypeError, match="The preferences of Table are texts"):
        CascadeScorer(Table([[5.0]], texts=True), table).summarize({0: [0]})
    with pytest.raises(TypeError, match="preference of user 0 is a text"):
        CascadeScorer(table, table, share=1).score({0: "likes otters"}, PAIRS[:1])
    with pytest.raises(ValueError, match="share is 2"):
        CascadeScorer(table, table, share=2)
    with pytest.raises(ValueError, match="cut is 0"):
        CascadeScorer(table, table, cut=0)
    with pytest.raises(TypeError, match="scorer is None"):
        CascadeScorer(table, None)  # type: ignore[arg-type]
