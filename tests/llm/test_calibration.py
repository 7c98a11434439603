"""Calibration: the curve, the pairs that it is fitted on, and the scores of a language model that it turns around."""

import math
import random
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from llmhd_pl.llm.asking import Rating
from llmhd_pl.llm.cache import MissingAnswersError
from llmhd_pl.llm.calibration import draw_calibration_set, fit_curve, scores_on
from llmhd_pl.llm.judgements import Judgements
from llmhd_pl.llm.language_model import LanguageModelScorer
from llmhd_pl.scale import FITTING

NUM_USERS, NUM_ITEMS = 130, 60
ITEMS = [{} if item % 10 == 9 else {"title": f"Item {item}"} for item in range(NUM_ITEMS)]
WITH_TEXT = ["title" in fields for fields in ITEMS]


def interactions() -> Tensor:
    """Seven items of every user, in no order."""
    rng = random.Random(0)
    pairs = [(user, item) for user in range(NUM_USERS) for item in rng.sample(range(NUM_ITEMS), 7)]
    rng.shuffle(pairs)
    return torch.tensor(pairs)


PAIRS = interactions()
LIKED = {user: PAIRS[PAIRS[:, 0] == user, 1].tolist() for user in range(NUM_USERS)}


def unsure(liked: Sequence[int], item: int) -> float:
    """A judge who gives no more than 5.2, and to an item that the user has .6 more on average."""
    noise = random.Random(f"{liked[0]} {item}").random()
    return round(3 + 1.6 * noise + 0.6 * (item in liked), 3)


class Known(LanguageModelScorer):
    """Writes down the items that it is shown, and gives the raw score that a function says."""

    def __init__(self, raw: Callable[[Sequence[int], int], float | None] = unsure, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.raw = raw
        self.asked: list[str] = []
        self.prepare(ITEMS, PAIRS)

    @property
    def model_fingerprint(self) -> dict[str, str]:
        return {"model": "known"}

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
        for number, prompt in enumerate(prompts):
            self.asked.append(prompt)
            items = " ".join(re.findall(r"Item (\d+)", prompt))
            yield number, f"<summarization>Likes {items}</summarization>", self.count_tokens(prompt), 5

    def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Rating]:
        for group, (beginning, endings) in enumerate(groups):
            liked = [int(item) for item in re.findall(r"\d+", beginning.split("<preference>\n")[1])]
            for place, ending in enumerate(endings):
                (item,) = re.findall(r"Item (\d+)", ending)
                self.asked.append(beginning + ending)
                score = self.raw(liked, int(item))
                tokens = (0, 0) if score is None else (self.count_tokens(beginning + ending), 1)
                yield Rating(group, place, score, *tokens)


def ask(scorer: LanguageModelScorer, pairs: Tensor = PAIRS) -> Tensor:
    users = pairs[:, 0].unique().tolist()
    return scorer.score(scorer.summarize({user: LIKED[user] for user in users}), pairs)


# The curve


def test_the_curve_of_two_values_by_hand() -> None:
    """With as many observed as random pairs, the odds of a value are the ratio of its shares among them."""
    values, observed = [1.0] * 30 + [0.0] * 10 + [1.0] * 10 + [0.0] * 30, [True] * 40 + [False] * 40
    intercept, slope = fit_curve(values, observed, "Nobody")
    assert intercept == pytest.approx(math.log(10 / 30), rel=0.01)
    assert slope == pytest.approx(math.log(30 / 10) - math.log(10 / 30), rel=0.01)
    assert scores_on((intercept, slope), [0, 1, math.nan]) == pytest.approx([3.25, 7.75, math.nan], 0.01, nan_ok=True)
    # Observed pairs weigh as much as random ones, however many there are.
    assert fit_curve([*values, *values[:40]], [*observed, *observed[:40]], "Nobody") == pytest.approx(
        (intercept, slope), abs=1e-3
    )
    assert fit_curve([*values, math.nan], [*observed, True], "Nobody") == pytest.approx((intercept, slope), abs=1e-3)


def test_a_judge_that_always_says_the_same_knows_nothing() -> None:
    with pytest.warns(UserWarning, match=r"^Nobody does not tell observed from random pairs"):
        curve = fit_curve([4.2 + 1e-13, 4.2] * 10, [True, False] * 10, "Nobody")  # the same, up to rounding
    # What it says of others does not count more for it.
    assert scores_on(curve, [1, 4.2, 10]) == pytest.approx([5.5] * 3, abs=0.05)


