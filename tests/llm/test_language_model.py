import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from llmhd_pl.llm.asking import Rating
from llmhd_pl.llm.cache import MissingAnswersError
from llmhd_pl.llm.language_model import LanguageModelScorer
from llmhd_pl.llm.scorer import Scorer

ITEMS = [
    {"title": "Otter"},
    {"title": "Heron"},
    {"title": "Wolf"},
    {},  # no text
]


class Parrot(LanguageModelScorer):
    """Summarises by listing the items it sees, rates by the length of the ending, and counts what it is asked."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.asked: list[str] = []
        self.broken: set[str] = set()

    @property
    def model_fingerprint(self) -> dict[str, str]:
        return {"model": "parrot"}

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
        for number in reversed(range(len(prompts))):  # any order
            prompt = prompts[number]
            self.asked.append(prompt)
            names = " ".join(re.findall(r"Otter|Heron|Wolf", prompt))
            tag = "s" if "<s>N</s>" in prompt else "summarization" if "<summarization>" in prompt else "profile"
            text = "7" if tag == "s" else names
            broken = any(word in prompt for word in self.broken)
            yield number, "garbage" if broken else f"<{tag}>{text}</{tag}>", self.count_tokens(prompt), 3

    def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Rating]:
        for group, (beginning, endings) in enumerate(groups):
            for place, ending in enumerate(endings):
                self.asked.append(beginning + ending)
                score = None if any(word in ending for word in self.broken) else 1 + len(ending) / 1000
                yield Rating(group, place, score, self.count_tokens(beginning + ending), 2)


def parrot(**arguments: Any) -> Parrot:
    """Return a parrot whose scores are what it says, unless they are to be calibrated."""
    scorer = Parrot(**{"calibrate": False} | arguments)
    scorer.prepare(ITEMS, torch.empty(0, 2, dtype=torch.int64))
    return scorer


def test_it_says_what_it_costs() -> None:
    scorer: Scorer = parrot(max_tokens=5)
    assert scorer.usage is not None and scorer.usage.tokens == 0 and scorer.refused == ""
    assert scorer.budget is not None and scorer.budget.usage is scorer.usage and scorer.budget.max_tokens == 5


def test_summaries_are_of_the_items_with_text() -> None:
    scorer = parrot()
    assert scorer.summarize({4: [0, 3, 2], 5: [3], 6: [1]}) == {4: "Otter Wolf", 6: "Heron"}
    assert len(scorer.asked) == 2
    assert scorer.usage.templates["T_sum"].calls == 2


def test_revision_goes_first_through_the_disliked_then_through_the_liked() -> None:
    scorer = parrot()
    revised = scorer.revise({1: "Otter", 2: "Wolf"}, disliked={1: [1]}, liked={1: [2], 9: [0]})
    assert revised == {1: "Otter Heron Wolf"}  # user 2 was not asked about, user 9 has no preference to revise
    assert "NOT" in scorer.asked[0] and "IS" in scorer.asked[1] and len(scorer.asked) == 2


def test_revision_keeps_the_part_that_was_answered() -> None:
    preferences = {1: "Otter", 2: "Otter", 3: "Otter"}
    before = dict(preferences)
    scorer = parrot()
    scorer.broken = {"Heron"}
    # User 1: T_FN is not answered; user 2: T_FP is not; user 3: neither; user 4 has no item with text.
    revised = scorer.revise(preferences, {1: [2], 2: [1], 3: [1]}, {1: [1], 2: [2], 3: [1], 4: [3]})
    assert revised == {1: "Otter Wolf", 2: "Otter Wolf"} and preferences == before
    # Users 2 and 3 share a prompt of T_FP, which is asked once.
    counts = {name: (count.calls, count.unanswered) for name, count in scorer.usage.templates.items()}
    assert counts == {"T_FP": (2, 1), "T_FN": (3, 2)}


def test_half_a_character_costs_no_other_answer(tmp_path: Path) -> None:
    class Torn(Parrot):
        """Answers as an endpoint's JSON may read: with a lone surrogate."""

        def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
            for number, text, read, written in super().complete(prompts, max_new_tokens):
                assert text is not None
                yield number, text.replace("Heron", "Heron\ud800").replace("7</s>", "7</s>\ud800"), read, written

    scorer = Torn(cache=str(tmp_path / "answers.db"), scoring="generate", calibrate=False)
    scorer.prepare(ITEMS, torch.empty(0, 2, dtype=torch.int64))
    expected = {0: "Heron?", 1: "Otter"}
    assert scorer.summarize({0: [1], 1: [0]}) == expected
    assert parrot(cache=str(tmp_path / "answers.db"), scoring="generate").summarize({0: [1], 1: [0]}) == expected
    assert scorer.score({0: "Otter"}, torch.tensor([[0, 1]])).isnan().all()  # a score is <s>N</s> and nothing else


