"""CascadeScorer: a cheap judge for all pairs, and a language model for those that it is unsure about."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from llmhd_pl.llm.item_lists import items_of
from llmhd_pl.llm.language_model import LanguageModelScorer
from llmhd_pl.llm.scorer import Preference, Scorer, check_scorer, check_scores, identity
from llmhd_pl.scale import FITTING


class CascadeScorer(Scorer):
    """Two judges, one decision: the first scores everything, and the second is asked where the first is unsure.

    Of the pairs that are scored together, the second is asked about the ``share`` whose first score is nearest to
    ``cut``, where another opinion is most likely to change the decision. The two opinions are taken for independent:
    with the scores ``1 + 9 p`` and ``1 + 9 q``, the log-odds of p and q add up. So both must be calibrated, with 5.5
    saying "as likely as not". Where only one of the two has an answer, it decides alone; where the first has none, the
    second is not asked.

    A preference is that of the first judge, which must be a list of items. The second summarises that list whenever it
    is asked about the user, so after a revision it forms its preference anew.

    Args:
        first: The judge of all pairs: ``EncoderScorer``, ``LexicalScorer`` or another ``VectorScorer``.
        second: The judge of the pairs that the first is unsure about, such as ``QuantizedLLM``.
        share: The share of the pairs that the second is asked about, 0 to 1.
        cut: The score at which decisions change, 1 to 10. 5.5 is that of the rule ``consistent``. The rule ``joint``
            drops a fixed share of the samples, so its cut lies about where that share of the scores is below.

    Raises:
        TypeError: If one of the two is no scorer, or if preferences of the first are no lists of items; the latter is
            raised by ``summarize``.
        ValueError: If ``share`` or ``cut`` is out of range, or the second judge's scores are not calibrated.
    """

    def __init__(self, first: Scorer, second: Scorer, share: float = 0.1, cut: float = FITTING) -> None:
        check_scorer(first)
        check_scorer(second)
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}; it must be 0 to 1.")
        if not 1 <= cut <= 10:
            raise ValueError(f"cut is {cut}; it must be 1 to 10.")
        if isinstance(second, LanguageModelScorer) and not second.calibrate:
            raise ValueError(
                "The scores of two judges are added up, so both must be calibrated: set calibrate to true."
            )
        self.first, self.second, self.share, self.cut = first, second, share, cut
        self.usage, self.budget = second.usage, second.budget
        self.learns = first.learns or second.learns
        self.leaves_out = first.leaves_out and second.leaves_out

    @property
    def fingerprint(self) -> str:
        """Both judges, and how they share the pairs."""
        return f"{identity(self.first)}, {identity(self.second)}, share {self.share}, cut {self.cut}"

    @property
    def refused(self) -> str:  # type: ignore[override]
        """The last answer of the second judge that did not have the form that was asked for."""
        return self.second.refused

    @property
    def fault(self) -> str:
        """What last kept an answer of the second judge from coming."""
        return self.second.fault

    @fault.setter
    def fault(self, fault: str) -> None:
        self.second.fault = fault

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        """Let both judges take in the catalog and the interactions.

        Args:
            items: The text fields of every item.
            pairs: The noisy training interactions, int64 [n, 2].
        """
        self.first.prepare(items, pairs)
        self.second.prepare(items, pairs)

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        """Form the preferences of the first judge; the second is not asked yet.

        Args:
            histories: The items of each user.

        Returns:
            The list of items of each user.
        """
        preferences = self.first.summarize(histories)
        if any(isinstance(preference, str) for preference in preferences.values()):
            raise TypeError(
                f"The preferences of {type(self.first).__name__} are texts. The first judge must be one whose "
                "preferences are lists of items, such as EncoderScorer."
            )
        return preferences

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        """Judge pairs by the first judge, and those nearest to the cut by both.

        Args:
            preferences: The items of each user.
            pairs: The pairs (user, item), int64 [n, 2].

        Returns:
            float32 [n], 1 to 10, on the device of ``pairs``; NaN where the first judge has no answer.
        """
        scores = check_scores(self.first, self.first.score(preferences, pairs), pairs)
        unique, place = torch.unique(pairs.cpu(), dim=0, return_inverse=True)
        of_unique = torch.empty(len(unique)).index_copy_(0, place, scores.cpu())
        answered = (~of_unique.isnan()).nonzero().flatten()
        distance = (of_unique[answered] - self.cut).abs()
        asked = answered[distance.argsort(stable=True)[: round(self.share * len(answered))]].sort().values
        if len(asked):
            opinions = self._second_opinions(preferences, unique[asked])
            both = (_log_odds(of_unique[asked]) + _log_odds(opinions)).sigmoid() * 9 + 1
            of_unique[asked] = both.where(~opinions.isnan(), of_unique[asked])
        return of_unique[place].to(pairs.device)

    def _second_opinions(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        histories = {user: items_of(preferences, user) for user in pairs[:, 0].unique().tolist()}
        return check_scores(self.second, self.second.score(self.second.summarize(histories), pairs), pairs)

    def revise(
        self,
        preferences: Mapping[int, Preference],
        disliked: Mapping[int, Sequence[int]],
        liked: Mapping[int, Sequence[int]],
    ) -> dict[int, Preference]:
        """Revise the preferences of the first judge.

        Args:
            preferences: The items of each user; not changed.
            disliked: The items to remove.
            liked: The items to add.

        Returns:
            The new preferences.
        """
        return self.first.revise(preferences, disliked, liked)


def _log_odds(scores: Tensor) -> Tensor:
    # The ends of the scale are as far away as a float32 score can say.
    return torch.logit(((scores - 1) / 9).double(), eps=1e-7).float()