def test_a_judge_that_says_the_contrary_is_not_turned_round() -> None:
    with pytest.warns(UserWarning, match="does not tell"):
        _, slope = fit_curve([1.0, 2.0, 3.0, 4.0], [True, True, False, False], "Nobody")
    assert slope == 0


@pytest.mark.parametrize("observed", [[True, False, False], [True, True, False], [], [True] * 4])
def test_too_few_pairs_are_an_error(observed: list[bool]) -> None:
    with pytest.raises(ValueError, match=f"Only {sum(observed)} of {sum(observed)} training interactions"):
        fit_curve([float(number) for number in range(len(observed))], observed, "Nobody")


# The pairs


def test_the_calibration_set() -> None:
    histories, pairs, observed = draw_calibration_set(PAIRS, WITH_TEXT, 0)
    assert len(histories) == 100 and len(pairs) == 400 and observed.sum() == 200
    assert all(histories[user] == LIKED[user] for user in histories)  # in this order: it decides the prompt
    assert len(pairs.unique(dim=0)) == 400
    for (user, item), is_observed in zip(pairs.tolist(), observed.tolist(), strict=True):
        assert WITH_TEXT[item] and (item in LIKED[user]) == is_observed
    for kind in (observed, ~observed):
        assert (pairs[kind, 0].bincount().unique() <= 2).all() and pairs[kind, 1].unique().numel() > 40
    again = draw_calibration_set(PAIRS.clone(), WITH_TEXT, 0)
    assert again.histories == histories and torch.equal(again.pairs, pairs)
    assert not torch.equal(draw_calibration_set(PAIRS, WITH_TEXT, 1).pairs, pairs)


@settings(max_examples=30)
@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 6))), st.lists(st.booleans(), min_size=7, max_size=7))
def test_a_calibration_set_of_anything(likes: set[tuple[int, int]], has_text: list[bool]) -> None:
    interactions = torch.tensor(sorted(likes), dtype=torch.int64).reshape(-1, 2)
    histories, pairs, observed = draw_calibration_set(interactions, has_text, 0)
    assert set(histories) == {user for user, item in likes if has_text[item]}
    for user in histories:
        for kind, is_observed in ((observed, True), (~observed, False)):
            there = [item for item in range(7) if has_text[item] and ((user, item) in likes) == is_observed]
            drawn = pairs[kind & (pairs[:, 0] == user), 1].tolist()
            assert len(set(drawn)) == len(drawn) == min(2, len(there)) and set(drawn) <= set(there)


# The scores of a language model


def test_scores_are_what_the_fitted_probability_says() -> None:
    """The curve is that of an unpenalised logistic regression on what the model has said of the calibration set."""
    raw, scores = ask(Known(calibrate=False)), ask(Known())
    _, pairs, observed = draw_calibration_set(PAIRS, WITH_TEXT, 0)
    given = np.array([unsure([i for i in LIKED[user] if WITH_TEXT[i]], item) for user, item in pairs.tolist()])
    sign = np.where(observed, 1, -1)

    def loss(parameters: np.ndarray) -> float:
        return float(np.logaddexp(0, -sign * (parameters[0] + parameters[1] * (given - 3.7))).mean())

    intercept, slope = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).x
    expected = 1 + 9 / (1 + torch.exp(-(intercept + slope * (raw - 3.7))))
    answered = ~raw.isnan()
    assert answered.sum() > 700 and torch.equal(scores.isnan(), ~answered) and scores.dtype == torch.float32
    assert (scores - expected)[answered].abs().max() < 0.05


def test_the_order_stays_and_five_and_a_half_parts_a_judge_who_never_says_it() -> None:
    rng = random.Random(1)
    drawn = torch.tensor([(user, rng.choice([i for i in range(NUM_ITEMS) if i not in LIKED[user]])) for user in LIKED])
    pairs = torch.cat([PAIRS, drawn])
    raw, scores = ask(Known(calibrate=False), pairs), ask(Known(), pairs)
    assert (raw[~raw.isnan()] < FITTING).all()
    answered = ~raw.isnan()
    order = raw[answered].argsort(stable=True)
    assert (scores[answered][order].diff() >= 0).all()
    fitting = [float((scores[kind & answered] >= FITTING).float().mean())
               for kind in (torch.arange(len(pairs)) < len(PAIRS), torch.arange(len(pairs)) >= len(PAIRS))]  # fmt: skip
    assert fitting[0] > 0.65 and fitting[1] < 0.4 and 0.4 < sum(fitting) / 2 < 0.6


