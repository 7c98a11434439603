"""Scorer: what a judge must be able to do. Plain Python and tensors, no Lightning."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

Preference = str | list[int]
"""What a scorer knows of a user's taste (PAPER.md: P_u): a text, if a language model wrote it, or the items it is
made from, if they are averaged. Plain Python, so that checkpoints can hold it. It means something only to the scorer
that made it."""


class Scorer(Protocol):
    """Judges how well an item fits a user, from what the item *is* (PAPER.md, sections 3 and 4).

    The order of calls is ``prepare``, ``summarize``, then ``score`` and ``revise`` as often as needed. Users and items
    are numbered as in the data module. No answer is never an error: ``summarize`` and ``revise`` leave the user out,
    ``score`` says NaN.
    """

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        """Take in the catalog and the interactions to learn from; to be called before anything else.

        Args:
            items: the text fields of every item (``Interactions.items``); no field where nothing is known.
            pairs: int64 [n, 2], the noisy training interactions (user, item). Never valid or test.
        """

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        """Form a preference from the items of each user (T_sum).

        Args:
            histories: the items of each user.

        Returns:
            The preference of each user; users without an answer are left out.
        """

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        """Judge pairs (T_score).

        Args:
            preferences: at least of the users in ``pairs`` that are to get an answer.
            pairs: int64 [n, 2], (user, item), in any order; a pair may occur twice.

        Returns:
            float32 [n], from 1 (does not fit) to 10 (fits); NaN where there is no answer: a user without a preference,
            an item without text, a budget that is spent.
        """

    def revise(
        self,
        preferences: Mapping[int, Preference],
        disliked: Mapping[int, Sequence[int]],
        liked: Mapping[int, Sequence[int]],
    ) -> dict[int, Preference]:
        """Correct preferences: first by what users turned out to dislike (T_FP), then by what they like (T_FN).

        Args:
            preferences: as they are; not changed.
            disliked: items that are not to the user's taste.
            liked: items that are.

        Returns:
            The new preference of each user in ``disliked`` or ``liked`` (``preferences.update`` takes them over);
            users without a preference or without an answer are left out.
        """

    @property
    def fingerprint(self) -> str:
        """Who answers: model, revision, quantisation, prompts, decoding. It does not change after construction.

        What ``prepare`` took in is not part of it; who keeps answers that depend on that adds its own hash.
        """
