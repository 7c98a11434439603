"""VectorScorer: judges an item by its similarity to the mean of the user's other items."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from llmhd_pl.llm.calibration import Curve, fit_curve, scores_on
from llmhd_pl.llm.item_lists import as_lists, items_of, revised_lists
from llmhd_pl.llm.prompts import NO_TEXT, item_profile
from llmhd_pl.llm.scorer import Preference, Scorer

Vectors = np.ndarray | sp.csr_array
CHUNK = 16384
"""Pairs that are compared at once: 25 MB for vectors of 384 float32 numbers."""


class VectorScorer(Scorer):
    """A ``Scorer`` whose preferences are lists of items. Children implement ``vectorize``: how texts become vectors.

    The similarity of a user and an item is the cosine between the item's vector and the mean of the vectors in the
    user's preference, *leaving the judged item out*: a preference that contains the judged item would flatter it. A
    logistic curve, fitted on the observed pairs and one random pair for each, turns the similarity into a probability
    p, and the score is ``1 + 9 p``: 5.5 says "as likely observed as drawn at random". Users without any other item and
    items without text get NaN.

    Args:
        seed: The seed of the random pairs and of whatever a child draws.

    Attributes:
        item_vectors: The vectors of the items that have text, [items with text, d]; set by ``prepare``.
        curve: Intercept and slope of the logistic curve; set by ``prepare``.
    """

    leaves_out = True
    item_vectors: Vectors
    curve: Curve

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @abstractmethod
    def vectorize(self, texts: list[str], pairs: np.ndarray) -> Vectors:
        """Turn items into vectors. Children implement this.

        Args:
            texts: The profiles of all items that have text.
            pairs: The training interactions, int64 [n, 2], with items numbered as in ``texts``.

        Returns:
            One row for each text, [len(texts), d].
        """

    def cosine(self, sums: Vectors, rows: np.ndarray, items: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Compare items with preferences from which they are left out. Children may override this.

        A sum of vectors serves as well as their mean, because the cosine ignores the length.

        Args:
            sums: The sum of the vectors in each preference, [users, d].
            rows: The row of ``sums`` for each pair, int64 [n].
            items: The row of ``item_vectors`` for each pair, int64 [n].
            inside: Whether the item is part of the sum, bool [n].

        Returns:
            float [n]; NaN where there is nothing to compare.
        """
        vectors = self.item_vectors
        # With the sum s and the vector v: (s - v) v = s v - v v and |s - v|^2 = s s - 2 s v + v v. This takes one
        # product over n rows, where a sparse s - v would take three and a difference.
        sv = (sums[rows] * vectors[items]).sum(axis=1)
        ss = (sums * sums).sum(axis=1)[rows]
        vv = self._squares[items]
        norms = np.sqrt(np.maximum(ss - inside * (2 * sv - vv), 0) * vv)
        # A text without a single word, such as "!!!", has the zero vector, which resembles nothing.
        cosine = np.full(len(norms), np.nan)
        np.divide(sv - inside * vv, norms, out=cosine, where=norms > 1e-12)
        return cosine

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        """Compute the vectors and fit the logistic curve.

        Args:
            items: The text fields of each item.
            pairs: The noisy training interactions (user, item), int64 [n, 2].

        Raises:
            ValueError: If no item has text, a pair names an item that does not exist, there are too few interactions
                to fit the curve, or the vectors are not one row of finite floating point numbers for each text.
        """
        observed = pairs.cpu().numpy()
        _check_range(observed[:, 1], len(items))
        profiles = [item_profile(fields) for fields in items]
        has_text = np.array([profile != NO_TEXT for profile in profiles], dtype=bool)
        if not has_text.any():
            raise ValueError(
                f"None of the {len(items)} items has text, so there is nothing to judge by. Put an items.jsonl or an "
                ".item file beside the interactions (docs/data.md)."
            )
        # From here on, items without text do not exist: their row is -1.
        self._row = np.where(has_text, has_text.cumsum() - 1, -1)
        observed = np.stack([observed[:, 0], self._row[observed[:, 1]]], axis=1)
        observed = np.unique(observed[observed[:, 1] >= 0], axis=0)
        texts = [profile for profile in profiles if profile != NO_TEXT]
        self.item_vectors = self.vectorize(texts, observed)
        self._squares = self._checked_squares(texts)
        self._calibrate(observed)

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        """Return the list of each user's items as their preference; nothing is computed yet.

        Args:
            histories: The items of each user.

        Returns:
            The items of each user, without repetitions.
        """
        return as_lists(histories)

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        """Judge pairs of users and items.

        Args:
            preferences: The items of each user.
            pairs: The pairs (user, item), int64 [n, 2].

        Returns:
            float32 [n], 1 to 10, on the device of ``pairs``. NaN for an item without text and for a user who has no
            *other* item with text.

        Raises:
            ValueError: If an item does not exist.
            TypeError: If a preference was made by another scorer.
            RuntimeError: If ``prepare`` was not called.
        """
        if not hasattr(self, "curve"):
            raise RuntimeError(f"Call {type(self).__name__}.prepare(items, pairs) before score().")
        users, items = pairs.cpu().numpy().T
        _check_range(items, len(self._row))
        asked = np.unique(users).tolist()
        histories = [items_of(preferences, user) for user in asked]
        sizes = np.fromiter(map(len, histories), np.int64, len(histories))
        listed = np.fromiter(chain.from_iterable(histories), np.int64, int(sizes.sum()))
        _check_range(listed, len(self._row))
        history = np.stack([np.repeat(np.array(asked, dtype=np.int64), sizes), self._row[listed]], axis=1)
        similarity = self.similarity(history[history[:, 1] >= 0], users, self._row[items])
        return torch.from_numpy(scores_on(self.curve, similarity)).float().to(pairs.device)

    def revise(
        self,
        preferences: Mapping[int, Preference],
        disliked: Mapping[int, Sequence[int]],
        liked: Mapping[int, Sequence[int]],
    ) -> dict[int, Preference]:
        """Remove the disliked items, then add the liked ones.

        Args:
            preferences: The items of each user; not changed.
            disliked: The items to remove; those that are not in the preference are ignored.
            liked: The items to add; those that are already in the preference are ignored.

        Returns:
            The new preferences of the users in ``disliked`` or ``liked`` who had one.

        Raises:
            TypeError: If a preference was made by another scorer.
        """
        return revised_lists(preferences, disliked, liked)

    def similarity(self, history: np.ndarray, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the cosine of each pair, with the judged item left out of the preference.

        Args:
            history: The items that the preferences consist of, int64 [m, 2] (user, row of ``item_vectors``).
            users: The user of each pair, int64 [n].
            items: The row of ``item_vectors`` of each pair, int64 [n]; -1 for an item without text.

        Returns:
            float64 [n]; NaN where there is no answer.
        """
        num_rows = self.item_vectors.shape[0]
        asked, user_rows = np.unique(users, return_inverse=True)
        place = np.searchsorted(asked, history[:, 0]).clip(max=len(asked) - 1)
        of_asked = asked[place] == history[:, 0]
        # Sorted, without repetitions.
        keys = np.unique(place[of_asked] * num_rows + history[of_asked, 1])
        membership = sp.csr_array(
            (np.ones(len(keys), self.item_vectors.dtype), np.divmod(keys, num_rows)), (len(asked), num_rows)
        )
        inside = np.isin(user_rows * num_rows + items, keys) & (items >= 0)
        others = np.diff(membership.indptr)[user_rows] - inside
        similarity = np.full(len(users), np.nan)
        # Sorted by user, so that a chunk needs the sums of only a few users.
        answerable = np.flatnonzero((others > 0) & (items >= 0))
        answerable = answerable[user_rows[answerable].argsort(kind="stable")]
        for start in range(0, len(answerable), CHUNK):
            chunk = answerable[start : start + CHUNK]
            first, last = user_rows[chunk[[0, -1]]]
            sums = membership[first : last + 1] @ self.item_vectors
            cosine = self.cosine(sums, user_rows[chunk] - first, items[chunk], inside[chunk])
            if np.shape(cosine) != chunk.shape or np.isinf(cosine).any():
                raise ValueError(
                    f"{type(self).__name__}.cosine must return one number for each of {len(chunk)} pairs, NaN where "
                    f"there is none; it returned shape {np.shape(cosine)} with {np.isinf(cosine).sum()} infinite ones."
                )
            similarity[chunk] = cosine
        return similarity

    def _checked_squares(self, texts: Sequence[str]) -> np.ndarray:
        """Return the squared lengths of the vectors, [len(texts)], after a check that they can be compared."""
        vectors, name = self.item_vectors, type(self).__name__
        if vectors.ndim != 2 or vectors.shape[0] != len(texts) or not np.issubdtype(vectors.dtype, np.floating):
            raise ValueError(
                f"{name}.vectorize must return one row of floating point numbers for each of {len(texts)} texts; it "
                f"returned {vectors.dtype} {list(vectors.shape)}."
            )
        with np.errstate(over="ignore", invalid="ignore"):
            squares: np.ndarray = (vectors * vectors).sum(axis=1)
        wrong = np.flatnonzero(~np.isfinite(squares))
        if len(wrong):
            raise ValueError(
                f"{name}: the vectors of {len(wrong)} of {len(texts)} texts are not finite or too long for "
                f"{vectors.dtype}, first that of {texts[wrong[0]][:200]!r}, so nothing can be compared with them. Take "
                "another model, and delete what cache_dir holds of this one, if there is one."
            )
        return squares

    def _calibrate(self, observed: np.ndarray) -> None:
        """Fit the curve on the observed pairs and one random pair for each."""
        rng = np.random.default_rng([self.seed, 0xCA11])
        users, items = observed.T
        num_rows = self.item_vectors.shape[0]
        drawn = rng.integers(num_rows, size=len(users))
        free = ~np.isin(users * num_rows + drawn, users * num_rows + items)
        similarity = self.similarity(observed, np.r_[users, users[free]], np.r_[items, drawn[free]])
        label = np.repeat([True, False], [len(users), free.sum()])
        self.curve = fit_curve(similarity, label, f"{type(self).__name__}: the text of the items")


def _check_range(items: np.ndarray, num_items: int) -> None:
    outside = (items < 0) | (items >= num_items)
    if outside.any():
        raise ValueError(
            f"Item {items[outside.argmax()]} does not exist: the items that were given are numbered 0 to "
            f"{num_items - 1}."
        )