@pytest.mark.parametrize("scoring", ["expected", "generate"])
def test_written_scores_are_calibrated_too(scoring: Any) -> None:
    class Writing(Known):
        def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
            for number, text, *tokens in super().complete(prompts, max_new_tokens):
                if "<s>N</s>" in prompts[number]:
                    preference, item = prompts[number].split("<preference>\n")[1].split("</preference>")
                    (about,) = re.findall(r"Item (\d+)", item)
                    text = f"<s>{2 + (about in preference.split())}</s>"
                yield number, text, *tokens  # type: ignore[misc]

    scores = ask(Writing(lambda liked, item: 2 + (item in liked), scoring=scoring))
    assert (scores[~scores.isnan()] > 9).all()


def test_whoever_asks_first_the_curve_is_the_same(tmp_path: Path) -> None:
    """Two processes with half of the users each, one that asks in another order, and a run that resumes."""
    whole = ask(Known())
    first, second = PAIRS[:, 0] < 65, PAIRS[:, 0] >= 65
    for half in (first, second):
        assert torch.equal(ask(Known(), PAIRS[half]).nan_to_num(), whole[half].nan_to_num())
    order = torch.randperm(len(PAIRS), generator=torch.Generator().manual_seed(0))
    assert torch.equal(ask(Known(), PAIRS[order]).nan_to_num(), whole[order].nan_to_num())
    # Revised preferences are not what it is calibrated with.
    assert Known().score({0: "Likes 1 2 3"}, torch.tensor([[0, 1]])) == pytest.approx(
        Known().score({5: "Likes 1 2 3"}, torch.tensor([[5, 1]]))
    )


def test_nothing_is_paid_twice_nor_before_it_is_needed(tmp_path: Path) -> None:
    cache = str(tmp_path / "answers.sqlite")
    scorer = Known(cache=cache)
    assert scorer.asked == []
    preferences = scorer.summarize(LIKED)
    assert len(scorer.asked) == NUM_USERS  # the calibration's summaries are among them
    scores = scorer.score(preferences, PAIRS)
    rated = {tuple(pair) for pair in PAIRS.tolist() if WITH_TEXT[pair[1]]}
    calibrated = draw_calibration_set(PAIRS, WITH_TEXT, 0)
    assert len(scorer.asked) == len(set(scorer.asked)) == NUM_USERS + len(rated) + int((~calibrated.observed).sum())
    scorer.score(preferences, PAIRS)
    again = Known(cache=cache)
    assert torch.equal(ask(again).nan_to_num(), scores.nan_to_num()) and again.asked == []
    assert torch.equal(ask(Known(cache=cache, replay=True)).nan_to_num(), scores.nan_to_num())
    # Answers are kept as the model gives them, and are those of a scorer that does not calibrate.
    raw = Known(cache=cache, calibrate=False)
    assert ask(raw).nanmean() < 4.5 and raw.asked == [] and raw.fingerprint == scorer.fingerprint


def test_the_summaries_are_those_that_a_run_asks_for() -> None:
    """Not only of the same items, but in the same order, and so the same prompts."""
    scorer = Known()
    judgements = Judgements(scorer, ITEMS, *PAIRS.unbind(1))
    judgements.prepare()
    judgements.score(0, *PAIRS[:1].unbind(1))
    asked = len(scorer.asked)
    judgements.summarize(0, range(NUM_USERS))
    assert scorer.usage.templates["T_sum"].calls == NUM_USERS
    assert asked - 400 <= 102 and len(scorer.asked) == len(set(scorer.asked))


def test_a_replay_without_the_calibration_says_what_to_do(tmp_path: Path) -> None:
    cache = str(tmp_path / "answers.sqlite")
    ask(Known(cache=cache, calibrate=False), PAIRS[:5])
    with pytest.raises(MissingAnswersError) as caught:
        ask(Known(cache=cache, replay=True), PAIRS[:5])
    assert "calibrate: false" in caught.value.__notes__[0]
    assert not ask(Known(cache=cache, replay=True, calibrate=False), PAIRS[:5]).isnan().all()


