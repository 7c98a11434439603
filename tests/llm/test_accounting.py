import io
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llmhd_pl.llm.accounting import Budget, Usage, estimate
from llmhd_pl.llm.prompts import MAX_WORDS, Prompts

BOOKS = Prompts.load("books")
FULL = " ".join(["word"] * MAX_WORDS)


def filled() -> Usage:
    usage = Usage()
    usage.add("T_sum", calls=2, prompt_tokens=1000, answer_tokens=200)
    usage.add("T_score", calls=30, cache_hits=4, prompt_tokens=12_000, answer_tokens=30, unanswered=1)
    usage.add("T_sum", calls=1, prompt_tokens=500, answer_tokens=100, unanswered=1)
    return usage


# Usage


def test_counts_are_added_up_per_template() -> None:
    usage = filled()
    assert usage.state_dict() == {
        "T_sum": {"calls": 3, "cache_hits": 0, "prompt_tokens": 1500, "answer_tokens": 300, "unanswered": 1},
        "T_score": {"calls": 30, "cache_hits": 4, "prompt_tokens": 12_000, "answer_tokens": 30, "unanswered": 1},
    }
    assert usage.tokens == 1500 + 300 + 12_000 + 30
    assert Usage().tokens == 0


def test_a_resumed_usage_goes_on_counting_and_shares_nothing_with_the_state() -> None:
    state = filled().state_dict()
    assert all(type(number) is int for counts in state.values() for number in counts.values())
    usage = Usage()
    usage.add("T_FP", calls=5)
    usage.load_state_dict(state)
    assert usage.state_dict() == state
    usage.add("T_sum", calls=1)
    assert usage.templates["T_sum"].calls == 4 and state["T_sum"]["calls"] == 3


def test_the_table_has_a_row_per_template_and_the_sum() -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(filled().table("Cost"))
    rows = [line.replace("│", " ").split() for line in console.export_text().splitlines()]
    assert ["Cost"] in rows
    assert ["T_sum", "3", "0", "1,500", "300", "1"] in rows
    assert ["T_score", "30", "4", "12,000", "30", "1"] in rows
    assert ["all", "33", "4", "13,500", "330", "2"] in rows


# Budget


def test_the_batch_that_does_not_fit_is_not_asked_and_counted_unanswered() -> None:
    usage = Usage()
    budget = Budget(usage, 1000)
    assert budget.admits("T_sum", 3, 1000)
    usage.add("T_sum", calls=3, prompt_tokens=500, answer_tokens=100)  # the answers were shorter than they might
    assert budget.admits("T_sum", 2, 400)
    with pytest.warns(
        UserWarning, match=r"600 of max_tokens=1,000 are used, and what is asked next needs up to 401"
    ) as caught:
        assert not budget.admits("T_score", 5, 401)
    assert len(caught) == 1 and caught[0].filename == __file__
    # Nothing gets through from here on, and nobody is warned again.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not budget.admits("T_score", 7, 1) and not budget.admits("T_FP", 1, 10_000)
    assert usage.templates["T_score"].unanswered == 12 and usage.templates["T_FP"].unanswered == 1
    assert usage.templates["T_score"].calls == 0 and usage.tokens == 600


def test_without_a_limit_everything_is_asked() -> None:
    usage = Usage()
    assert Budget(usage).admits("T_score", 5, 10**18) and usage.state_dict() == {}


def test_a_limit_of_zero_asks_nothing() -> None:
    usage = Usage()
    with pytest.warns(UserWarning, match="max_tokens=0"):
        assert not Budget(usage, 0).admits("T_score", 5, 1)


def test_a_resumed_run_goes_on_with_what_it_had_used() -> None:
    usage = Usage()
    usage.load_state_dict(filled().state_dict())
    with pytest.warns(UserWarning):
        assert not Budget(usage, 14_000).admits("T_score", 1, 171)
    assert Budget(usage, 14_000).admits("T_score", 1, 170)
    assert Budget(usage, 20_000).admits("T_score", 1, 171)  # raised by the user


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens is -1"):
        Budget(Usage(), -1)


