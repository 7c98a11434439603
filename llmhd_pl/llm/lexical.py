"""LexicalScorer: judges by the words that item texts share. It needs no model."""

from collections.abc import Iterable
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
            ValueError: If no text has a word.
        """
        if not has_words(texts):
            raise ValueError(
                f"None of the {len(texts)} item texts has a word, such as {texts[0][:40]!r}, and LexicalScorer judges "
                "by words. Give items with texts (docs/data.md), or take another scorer."
            )
        return sp.csr_array(vectorizer(self.max_features).fit_transform(texts))


def has_words(texts: Iterable[str]) -> bool:
    """Return whether any text has a word, without which ``vectorizer`` has nothing to count.

    Args:
        texts: The texts.
    """
    return any(character.isalnum() or character == "_" for text in texts for character in text)


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
