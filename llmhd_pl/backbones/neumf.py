"""Neural matrix factorisation."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmhd_pl.backbones.base import Backbone, Negatives, Objective
from llmhd_pl.backbones.ranges import check_dropped, check_integers, check_widths
from llmhd_pl.backbones.seeding import dropout_factors, seeded_generator
from llmhd_pl.precision import at_least_float32
from llmhd_pl.sample_weights import Batch

# How many users and items are ranked at once: the first hidden layer of so many pairs fits a processor's cache.
_BLOCK = 16, 1024
_LARGE_BLOCK = 64, 8192  # on another device: 256 MB with hidden layers of 128


class NeuMF(Backbone):
    """NeuMF (He et al., WWW 2017, section 3.4): a GMF tower and a multi-layer perceptron under one output layer.

    The prediction is the logit ``y = h [p_u * q_i, MLP(p'_u, q'_i)] + b`` (equation 12 without the sigmoid). Each tower
    has its own embeddings. The model is trained from scratch, without the paper's pre-training.

    Args:
        num_users: The number of users.
        num_items: The number of items.
        embedding_dim: The length of an embedding, the same in both towers.
        hidden_dims: The widths of the perceptron's layers.
        dropout: The share of the inputs of each perceptron layer that is zeroed in training.
        seed: The seed of the dropout. The command line links it to ``seed_everything``.
        objective: The loss, "bpr", "bce" or "softmax"; see ``Backbone``. The paper uses the pointwise one, "bce".
        learning_rate: The learning rate of Adam.
        l2: The weight of the L2 term, on the embeddings of both towers; see ``Backbone``.
        ks: The cutoffs of the metrics.
        softmax_temperature: The temperature of "softmax"; see ``Backbone``.
        negatives: The items that an observed one is compared with; see ``Backbone``.

    Raises:
        ValueError: If there is no hidden layer, an embedding or a layer has no width, ``dropout`` is not in [0, 1), or
            an argument is not valid; see ``Backbone``.
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
        softmax_temperature: float = 0.15,
        negatives: Negatives | None = None,
    ) -> None:
        super().__init__(num_users, num_items, objective, learning_rate, l2, ks, softmax_temperature, negatives)
        if len(hidden_dims) == 0:
            raise ValueError(
                "hidden_dims is empty; the perceptron needs at least one layer. Use GMF for a model without one."
            )
        check_integers(1, embedding_dim=embedding_dim)
        check_widths(hidden_dims)
        check_dropped(dropout=dropout)
        self.dropout, self.seed = dropout, seed
        self.embedding = nn.Embedding(num_users + num_items, embedding_dim)
        self.mlp_embedding = nn.Embedding(num_users + num_items, embedding_dim)
        for table in (self.embedding, self.mlp_embedding):
            nn.init.normal_(table.weight, std=0.01)
        widths = [2 * embedding_dim, *hidden_dims]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.output = nn.Linear(embedding_dim + widths[-1], 1)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits of (user, item) pairs, both int64 [n]: [n], with an output layer that is always float32."""
        nodes = torch.cat([users, items + self.num_users])
        user, item = F.embedding(nodes, self.embedding.weight).chunk(2)
        x = torch.cat(F.embedding(nodes, self.mlp_embedding.weight).chunk(2), dim=1)
        dropping = self.training and self.dropout > 0
        generator = seeded_generator(x.device, *self._key()) if dropping else None
        for layer in self.hidden:
            if generator is not None:
                x = x * dropout_factors(x.shape, self.dropout, generator, x.device).to(x.dtype)
            x = layer(x).relu()
        return (torch.cat([user * item, x.float()], dim=1) * self.output.weight).sum(dim=1) + self.output.bias

    def _key(self) -> tuple[int | str, ...]:
        """Return what the dropout of a batch depends on: the ranks, and the batches of a step, have other samples."""
        key = ("neumf", self.seed, self.global_step, self.global_rank)
        trainer = self._trainer
        place = 0 if trainer is None else trainer.fit_loop.batch_idx % trainer.accumulate_grad_batches
        return (*key, place) if place else key  # the first batch of a step has the draws of a step of one batch

    def rank(self, users: Tensor) -> Tensor:
        """Return the logits of all items for users, int64 [n], in float32 even under autocast: [n, items].

        Dropout is off. The first layer is linear in the user's half and in the item's half of its input, so each half
        is multiplied only once. The other layers are computed in blocks of users and items, so that the memory they
        need depends on neither number.
        """
        first, *others = self.hidden
        assert isinstance(first, nn.Linear)
        with torch.autocast(self.device.type, enabled=False):
            mf_weight, mlp_weight = self.output.weight.tensor_split([self.embedding.embedding_dim], dim=1)
            ours, theirs = self.mlp_embedding.weight.split([self.num_users, self.num_items])
            user_half, item_half = first.weight.chunk(2, dim=1)
            ours = F.linear(ours[users], user_half, first.bias)
            theirs = F.linear(theirs, item_half)
            mf = at_least_float32(self.embedding.weight)
            predictions = torch.mm(mf[users] * mf_weight, mf[self.num_users :].t()) + self.output.bias
            height, width = _BLOCK if ours.device.type == "cpu" else _LARGE_BLOCK
            for row, some_users in enumerate(ours.split(height)):
                for column, some_items in enumerate(theirs.split(width)):
                    x = (some_users[:, None] + some_items).relu_()
                    for layer in others:
                        x = layer(x).relu_()
                    block = predictions[row * height : (row + 1) * height, column * width : (column + 1) * width]
                    block += (x @ mlp_weight.t()).squeeze(2)
        return predictions

    def squared_norms(self, batch: Batch) -> Tensor:
        """Return the squared norm of each sample's user, positive and negative embeddings in both towers: [B]."""
        nodes = torch.cat([batch["user"], batch["positive"] + self.num_users, batch["negative"] + self.num_users])
        norms = [F.embedding(nodes, table.weight).square().sum(dim=1) for table in (self.embedding, self.mlp_embedding)]
        return torch.stack(norms).sum(dim=0).view(3, -1).sum(dim=0)
