import io
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llmhd_pl.llm.accounting import Budget, Usage


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
