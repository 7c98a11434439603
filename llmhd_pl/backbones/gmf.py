"""Generalised matrix factorisation."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llmhd_pl.backbones.base import Negatives, Objective
from llmhd_pl.backbones.embedding_backbone import EmbeddingBackbone


class GMF(EmbeddingBackbone):
    """GMF (He et al., WWW 2017, section 3.2): a dot product in which each dimension has a learned weight.

    The prediction is the logit ``y = h (p_u * q_i) + b``: equation 9 without the sigmoid, and with the bias b of the
    authors' code.

    Args:
        num_users: The number of users.
        num_items: The number of items.
        embedding_dim: The length of an embedding.
        objective: The loss, "bpr", "bce" or "softmax"; see ``Backbone``. The paper uses the pointwise one, "bce".
        learning_rate: The learning rate of Adam.
        l2: The weight of the L2 term; see ``Backbone``.
        ks: The cutoffs of the metrics.
        softmax_temperature: The temperature of "softmax"; see ``Backbone``.
        negatives: The items that an observed one is compared with; see ``Backbone``.

    Raises:
        ValueError: If an argument is not valid; see ``Backbone``.
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
        softmax_temperature: float = 0.15,
        negatives: Negatives | None = None,
    ) -> None:
        super().__init__(
            num_users, num_items, embedding_dim, objective, learning_rate, l2, ks, "dot", softmax_temperature, negatives
        )
        torch.nn.init.normal_(self.embedding.weight, std=0.01)
        self.output = torch.nn.Linear(embedding_dim, 1)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits of (user, item) pairs, both int64 [n]: float32 [n]."""
        pairs = F.embedding(torch.cat([users, items + self.num_users]), self.embedding.weight)
        user, item = pairs.chunk(2)
        return (user * item * self.output.weight).sum(dim=1) + self.output.bias

    def score_against(self, users: Tensor, items: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of users with their own and with shared items; see ``EmbeddingBackbone``."""
        own, against = super().score_against(users, items, shared)
        return own + self.output.bias, against + self.output.bias

    def rank(self, users: Tensor, items: slice = slice(None)) -> Tensor:
        """Return the logits of all items, or of some, for users, int64 [n]: float32 [n, items]."""
        return super().rank(users, items) + self.output.bias

    def final_embeddings(self) -> Tensor:
        """Return the table, with the users' half multiplied by h: [users + items, d]."""
        user, item = self.embedding.weight.split([self.num_users, self.num_items])
        return torch.cat([user * self.output.weight, item])
