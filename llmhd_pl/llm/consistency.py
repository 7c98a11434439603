"""Whether a scorer contradicts itself: two items whose texts are alike should fit a user alike."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from llmhd_pl.llm.lexical import tf_idf
from llmhd_pl.llm.prompts import item_profile

SIMILAR = 0.5
"""The TF-IDF cosine from which on two texts count as similar: they share half of what they say."""
_LAGS = 5  # only items of a user that are at most so far apart in the list are compared
_MOST = 20_000  # pairs compared in one call, at most: more would not change the picture


class SimilarItems:
    """Finds items with similar texts among those that a scorer has judged for the same user.

    Args:
        items: The text fields of every item.
    """

    def __init__(self, items: Sequence[Mapping[str, str]]) -> None:
        self._rows = tf_idf([item_profile(fields) for fields in items], 100_000)

    def agreement(self, users: Tensor, items: Tensor, scores: Tensor, threshold: float) -> tuple[int, int]:
        """Count pairs of similar items of the same user, and those among them whose scores lie on the same side.

        Args:
            users: The users, int64 [n].
            items: The items, int64 [n].
            scores: The scores of the pairs, [n]; NaN is no answer.
            threshold: The score that separates the two sides.

        Returns:
            The number of pairs on the same side, and the number of all pairs.
        """
        answered = (~scores.isnan()).nonzero().flatten()
        order = answered[users[answered].argsort(stable=True)]
        users, items, fits = users[order], items[order], scores[order] >= threshold
        places = torch.arange(len(users))
        if len(users) > _MOST // _LAGS:  # evenly over the users
            places = torch.linspace(0, len(users) - 1, _MOST // _LAGS).long()
        pairs = [_pairs(users, places[places < len(users) - lag], lag) for lag in range(1, _LAGS + 1)]
        first, second = torch.cat(pairs, dim=1)
        rows = self._rows
        cosine = np.asarray(rows[items[first].numpy()].multiply(rows[items[second].numpy()]).sum(axis=1)).ravel()
        similar = torch.from_numpy(cosine >= SIMILAR)
        return int((fits[first] == fits[second])[similar].sum()), int(similar.sum())


def _pairs(users: Tensor, places: Tensor, lag: int) -> Tensor:
    """Return the places whose user is that of the place ``lag`` further on, and that place, int64 [2, m]."""
    first = places[users[places] == users[places + lag]]
    return torch.stack([first, first + lag])
