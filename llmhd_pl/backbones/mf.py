"""Matrix factorisation."""

from torch import Tensor

from llmhd_pl.backbones.base import EmbeddingBackbone


class MF(EmbeddingBackbone):
    """Matrix factorisation: the free embeddings are the final ones (Koren et al., 2009; with BPR, Rendle et al., 2009).

    Arguments are those of ``EmbeddingBackbone``.
    """

    def final_embeddings(self) -> Tensor:
        """The table itself: [users + items, d]."""
        return self.embedding.weight
