"""Scorer: what a judge must be able to do. Plain Python and tensors, no Lightning."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from llmhd_pl.llm.accounting import Budget, Usage

Preference = str | list[int]
"""What a scorer knows about a user's taste (P_u in docs/paper.md): a text if a language model wrote it, or the list of
items whose vectors are averaged. It is plain Python, so that checkpoints can hold it, and it means something only to
the scorer that made it."""


class Scorer(ABC):
    """Judges how well an item fits a user, based on what the item *is* (docs/paper.md, sections 3 and 4).

    Inherit from it to write a scorer of your own; its class name is then understood on the command line. Call
    ``prepare`` first, then ``summarize``, then ``score`` and ``revise`` as often as needed. Users and items are
    numbered as in the data module. A missing answer is never an error: ``summarize`` and ``revise`` leave the user
    out, and ``score`` returns NaN. What has no answer is asked again when it is needed next, in the next epoch at the
    earliest; a scorer that pays for answers it cannot use should remember what it has asked.
    """

    learns: bool = True
    """Whether ``prepare`` learns from the interactions, so that a pair that was among them is judged otherwise than one
    that was not. An audit then judges each interaction after learning from those of other users only."""
    leaves_out: bool = False
    """Whether ``score`` leaves the judged item out of a preference that was formed from it too."""
    usage: Usage | None = None
    """Calls and tokens so far. None means that asking this scorer costs nothing."""
    budget: Budget | None = None
    """The limit on ``usage``. None means that the scorer knows no limit."""
    refused: str = ""
    """The last answer that did not have the form that was asked for, for error messages; empty if there was none."""
    fault: str = ""
    """What last kept an answer from coming, such as a server that was down; empty if nothing did. Whoever asks may
    empty it before, to learn of what happens then."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Callbacks that are copied share their scorer: a model of gigabytes, its cache and its budget.
        return self

    @abstractmethod
    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        """Take in the catalog and the interactions to learn from. Call it before anything else.

        Args:
            items: The text fields of every item (``Interactions.items``); empty for an item without any text.
            pairs: The noisy training interactions (user, item), int64 [n, 2]. Never validation or test interactions.
        """

    @abstractmethod
    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        """Form a preference from the items of each user (T_sum).

        Args:
            histories: The items of each user.

        Returns:
            The preference of each user; users without an answer are left out.
        """

    @abstractmethod
    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        """Judge pairs of users and items (T_score).

        Args:
            preferences: The preferences, at least of those users in ``pairs`` who are to get an answer.
            pairs: The pairs (user, item) in any order, int64 [n, 2]; a pair may occur twice.

        Returns:
            float32 [n], from 1 (does not fit) to 10 (fits). NaN where there is no answer: for a user without a
            preference, an item without text, or after the budget is used up.
        """

    @abstractmethod
    def revise(
        self,
        preferences: Mapping[int, Preference],
        disliked: Mapping[int, Sequence[int]],
        liked: Mapping[int, Sequence[int]],
    ) -> dict[int, Preference]:
        """Correct preferences: first by what users turned out to dislike (T_FP), then by what they like (T_FN).

        Args:
            preferences: The current preferences; not changed.
            disliked: For each user, items that turned out not to be to their taste.
            liked: For each user, items that turned out to be to their taste.

        Returns:
            The new preference of each user in ``disliked`` or ``liked``, ready for ``preferences.update``. Users
            without a preference or without an answer are left out.
        """


def check_scorer(scorer: object) -> None:
    """Check that an object can judge.

    Args:
        scorer: What was given as the judge.

    Raises:
        TypeError: If it is not a scorer's object, or if it lacks what ``Scorer`` declares.
    """
    if isinstance(scorer, type) or not hasattr(scorer, "prepare"):
        raise TypeError(
            f"scorer is {scorer!r}; it must be a scorer's object, such as EncoderScorer(). For one of your own, "
            "inherit from llmhd_pl.Scorer: docs/extending.md has a short one."
        )
    missing = [name for name in ("usage", "budget", "refused") if not hasattr(scorer, name)]
    if missing:
        raise TypeError(
            f"{type(scorer).__name__} lacks {', '.join(missing)}: let it inherit from llmhd_pl.Scorer, which has them."
        )


def identity(scorer: object) -> str:
    """Return what tells a judge from others: its class, and its ``fingerprint`` and calibration where it has them."""
    known = (f"{name} {getattr(scorer, name)}" for name in ("fingerprint", "calibrate") if hasattr(scorer, name))
    return " | ".join([type(scorer).__name__, *known])


def check_scores(scorer: object, scores: object, pairs: Tensor) -> Tensor:
    """Check what a judge has said, where it comes in: a number that is no score would be taken for one.

    Args:
        scorer: The judge, for error messages.
        scores: What its ``score`` returned.
        pairs: The pairs that it was asked about, int64 [n, 2].

    Returns:
        The scores, float32 [n], without their history of gradients.

    Raises:
        TypeError: If they are not a float32 tensor.
        ValueError: If they are not one for each pair, on the device of the pairs, from 1 to 10 or NaN.
    """
    name = f"{type(scorer).__name__}.score"
    if not isinstance(scores, Tensor) or scores.dtype != torch.float32:
        what = f"a tensor of {scores.dtype}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise TypeError(f"{name} must return a float32 tensor, with NaN for no answer; it returned {what}.")
    if scores.shape != (len(pairs),) or scores.device != pairs.device:
        raise ValueError(
            f"{name} must return one score for each of {len(pairs)} pairs, of shape [{len(pairs)}] on {pairs.device}; "
            f"it returned shape {list(scores.shape)} on {scores.device}."
        )
    wrong = ~(scores.isnan() | ((scores >= 1) & (scores <= 10)))
    if wrong.any():
        first = int(wrong.nonzero()[0])
        user, item = pairs[first].tolist()
        raise ValueError(
            f"{name} must return scores from 1 (does not fit) to 10 (fits), or NaN for no answer; {int(wrong.sum())} "
            f"of {len(pairs)} are outside, first {float(scores[first])} for user {user} and item {item}."
        )
    return scores.detach()
