"""Whether a scorer contradicts itself: two items whose texts are alike should fit a user alike."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from llmhd_pl.llm.lexical import vectorizer
from llmhd_pl.llm.prompts import item_profile

SIMILAR = 0.5
"""TF-IDF cosine from which two texts are alike: half of what they say."""
_LAGS = 5  # of a user's items, those that stand so near each other in the list are compared
_MOST = 20_000  # pairs looked at in one call: more would say nothing new


class SimilarItems:
    """Finds items with similar texts among those that a scorer has judged for the same user.

    Args:
        items: the text fields of every item.
    """

    def __init__(self, items: Sequence[Mapping[str, str]]) -> None:
        self._rows = vectorizer(100_000).fit_transform([item_profile(fields) for fields in items])

    def agreement(self, users: Tensor, items: Tensor, scores: Tensor, threshold: float) -> tuple[int, int]:
        """Count pairs of similar items of one user, and those of them whose scores lie on the same side.

        Args:
            users: int64 [n].
            items: int64 [n].
            scores: [n]; NaN is no answer.
            threshold: where the sides meet.

        Returns:
            Pairs on the same side, and all pairs.
        """
        answered = (~scores.isnan()).nonzero().flatten()
        order = answered[users[answered].argsort(stable=True)]
        users, items, fits = users[order], items[order], scores[order] >= threshold
        first, second = torch.cat([_pairs(users, lag) for lag in range(1, _LAGS + 1)], dim=1)
        if len(first) > _MOST:  # evenly over the users
            kept = torch.linspace(0, len(first) - 1, _MOST).long()
            first, second = first[kept], second[kept]
        rows = self._rows
        cosine = np.asarray(rows[items[first].numpy()].multiply(rows[items[second].numpy()]).sum(axis=1)).ravel()
        similar = torch.from_numpy(cosine >= SIMILAR)
        return int((fits[first] == fits[second])[similar].sum()), int(similar.sum())


def _pairs(users: Tensor, lag: int) -> Tensor:
    """Places in a list sorted by user that are ``lag`` apart and of one user: int64 [2, m]."""
    first = (users[lag:] == users[:-lag]).nonzero().flatten()
    return torch.stack([first, first + lag])
