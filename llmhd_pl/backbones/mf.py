"""Matrix factorisation."""

from torch import Tensor

from llmhd_pl.backbones.embedding_backbone import EmbeddingBackbone


class MF(EmbeddingBackbone):
    """Matrix factorisation: the free embeddings are the final ones (Koren et al., 2009; with BPR, Rendle et al., 2009).

    It takes the arguments of ``EmbeddingBackbone``.
    """

    def final_embeddings(self) -> Tensor:
        """Return the table itself: [users + items, d]."""
        return self.embedding.weight