# No curve, no scores


def quietly(scorer: LanguageModelScorer, pairs: Tensor = PAIRS) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ask(scorer, pairs)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_budget_that_ends_before_there_is_a_curve_leaves_all_to_the_loss(share: float, tmp_path: Path) -> None:
    few = PAIRS[:5]
    free = Known()
    ask(free, few)
    cache = str(tmp_path / "answers.sqlite")
    poor = Known(cache=cache, max_tokens=int(share * free.usage.tokens))
    with (
        pytest.warns(UserWarning, match="rest of the token budget is too small: "),
        pytest.warns(UserWarning, match=r"cannot be calibrated.*raise max_tokens.*calibrate: false"),
    ):
        assert ask(poor, few).isnan().all()
    assert "not calibrated" in poor.fault
    before = poor.usage.state_dict().get("T_score")
    assert quietly(poor, few).isnan().all() and poor.usage.state_dict().get("T_score") == before
    assert poor.usage.tokens <= share * free.usage.tokens
    rich = Known(cache=cache)
    assert torch.equal(quietly(rich, few).nan_to_num(), ask(Known(), few).nan_to_num())
    assert not set(rich.asked) & set(poor.asked)


def test_what_did_not_come_for_a_passing_reason_is_asked_again() -> None:
    away = True
    scorer = Known(lambda liked, item: None if away and item % 3 else unsure(liked, item))
    with pytest.warns(UserWarning, match=r"only \d+ of 200 observed and \d+ of 200 random pairs have a score"):
        assert ask(scorer).isnan().all()
    asked = len(scorer.asked)
    assert quietly(scorer).isnan().all() and len(scorer.asked) > asked  # it was asked, and there was no second warning
    answered = {prompt for prompt in scorer.asked if int(re.findall(r"Item (\d+)\n", prompt)[-1]) % 3 == 0}
    away = False
    scorer.asked.clear()
    assert torch.equal(quietly(scorer).nan_to_num(), ask(Known()).nan_to_num())
    assert len(answered) > 100 and not answered & set(scorer.asked)  # what had come is kept


def test_a_fault_of_a_moment_does_not_change_the_curve() -> None:
    failed: set[int] = set()

    def flaky(liked: Sequence[int], item: int) -> float | None:
        if item not in failed and item % 3 == 0:
            return failed.add(item)
        return unsure(liked, item)

    scorer = Known(flaky)
    quietly(scorer, PAIRS[:1])
    assert len(failed) > 5
    failed.clear()
    quietly(scorer)
    assert torch.equal(quietly(scorer).nan_to_num(), ask(Known()).nan_to_num())


def test_some_questions_that_are_never_answered_do_no_harm() -> None:
    never = Known(lambda liked, item: None if item < 10 else unsure(liked, item))
    scores, whole = quietly(never), ask(Known())
    unanswered = torch.tensor(WITH_TEXT)[PAIRS[:, 1]] & (PAIRS[:, 1] < 10)
    assert scores[unanswered].isnan().all() and scores.isnan().sum() < 0.4 * len(scores)
    assert (scores - whole).nan_to_num().abs().max() < 1


def test_too_few_interactions_for_a_curve() -> None:
    scorer = Known()
    scorer.prepare(ITEMS, PAIRS[:1])
    with pytest.warns(UserWarning, match="too few interactions with text"):
        assert scorer.score({0: "Likes 1"}, torch.tensor([[0, 1]])).isnan().all()
    scorer.prepare(ITEMS, PAIRS)  # and of more, it is
    assert not quietly(scorer).isnan().all()


def test_a_judge_who_cannot_tell_is_announced() -> None:
    with pytest.warns(UserWarning, match="^Known: what the model says of the items does not tell observed"):
        scores = ask(Known(lambda liked, item: 4.0))
    assert scores[~scores.isnan()].tolist() == pytest.approx([5.5] * int((~scores.isnan()).sum()), abs=0.05)


def test_it_must_be_prepared() -> None:
    scorer = Known.__new__(Known)
    LanguageModelScorer.__init__(scorer)
    with pytest.raises(RuntimeError, match="prepare"):
        scorer.score({0: "x"}, torch.tensor([[0, 0]]))
