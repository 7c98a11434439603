"""LexicalScorer: judges by the words that item texts share. No model; for machines without one."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from llmhd_pl.llm.vectors import Vectors, VectorScorer


class LexicalScorer(VectorScorer):
    """A ``Scorer`` on TF-IDF vectors (scikit-learn) of words and pairs of words.

    Args:
        max_features: size of the vocabulary; the rarest words are left out.
        seed: of the random pairs that the calibration is fitted on.

    Raises:
        ImportError: scikit-learn is not installed; raised by ``prepare``.
    """

    def __init__(self, max_features: int = 100_000, seed: int = 0) -> None:
        super().__init__(seed)
        self.max_features = max_features

    @property
    def fingerprint(self) -> str:
        """The vocabulary follows from the items, so the settings say it all."""
        return f"tf-idf 1 | words and pairs, {self.max_features} features | seed {self.seed}"

    def _vectors(self, texts: list[str], pairs: np.ndarray) -> Vectors:
        return sp.csr_array(vectorizer(self.max_features).fit_transform(texts))


def vectorizer(max_features: int) -> Any:
    """TF-IDF of words and pairs of words, rows of length 1.

    Args:
        max_features: size of the vocabulary.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]  # a second to import

    # Every run of letters or digits is a word: a title may be "5th" or "A", and is never a row of field separators.
    return TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=max_features, token_pattern=r"(?u)\b\w+\b"
    )
