"""Neural matrix factorisation."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmhd_pl.backbones.base import Backbone, Objective, dropout, seeded_generator
from llmhd_pl.sample_weights import Batch

# Users and items ranked at once: their pairs' first hidden layer fits a processor's cache, whatever the catalog.
_USERS, _ITEMS = 16, 1024


class NeuMF(Backbone):
    """NeuMF (He et al., WWW 2017, section 3.4): a GMF tower and a perceptron on both embeddings, under one output.

    ``y = h [p_u * q_i, MLP(p'_u, q'_i)] + b`` (equation 12, the logit); the towers have embeddings of their own. It is
    trained from scratch, without the paper's pre-training.

    Args:
        num_users: number of users.
        num_items: number of items.
        embedding_dim: length of an embedding, in either tower.
        hidden_dims: widths of the perceptron's layers.
        dropout: share of each perceptron layer's inputs that is dropped in training.
        seed: seed of the dropout. ``train.py`` links it to ``seed_everything``.
        objective: see ``Backbone``, as for all that follow; the paper's is pointwise.
        learning_rate: of Adam.
        l2: weight of the L2 term.
        ks: lengths of the rankings.

    Raises:
        ValueError: there is no hidden layer.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        embedding_dim: int = 64,
        hidden_dims: Sequence[int] = (128, 64),
        dropout: float = 0.1,
        seed: int = 0,
        objective: Objective = "bce",
        learning_rate: float = 1e-3,
        l2: float = 0.0,
        ks: Sequence[int] = (5, 10, 20),
    ) -> None:
        super().__init__(num_users, num_items, objective, learning_rate, l2, ks)
        if len(hidden_dims) == 0:
            raise ValueError("hidden_dims is empty; the perceptron has at least one layer. Without it NeuMF is GMF.")
        self.dropout, self.seed = dropout, seed
        self.embedding = nn.Embedding(num_users + num_items, embedding_dim)
        self.mlp_embedding = nn.Embedding(num_users + num_items, embedding_dim)
        for table in (self.embedding, self.mlp_embedding):
            nn.init.normal_(table.weight, std=0.01)
        widths = [2 * embedding_dim, *hidden_dims]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.output = nn.Linear(embedding_dim + widths[-1], 1)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits of (user, item) pairs, both int64 [n]; the output layer is float32 under autocast too: [n]."""
        nodes = torch.cat([users, items + self.num_users])
        user, item = F.embedding(nodes, self.embedding.weight).chunk(2)
        x = torch.cat(F.embedding(nodes, self.mlp_embedding.weight).chunk(2), dim=1)
        dropping = self.training and self.dropout > 0
        rank = self.global_rank if dropping else 0  # each rank has samples of its own
        generator = seeded_generator(x.device, "neumf", self.seed, self.global_step, rank) if dropping else None
        for layer in self.hidden:
            x = layer(x if generator is None else dropout(x, self.dropout, generator)).relu()
        return (torch.cat([user * item, x.float()], dim=1) * self.output.weight).sum(dim=1) + self.output.bias

    def rank(self, users: Tensor) -> Tensor:
        """Logits of all items, without dropout, in float32 under autocast too: [n, items].

        The first layer is linear in the user's and the item's half, so each half is multiplied once; the rest goes in
        blocks of users and items, in memory that depends on neither number.
        """
        first, *others = self.hidden
        assert isinstance(first, nn.Linear)
        with torch.autocast(self.device.type, enabled=False):
            mf_weight, mlp_weight = self.output.weight.tensor_split([self.embedding.embedding_dim], dim=1)
            ours, theirs = self.mlp_embedding.weight.split([self.num_users, self.num_items])
            user_half, item_half = first.weight.chunk(2, dim=1)
            ours = F.linear(ours[users], user_half, first.bias)
            theirs = F.linear(theirs, item_half)
            mf = self.embedding.weight
            predictions = torch.mm(mf[users] * mf_weight, mf[self.num_users :].t()) + self.output.bias
            for row, some_users in enumerate(ours.split(_USERS)):
                for column, some_items in enumerate(theirs.split(_ITEMS)):
                    x = (some_users[:, None] + some_items).relu_()
                    for layer in others:
                        x = layer(x).relu_()
                    block = predictions[row * _USERS : (row + 1) * _USERS, column * _ITEMS : (column + 1) * _ITEMS]
                    block += (x @ mlp_weight.t()).squeeze(2)
        return predictions

    def squared_norms(self, batch: Batch) -> Tensor:
        """Squared norms of the embeddings of each sample's user, positive and negative, in both towers: [B]."""
        nodes = torch.cat([batch["user"], batch["positive"] + self.num_users, batch["negative"] + self.num_users])
        norms = [F.embedding(nodes, table.weight).square().sum(dim=1) for table in (self.embedding, self.mlp_embedding)]
        return torch.stack(norms).sum(dim=0).view(3, -1).sum(dim=0)
