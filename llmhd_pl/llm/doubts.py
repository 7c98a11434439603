"""Signs that a scorer cannot be trusted, as messages for the user; None where there is no reason to doubt it."""

import textwrap
from collections.abc import Sequence

FEW = 20
"""A share of fewer answers than this says nothing yet."""


def contradiction(agreed: int, compared: int, what: str) -> str | None:
    """Return a message if a scorer contradicts itself in more than three of ten comparisons.

    Args:
        agreed: Comparisons in which it agreed with itself.
        compared: All comparisons.
        what: What was compared, with places for the contradictions and for all comparisons.
    """
    if compared < FEW or agreed >= 0.7 * compared:
        return None
    return (
        f"the scorer contradicts itself: {what.format(compared - agreed, compared)}. A larger model, or prompts with "
        "more of the items' text, may be steadier."
    )


def one_sidedness(found: int, answered: int, what: str) -> str | None:
    """Return a message if nearly all answers, or nearly none, say the same, so that they cannot tell samples apart.

    Args:
        found: Suspicious samples of which the answer says ``what``.
        answered: All suspicious samples with an answer.
        what: What the scorer says of them, such as "were judged hard".
    """
    if answered < FEW or 0.02 < (share := found / answered) < 0.98:
        return None
    return (
        f"{share:.0%} of the suspicious items that the scorer answered {what}: unless nearly all of them are "
        f"{'right' if share > 0.5 else 'noise'}, it does not tell them apart. "
        "Look at the scores in the log (llm/score_1 to llm/score_10) and at preferences.jsonl."
    )


def indifference(levels: Sequence[int]) -> str | None:
    """Return a message if nearly all scores are in the middle, as those of a calibrated judge that knows nothing are.

    Args:
        levels: How many scores were rounded to 1, to 2, and so on to 10.
    """
    answered = sum(levels)
    if answered < FEW or levels[4] + levels[5] < 0.98 * answered:
        return None
    return (
        f"{levels[4] + levels[5]:,} of {answered:,} scores are 5 or 6: the judge does not tell the pairs apart, and "
        "what it says decides all the same. Is the text of item i in place i? llmhd judge shows what a judge can tell."
    )


def silence(asked: int, unanswered: int, refused: str, fault: str = "") -> str | None:
    """Return a message if most pairs got no score, because denoising is then dropping by loss under another name.

    Args:
        asked: Pairs that were asked about.
        unanswered: Pairs among them without a score.
        refused: The last answer that was not of the form that was asked for, or an empty text.
        fault: What last kept an answer from coming, such as a server that was down, or an empty text.
    """
    if asked < FEW or unanswered <= asked / 2:
        return None
    told = f"{unanswered} of {asked} pairs got no score and are left to the loss"
    example = f"; one that is not: {textwrap.shorten(refused, 300, placeholder='...')!r}." if refused else "."
    if fault:
        invalid = f" Some of its answers are not of the form that the prompt asks for{example}" if refused else ""
        return f"{told}. The judge could not be asked ({fault}); those pairs are asked again when needed next.{invalid}"
    return (
        f"{told}. The item has no text, the user no preference, or the judge's answers are not of the form that the "
        f"prompt asks for{example}"
    )


def nothing_scored(asked: int, refused: str) -> str | None:
    """Return a message if a run has asked about pairs, however few, and none was scored.

    Args:
        asked: Pairs that were asked about.
        refused: The last answer that was not of the form that was asked for, or an empty text.
    """
    if not asked:
        return None
    example = f" The last answer was {textwrap.shorten(refused, 300, placeholder='...')!r}." if refused else ""
    return (
        f"none of the {asked} pairs that the judge was asked about got a score, so the loss alone decided.{example} "
        "If preferences.jsonl holds no preferences, the items have no text, or the judge writes no summaries; if it "
        "holds some, the judge writes no scores of the form that the prompt asks for. Take another judge, or drop by "
        "loss alone (the method t-ce)."
    )
