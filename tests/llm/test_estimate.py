from typing import Any

import pytest

from llmhd_pl.llm.estimate import estimate
from llmhd_pl.llm.prompts import MAX_WORDS, Prompts

BOOKS = Prompts.load("books")
FULL = " ".join(["word"] * MAX_WORDS)


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
    # With pointwise losses, half of the suspicious observed items and, if these may be dropped, of the sampled ones; of
    # those that are new at every epoch none is suspicious, but twice as many observed ones are.
    assert calls("T_score", **settings, negatives=False, pointwise=True) == 500
    assert calls("T_score", **settings, negatives=True, pointwise=True) == 2 * 500
    assert calls("T_score", **settings, negatives=True, pointwise=True, negative_lifetime=1) == 2 * 500


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
