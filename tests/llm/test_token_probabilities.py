import math

import pytest

from llmhd_pl.llm.token_probabilities import Position, expected_of_candidates

Places = list[tuple[str, dict[str, float]]]


def tagged(place: tuple[str, dict[str, float]], *more: tuple[str, dict[str, float]]) -> Places:
    """The tokens of an answer: "<s>", the number's, "</s>"."""
    return [
        ("<s", {"<s": 0.9, "7": 0.1}),
        (">", {">": 1.0, " ": 1e-9}),
        place,
        *more,
        ("</s>", {"</s>": 1.0, ".": 1e-9}),
    ]


def places(*tokens: tuple[str, dict[str, float]]) -> list[Position]:
    return [(token, list(candidates.items())) for token, candidates in tagged(*tokens)]


@pytest.mark.parametrize(
    ("tokens", "number", "expected"),
    [
        # one token for "10": "1" is 1
        ([("10", {"10": 0.6, "9": 0.3, "1": 0.1})], 10, 0.6 * 10 + 0.3 * 9 + 0.1),
        ([("9", {"10": 0.3, "9": 0.6, "1": 0.1})], 9, 0.3 * 10 + 0.6 * 9 + 0.1),
        # two tokens: what follows "1" divides it; "." is no answer but an end, "2" neither
        (
            [("1", {"1": 0.8, "9": 0.2}), ("0", {"0": 0.6, "<": 0.1, ".": 0.1, "2": 0.2})],
            10,
            0.6 * 10 + 0.2 * 1 + 0.2 * 9,
        ),
        ([("1", {"1": 0.8, "2": 0.2}), ("<", {"0": 0.1, "<": 0.9})], 1, 0.08 * 10 + 0.72 * 1 + 0.2 * 2),
        # two tokens, and another number was written: "1" is the end that the others lean to
        ([("8", {"8": 0.5, "9": 0.3, "1": 0.2})], 8, 0.5 * 8 + 0.3 * 9 + 0.2 * 10),
        ([("2", {"2": 0.5, "3": 0.3, "1": 0.2})], 2, 0.5 * 2 + 0.3 * 3 + 0.2 * 1),
        # no answers: left out, the rest is all there is
        ([("7", {"7": 0.3, "75": 0.2, "0": 0.2, "seven": 0.2, "5": 0.1})], 7, (0.3 * 7 + 0.1 * 5) / 0.4),
        # tokens with white space are the same answer
        ([(" 7", {" 7": 0.5, "7": 0.2, " 3": 0.3})], 7, 0.7 * 7 + 0.3 * 3),
    ],
)
def test_expected_score_by_hand(tokens: list[tuple[str, dict[str, float]]], number: int, expected: float) -> None:
    assert expected_of_candidates(places(*tokens), number) == pytest.approx(expected)


def test_the_place_of_the_number_is_found_within_tokens() -> None:
    glued: list[Position] = [("<s", [("<s", 1.0), ("<", 0.0)]), (">7<", [(">7<", 0.5), (">6<", 0.25), ("6", 0.25)])]
    assert expected_of_candidates(glued, 7) == pytest.approx((7 * 0.5 + 6 * 0.25) / 0.75)
    assert expected_of_candidates([("1", [("1", 0.6), ("3", 0.4)])], 1) == pytest.approx(
        0.6 * 1 + 0.4 * 3
    )  # the end is not told
    assert expected_of_candidates([("1", [("1", 0.6), ("3", 0.4)]), ("0", [])], 10) == pytest.approx(0.6 * 10 + 0.4 * 3)
    assert expected_of_candidates([("8", [("8", 0.6), ("3", 0.4)])], 7) is None  # the tokens of another answer
    assert expected_of_candidates([("7", [("7", 1.0)])], 7) is None  # one candidate is no distribution
    assert expected_of_candidates([("7", [("7", math.nan), ("8", 0.1)])], 7) is None
    assert expected_of_candidates([], 7) is None


@pytest.mark.parametrize(
    "candidates",
    [
        [("7", 1.0), ("5", 1.0)],  # every candidate is certain
        [("7", 0.9), ("5", -0.1)],
        [("7", 0.5), ("x", math.nan)],
        [("7", 7.0), ("5", 1.0)],
    ],
)
def test_numbers_that_are_no_probabilities_are_no_mean(candidates: list[tuple[str, float]]) -> None:
    assert expected_of_candidates([("7", candidates)], 7) is None
    assert expected_of_candidates([("1", [("1", 0.5), ("2", 0.5)]), ("0", candidates)], 10) is None


@pytest.mark.parametrize("probability", [0.8789014060298572, 0.3, 0.7, 1 / 3])
@pytest.mark.parametrize("answer", [1, 10])
def test_the_mean_of_one_score_is_within_the_scale(answer: int, probability: float) -> None:
    """Rounding made it 10.000000000000002, which is no score: a paid answer would be discarded."""
    tokens = places((str(answer), {str(answer): probability, "x": 1e-9}))
    expected = expected_of_candidates(tokens, answer)
    assert expected is not None and 1 <= expected <= 10 and expected == pytest.approx(answer)