@given(st.integers(0, 300), st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=20))
@pytest.mark.filterwarnings("ignore:The token budget")
def test_the_budget_is_never_exceeded_and_every_prompt_is_counted_once(
    limit: int, batches: list[tuple[int, int]]
) -> None:
    usage = Usage()
    budget = Budget(usage, limit)
    for most, saved in batches:
        if budget.admits("T_score", 2, most):
            usage.add("T_score", calls=2, prompt_tokens=max(most - saved, 0))
    assert usage.tokens <= limit
    count = usage.templates.get("T_score")
    assert (count.calls + count.unanswered if count else 0) == 2 * len(batches)


# The estimate


def test_what_it_says_of_summaries_is_what_they_cost() -> None:
    profiles = ["Elsewhere | author: Gabrielle Zevin", "Be With Me", "(no description)"]
    histories = [[0, 1], [], [2], [0, 1, 2]]
    usage = estimate(BOOKS, profiles, histories, epochs=1, count_tokens=len)
    prompts = [BOOKS.summarize([profiles[item] for item in history]) for history in histories if history]
    count = usage.templates["T_sum"]
    assert count.calls == 3 and count.answer_tokens == 3 * len(FULL)
    # Numbers are taken to have two digits; here each of the six has one.
    assert count.prompt_tokens == sum(len(prompt) for prompt in prompts) + 6 - 3
    short = estimate(BOOKS, profiles, histories, epochs=1, max_history_tokens=10, count_tokens=len)
    assert count.prompt_tokens - short.templates["T_sum"].prompt_tokens == sum(
        sum(len(f"10. {profiles[item]}\n") for item in history) - 10 for history in histories if history
    )


def test_one_epoch_by_hand() -> None:
    # 100 users with 10 items each; 1000 samples in 10 steps; after 10 of 20 steps eps_l is .1: 100 suspicious
    # samples, 75 of them candidates, two items each. With profiles and tokens of one size the rest is arithmetic.
    usage = estimate(
        BOOKS,
        ["x" * 20] * 10,
        [list(range(10))] * 100,
        epochs=1,
        batch_size=100,
        eps_l_max=0.2,
        alpha=20,
        eps_v=0.5,
        eps_gamma=1,
        score_answer_tokens=8,
        count_tokens=len,
    )
    score = usage.templates["T_score"]
    assert score.calls == 150 and score.answer_tokens == 150 * 8
    prompt = len(BOOKS.score_prefix(FULL) + BOOKS.score_suffix("x" * 20))
    assert score.prompt_tokens == 150 * prompt
    # Confident: 15 % of 100 observed items, and 100 drawn ones, over 100 users.
    for template, items in (("T_FP", 15), ("T_FN", 100)):
        users = 100 * (1 - 0.99**items)
        count = usage.templates[template]
        assert count.calls == round(users) and count.answer_tokens == round(users * len(FULL))
        item = len("10. " + "x" * 20 + "\n")
        alone = len(BOOKS.revise(FULL, ["x" * 20], liked=False)) - item
        assert count.prompt_tokens == round(users * alone + items * item)


def calls(template: str, **changes: object) -> int:
    settings = {"epochs": 40, "alpha": 3000, "eps_l_max": 0.05, "eps_v": 0.5, "batch_size": 128} | changes
    usage = estimate(BOOKS, ["x"] * 50, [list(range(10))] * 2000, **settings)  # type: ignore[arg-type]
    return usage.templates[template].calls if template in usage.templates else 0


@pytest.mark.parametrize("template", ["T_score", "T_FP", "T_FN"])
def test_more_suspicion_costs_more(template: str) -> None:
    few = calls(template)
    assert few > 0
    assert calls(template, eps_l_max=0.1) > 1.5 * few
    assert calls(template, epochs=60) > few
    assert calls(template, alpha=1500) > few
    assert calls("T_sum", eps_l_max=0.1) == calls("T_sum") == 2000
    assert calls("T_score", eps_v=0.9) > calls("T_score")


