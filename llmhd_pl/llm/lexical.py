"""LexicalScorer: judges by the words that item texts share. It needs no model."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from llmhd_pl.llm.vectors import Vectors, VectorScorer


class LexicalScorer(VectorScorer):
    """A ``Scorer`` on TF-IDF vectors (scikit-learn) of words and pairs of words.

    Args:
        max_features: The size of the vocabulary; the rarest words are left out.
        seed: The seed of the random pairs that the logistic curve is fitted on.
    """

    learns = False  # only the curve, which rises and so changes no order

    def __init__(self, max_features: int = 100_000, seed: int = 0) -> None:
        super().__init__(seed)
        self.max_features = max_features

    def vectorize(self, texts: list[str], pairs: np.ndarray) -> Vectors:
        """Return the TF-IDF vectors of the texts; the interactions are not used.

        Args:
            texts: The profiles of all items that have text.
            pairs: The training interactions; not used.

        Returns:
            A sparse matrix, [len(texts), words and pairs of words].

        Raises:
            ValueError: If no text holds a word.
        """
        vectors = tf_idf(texts, self.max_features)
        if vectors.nnz == 0:
            raise ValueError(
                f"None of the {len(texts)} items with text has a letter or a digit in it (the first is {texts[0]!r}), "
                "so LexicalScorer has no words to judge by. Give the items other text fields, or take another scorer."
            )
        return vectors


def tf_idf(texts: Sequence[str], max_features: int) -> sp.csr_array:
    """Return TF-IDF vectors of words and pairs of words.

    Args:
        texts: The texts.
        max_features: The size of the vocabulary; the rarest words are left out.

    Returns:
        A sparse matrix, [len(texts), words and pairs of words], whose rows have length 1, or 0 without a word.
    """
    if not any(re.search(r"\w", text) for text in texts):
        return sp.csr_array((len(texts), 1))
    return sp.csr_array(vectorizer(max_features).fit_transform(texts))


def vectorizer(max_features: int) -> Any:
    """Return a TF-IDF vectorizer of words and pairs of words, whose rows have length 1.

    Args:
        max_features: The size of the vocabulary.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]  # takes a second

    # Every run of letters or digits is a word, because a title may be "5th" or "A"; field separators are none.
    return TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=max_features, token_pattern=r"(?u)\b\w+\b"
    )