@pytest.mark.parametrize("scoring", ["expected", "generate"])
def test_each_pair_is_asked_once_and_comes_back_in_its_place(scoring: Any) -> None:
    scorer = parrot(scoring=scoring)
    pairs = torch.tensor([[1, 2], [0, 0], [1, 2], [1, 3], [7, 0], [0, 1]])
    scores = scorer.score({0: "Otter", 1: "Wolf"}, pairs)
    assert scores.isnan().tolist() == [False, False, False, True, True, False]  # no text; no preference
    assert scores[0] == scores[2]
    assert len(scorer.asked) == len(set(scorer.asked)) == 3
    if scoring == "generate":
        assert scores[0] == 7
    else:
        prompt = scorer.prompts.score_suffix("Heron")
        assert scores[5] == pytest.approx(1 + len(prompt) / 1000)


@pytest.mark.parametrize("scoring", ["expected", "generate"])
def test_users_with_the_same_preference_share_a_question(scoring: Any) -> None:
    scorer = parrot(scoring=scoring)
    scores = scorer.score({0: "Otter", 1: "Otter", 2: "Wolf"}, torch.tensor([[0, 0], [1, 0], [2, 0], [1, 2], [1, 2]]))
    assert scores[0] == scores[1] and scores[3] == scores[4] and not scores.isnan().any()
    assert len(scorer.asked) == len(set(scorer.asked)) == 3


@pytest.mark.parametrize("scoring", ["expected", "generate"])
def test_nothing_is_asked_twice_also_by_the_next_process(tmp_path: Path, scoring: Any) -> None:
    pairs = torch.tensor([[0, 0], [0, 1], [1, 2]])
    preferences = {0: "Otter", 1: "Wolf"}
    first = parrot(cache=str(tmp_path / "answers.db"), scoring=scoring)
    scores = first.score(preferences, pairs)
    summaries = first.summarize({0: [0, 1]})
    second = parrot(cache=str(tmp_path / "answers.db"), scoring=scoring)
    assert torch.equal(second.score(preferences, pairs), scores)
    assert second.summarize({0: [0, 1]}) == summaries
    assert second.asked == []
    assert second.usage.templates["T_score"].cache_hits == 3 and second.usage.tokens == 0
    replayed = parrot(cache=str(tmp_path / "answers.db"), scoring=scoring, replay=True)
    assert torch.equal(replayed.score(preferences, pairs), scores)
    with pytest.raises(MissingAnswersError, match="1 of 1 prompts"):
        replayed.score(preferences, torch.tensor([[1, 0]]))


