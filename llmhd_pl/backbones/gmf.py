"""Generalised matrix factorisation."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llmhd_pl.backbones.base import EmbeddingBackbone, Objective


class GMF(EmbeddingBackbone):
    """GMF (He et al., WWW 2017, section 3.2): a dot product in which each dimension has a learned weight.

    ``y = h (p_u * q_i) + b`` (equation 9; the logit, and with the bias of the authors' code).

    Args:
        num_users: number of users.
        num_items: number of items.
        embedding_dim: length of an embedding.
        objective: see ``Backbone``, as for all that follow; the paper's is pointwise.
        learning_rate: of Adam.
        l2: weight of the L2 term.
        ks: lengths of the rankings.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        embedding_dim: int = 64,
        objective: Objective = "bce",
        learning_rate: float = 1e-3,
        l2: float = 0.0,
        ks: Sequence[int] = (5, 10, 20),
    ) -> None:
        super().__init__(num_users, num_items, embedding_dim, objective, learning_rate, l2, ks)
        torch.nn.init.normal_(self.embedding.weight, std=0.01)
        self.output = torch.nn.Linear(embedding_dim, 1)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits of (user, item) pairs, both int64 [n]: float32 [n]."""
        pairs = F.embedding(torch.cat([users, items + self.num_users]), self.embedding.weight)
        user, item = pairs.chunk(2)
        return (user * item * self.output.weight).sum(dim=1) + self.output.bias

    def rank(self, users: Tensor) -> Tensor:
        """Logits of all items: float32 [n, items]."""
        return super().rank(users) + self.output.bias

    def final_embeddings(self) -> Tensor:
        """The table, with the users' half weighted by h: [users + items, d]."""
        user, item = self.embedding.weight.split([self.num_users, self.num_items])
        return torch.cat([user * self.output.weight, item])
