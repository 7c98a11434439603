"""The expected score of an answer whose tokens come with the probabilities of their most likely alternatives."""

import re
from collections import defaultdict
from collections.abc import Sequence

_ROUNDING = 0.01  # by which the probabilities of a server that computes with few bits may add up to more than 1

Position = tuple[str, list[tuple[str, float]]]
"""A token that the model wrote, and the candidates for its place with their probabilities. The token itself is among
the candidates; there are none if the server gave none."""


def expected_of_candidates(positions: Sequence[Position], number: int) -> float | None:
    """Return the mean of 1 to 10 under the probabilities that the model gave the ten answers.

    They are read where the number that was written begins; candidates that are none of the ten answers are left out.
    If "10" is written as the tokens "1" and "0", a candidate "1" may become either number, which the next place tells:

    * If the model wrote "1" or "10", the next place divides the probability of "1" between 1 and 10.
    * If it wrote something else, the next place belongs to another answer. If "10" is itself a candidate, "1" is 1.
      Otherwise "1" counts as the end of the scale that the other answers lean to: as 10 if their mean is above 5.5.

    Args:
        positions: The tokens of the answer, in order.
        number: The number that was written, 1 to 10.

    Returns:
        1 to 10, or None if the tokens do not end in that number, if its place has fewer than two candidates, or if the
        probabilities of a place are none: below 0, NaN, or more than 1 in all.
    """
    numbers = list(re.finditer(r"[0-9]+", "".join(token for token, _ in positions)))
    if not numbers or numbers[-1][0] != str(number):
        return None
    place = start = 0
    while start + len(positions[place][0]) <= numbers[-1].start():
        start += len(positions[place][0])
        place += 1
    token, candidates = positions[place]
    if len(candidates) < 2:
        return None  # not a distribution: its mean would be the number itself and pass for more than that
    if not all(_are_probabilities(position) for position in positions[place : place + 2]):
        return None
    lead = token[: numbers[-1].start() - start].strip()  # a token may be ">7"
    mass, one = defaultdict[int, float](float), 0.0
    for candidate, probability in candidates:
        text = candidate.strip()
        rest = text.removeprefix(lead).lstrip() if text.startswith(lead) else ""
        if rest == "1":
            one += probability
        elif match := re.match(r"(10|[1-9])(?![0-9])", rest):
            mass[int(match[1])] += probability
    if one:
        share = _share_of_ten(mass, number, token.strip().removeprefix(lead).lstrip() == "1", positions[place + 1 :])
        mass[1] += one * (1 - share)
        mass[10] += one * share
    total = sum(mass.values())
    if not total > 0:
        return None
    # Rounding takes the mean of nothing but 10 above it, and a score above 10 would be no answer.
    return min(max(sum(answer * probability for answer, probability in mass.items()) / total, 1.0), 10.0)


def _are_probabilities(position: Position) -> bool:
    probabilities = [probability for _, probability in position[1]]
    return all(probability >= 0 for probability in probabilities) and sum(probabilities) <= 1 + _ROUNDING


def _share_of_ten(mass: dict[int, float], number: int, wrote_one: bool, later: Sequence[Position]) -> float:
    """Return the share of the candidate "1" that means 10."""
    if wrote_one:
        following = later[0][1] if later else []
        zero = sum(probability for candidate, probability in following if candidate.startswith("0"))
        end = sum(probability for candidate, probability in following if not candidate[:1].isdigit())
        return zero / (zero + end) if zero + end else float(number == 10)
    total = sum(mass.values())
    if 10 in mass or not total:
        return 0.0
    return float(sum(answer * probability for answer, probability in mass.items()) / total > 5.5)