@pytest.mark.parametrize("scoring", ["expected", "generate"])
def test_an_invalid_answer_is_nan_counted_not_kept_and_asked_again_by_the_next_process_only(
    tmp_path: Path, scoring: Any
) -> None:
    scorer = parrot(cache=str(tmp_path / "answers.db"), scoring=scoring)
    scorer.broken = {"Heron"}
    scores = scorer.score({0: "Otter"}, torch.tensor([[0, 1], [0, 2]]))
    assert scores.isnan().tolist() == [True, False]
    assert scorer.usage.templates["T_score"].unanswered == 1
    assert scorer.summarize({0: [1]}) == {} and scorer.refused
    assert scorer.revise({0: "Otter"}, {0: [1]}, {}) == {}
    scorer.broken, asked = set(), len(scorer.asked)
    assert scorer.score({0: "Otter"}, torch.tensor([[0, 1], [0, 2]])).isnan().tolist() == [True, False]
    assert scorer.summarize({0: [1]}) == {} and len(scorer.asked) == asked  # at temperature 0 it would say the same
    again = parrot(cache=str(tmp_path / "answers.db"), scoring=scoring)
    assert not again.score({0: "Otter"}, torch.tensor([[0, 1], [0, 2]])).isnan().any()
    assert again.summarize({0: [1]}) == {0: "Heron"}


@pytest.mark.parametrize("scoring", ["expected", "generate"])
def test_what_cost_nothing_was_not_asked(scoring: Any) -> None:
    """A server that is out of reach gives no answer and counts no token."""

    class Away(Parrot):
        away = True

        def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
            for number, text, read, written in super().complete(prompts, max_new_tokens):
                yield (number, None, 0, 0) if self.away else (number, text, read, written)

        def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Rating]:
            for rating in super().rate(groups):
                yield Rating(*rating[:2], None, 0, 0) if self.away else rating

    scorer = Away(scoring=scoring, calibrate=False)
    scorer.prepare(ITEMS, torch.empty(0, 2, dtype=torch.int64))
    pairs = torch.tensor([[0, 1], [0, 2]])
    assert scorer.score({0: "Otter"}, pairs).isnan().all()
    assert scorer.summarize({0: [1]}) == {} == scorer.revise({0: "Otter"}, {0: [1]}, {})
    scorer.away = False
    assert not scorer.score({0: "Otter"}, pairs).isnan().any()
    assert scorer.summarize({0: [1]}) and scorer.revise({0: "Otter"}, {0: [1]}, {})


def test_the_budget_ends_the_asking_and_what_is_cached_still_counts(tmp_path: Path) -> None:
    rich = parrot(cache=str(tmp_path / "answers.db"))
    rich.score({0: "Otter"}, torch.tensor([[0, 1]]))
    poor = parrot(cache=str(tmp_path / "answers.db"), max_tokens=10)
    with pytest.warns(UserWarning, match="max_tokens=10"):
        scores = poor.score({0: "Otter"}, torch.tensor([[0, 1], [0, 2]]))
    assert scores.isnan().tolist() == [False, True] and poor.asked == []
    assert poor.summarize({0: [0]}) == {}
    assert {name: count.unanswered for name, count in poor.usage.templates.items()} == {"T_score": 1, "T_sum": 1}