def test_what_is_asked_about_depends_on_the_rule() -> None:
    settings = {"alpha": 1, "eps_gamma": None, "epochs": 1}
    # 20,000 samples; 1,000 are suspicious, of which 750, or without variances of drawn items 500, are candidates.
    assert calls("T_score", **settings) == 2 * 750
    assert calls("T_score", **settings, negatives=False) == 750
    assert calls("T_score", **settings, negatives=False, negative_lifetime=1) == 500
    assert calls("T_score", **settings, negatives=False, everything=True) == 20_000
    assert calls("T_score", alpha=1, eps_gamma=None, negatives=False, everything=True) == 20_000
    assert calls("T_score", alpha=1, negatives=False, everything=True) > 20_000  # preferences are revised


def test_the_calibration_asks_about_four_pairs_of_a_hundred_users() -> None:
    for changes in ({"epochs": 1, "alpha": 1}, {"everything": True, "negatives": False}):
        assert calls("T_score", calibrate=True, **changes) == calls("T_score", **changes) + 400  # type: ignore[arg-type]
        assert calls("T_sum", calibrate=True, **changes) == calls("T_sum", **changes)  # type: ignore[arg-type]
    tokens = [
        estimate(BOOKS, ["x"] * 9, [[0]] * 7, epochs=1, alpha=10**9, calibrate=calibrate, count_tokens=len).templates
        for calibrate in (True, False)
    ]
    prompt = len(BOOKS.score_prefix(FULL) + BOOKS.score_suffix("x"))
    assert tokens[0]["T_score"].calls == 28 and tokens[1]["T_score"].calls == 0
    assert tokens[0]["T_score"].prompt_tokens - tokens[1]["T_score"].prompt_tokens == 28 * prompt


def test_preferences_that_are_revised_are_asked_about_again() -> None:
    without = calls("T_score", eps_gamma=None)
    assert calls("T_FP", eps_gamma=None) == calls("T_FN", eps_gamma=None) == 0
    assert calls("T_score", eps_gamma=3) > without
    # No more than every candidate in every epoch.
    assert calls("T_score", eps_gamma=3) <= 2 * 40 * 0.75 * 0.05 * 20_000
    # A drawn item that lives for two epochs is never confident in three.
    assert calls("T_FN", eps_gamma=3, negative_lifetime=2) == 0
    assert calls("T_score", eps_gamma=None, negative_lifetime=1) > 1.5 * without


def test_without_negatives_a_tenth_of_the_noise_set_changes() -> None:
    """And not all of it in each epoch, as where negatives are redrawn; half of it are candidates in either case."""
    settings: Any = {"alpha": 1, "eps_gamma": None, "negatives": False}
    none, redrawn = ([calls("T_score", epochs=e, negative_lifetime=n, **settings) for e in (1, 2)] for n in (None, 1))
    assert none[0] == redrawn[0] == 500
    assert none[1] - none[0] == round(0.1 * 500 * (1 - 500 / 20_000)) < redrawn[1] - redrawn[0]
    assert calls("T_FN", eps_gamma=3, negative_lifetime=None) == 0


def test_without_histories_there_is_nothing_to_estimate() -> None:
    with pytest.raises(ValueError, match="no user with a history"):
        estimate(BOOKS, ["x"], [[], []], epochs=1)


def test_the_ratios_to_the_papers_figures_in_the_docs() -> None:
    """docs/llm.md has the command, the table and the paper's figures (millions of tokens, Amazon-Books)."""
    profiles = [FULL] * 9332
    histories = [[0] * (11 if user < 120_464 - 110_000 else 10) for user in range(11_000)]
    ratios = []
    for eps_l_max, paper in ((0.05, {"T_sum": 16, "T_score": 11, "T_FN": 6, "T_FP": 3}), (0.1, {"T_score": 21})):
        usage = estimate(
            BOOKS,
            profiles,
            histories,
            epochs=35,
            alpha=10_000,
            eps_l_max=eps_l_max,
            count_tokens=lambda text: round(len(text.split()) * 4 / 3),
        )
        for template, millions in paper.items():
            count = usage.templates[template]
            ratios.append(round((count.prompt_tokens + count.answer_tokens) / millions / 1e6, 2))
    assert ratios == [1.21, 1.03, 0.8, 1.23, 1.18]