def test_the_budget_is_spent_on_what_it_allows_of_a_chunk() -> None:
    free = parrot()
    preferences = {user: f"Otter number{user}" for user in range(4)}
    pairs = torch.tensor([[user, 0] for user in range(4)])
    free.score(preferences, pairs)
    each = free.usage.tokens // 4  # two tokens of each are the answer's, and one is reserved for it
    with pytest.warns(UserWarning, match="rest of the token budget is too small"):
        scores = (poor := parrot(max_tokens=2 * each + each // 2)).score(preferences, pairs)
    assert scores.isnan().tolist() == [False, False, True, True]
    assert poor.usage.templates["T_score"].unanswered == 2 and len(poor.asked) == 2


def test_a_score_that_is_none_is_not_kept(tmp_path: Path) -> None:
    """A model that overflows says NaN."""

    class Overflowing(Parrot):
        def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Rating]:
            for rating, score in zip(super().rate(groups), (float("nan"), 0.5, 10.5, 10.0), strict=False):
                yield rating._replace(score=score)

    scorer = Overflowing(cache=str(tmp_path / "answers.db"), calibrate=False)
    scorer.prepare([{"title": word} for word in "abcd"], torch.empty(0, 2, dtype=torch.int64))
    scores = scorer.score({0: "Otter"}, torch.tensor([[0, item] for item in range(4)]))
    assert scores.isnan().tolist() == [True, True, True, False] and scores[3] == 10
    assert scorer.usage.templates["T_score"].unanswered == 3
    assert scorer.cache is not None and scorer.cache.get(scorer.fingerprint, scorer.asked).keys() == {scorer.asked[3]}


def test_scores_that_had_arrived_when_the_model_failed_are_kept(tmp_path: Path) -> None:
    class Failing(Parrot):
        def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Rating]:
            for number, rating in enumerate(super().rate(groups)):
                if number == 2:
                    raise KeyboardInterrupt
                yield rating

    failing = Failing(cache=str(tmp_path / "answers.db"), calibrate=False)
    failing.prepare(ITEMS, torch.empty(0, 2, dtype=torch.int64))
    pairs = torch.tensor([[0, 0], [0, 1], [0, 2]])
    with pytest.raises(KeyboardInterrupt):
        failing.score({0: "Otter"}, pairs)
    assert failing.usage.templates["T_score"].calls == 2 and failing.usage.templates["T_score"].answer_tokens == 4
    again = parrot(cache=str(tmp_path / "answers.db"))
    assert not again.score({0: "Otter"}, pairs).isnan().any() and len(again.asked) == 1


@pytest.mark.parametrize("scoring", ["expected", "generate"])
def test_without_a_file_answers_are_kept_for_the_process(scoring: Any) -> None:
    scorer = parrot(scoring=scoring)
    pairs = torch.tensor([[0, 0], [0, 1]])
    scores = scorer.score({0: "Otter"}, pairs)
    assert torch.equal(scorer.score({0: "Otter"}, pairs), scores) and len(scorer.asked) == 2
    assert scorer.usage.templates["T_score"].cache_hits == 2
    scorer.score({0: "Wolf"}, pairs)
    assert len(scorer.asked) == 4


def test_other_prompts_or_scoring_are_other_questions(tmp_path: Path) -> None:
    fingerprints = {parrot(prompts=prompts, scoring=scoring).fingerprint  # type: ignore[arg-type]
                    for prompts in ("books", "neutral") for scoring in ("expected", "generate")}  # fmt: skip
    assert len(fingerprints) == 4


def test_wrong_use_is_named() -> None:
    with pytest.raises(ValueError, match="replay"):
        Parrot(replay=True)
    with pytest.raises(ValueError, match="scoring"):
        Parrot(scoring="guess")
    with pytest.raises(RuntimeError, match="prepare"):
        Parrot().summarize({0: [0]})


def test_what_had_arrived_when_the_model_failed_is_kept(tmp_path: Path) -> None:
    class Failing(Parrot):
        def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
            for count, answer in enumerate(super().complete(prompts, max_new_tokens)):
                if count == 2:
                    raise KeyboardInterrupt
                yield answer

    cache = str(tmp_path / "answers.sqlite")
    histories = {user: [user % 3, (user + 1) % 3, (user // 3) % 3] for user in range(5)}
    failing = Failing(cache=cache)
    failing.prepare(ITEMS, torch.empty(0, 2, dtype=torch.int64))
    with pytest.raises(KeyboardInterrupt):
        failing.summarize(histories)
    assert failing.usage.templates["T_sum"].calls == 2 and failing.usage.templates["T_sum"].answer_tokens == 6
    again = parrot(cache=cache)
    whole = parrot()
    assert again.summarize(histories) == whole.summarize(histories)
    assert len(again.asked) == len(whole.asked) - 2
