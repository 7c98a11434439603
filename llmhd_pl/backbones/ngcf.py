"""NGCF."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmhd_pl.backbones.base import Negatives, Objective
from llmhd_pl.backbones.embedding_backbone import Similarity
from llmhd_pl.backbones.graph_backbone import GraphBackbone
from llmhd_pl.backbones.ranges import check_dropped, check_widths
from llmhd_pl.backbones.seeding import dropout_factors, seeded_generator
from llmhd_pl.precision import at_least_float32


class NGCF(GraphBackbone):
    """NGCF (Wang et al., SIGIR 2019): messages from the neighbours and from their product with the node itself.

    ``E_k = LeakyReLU((L + I) E_{k-1} W_k + b_k + (L E_{k-1} * E_{k-1}) W'_k + b'_k)`` with L = D^-1/2 A D^-1/2
    (equation 7). Message dropout follows, and then each row is scaled to length 1. The final embedding is the
    concatenation of E_0 to E_K (equation 9).

    Args:
        num_users: The number of users.
        num_items: The number of items.
        embedding_dim: The length of a row of E_0.
        hidden_dims: The lengths of the rows of E_1 to E_K.
        message_dropout: The share of each layer's output that is zeroed in training.
        seed: The seed of the dropout. The command line links it to ``seed_everything``.
        objective: The loss, "bpr", "bce" or "softmax"; see ``Backbone``.
        learning_rate: The learning rate of Adam.
        l2: The weight of the L2 term, which is taken on E_0: the rows of the other layers have length 1, so that the
            norm of the final embeddings has the same gradient.
        ks: The cutoffs of the metrics.
        similarity: "dot" or "cosine"; see ``EmbeddingBackbone``.
        softmax_temperature: The temperature of "softmax"; see ``Backbone``.
        negatives: The items that an observed one is compared with; see ``Backbone``.

    Raises:
        ValueError: If a layer has no width, ``message_dropout`` is not in [0, 1), or an argument is not valid; see
            ``EmbeddingBackbone``.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        embedding_dim: int = 64,
        hidden_dims: Sequence[int] = (64, 64, 64),
        message_dropout: float = 0.1,
        seed: int = 0,
        objective: Objective = "bpr",
        learning_rate: float = 1e-3,
        l2: float = 1e-5,
        ks: Sequence[int] = (5, 10, 20),
        similarity: Similarity | None = None,
        softmax_temperature: float = 0.15,
        negatives: Negatives | None = None,
    ) -> None:
        super().__init__(
            num_users,
            num_items,
            embedding_dim,
            objective,
            learning_rate,
            l2,
            ks,
            similarity,
            softmax_temperature,
            negatives,
        )
        check_dropped(message_dropout=message_dropout)
        check_widths(hidden_dims)
        self.message_dropout, self.seed = message_dropout, seed
        widths = [embedding_dim, *hidden_dims]
        self.sums = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.products = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        for layer in (*self.sums, *self.products):
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def final_embeddings(self) -> Tensor:
        """Return the concatenation of all layers: float32 [users + items, sum of their lengths]."""
        return torch.cat(self._layers(), dim=1)

    def _rows(self, nodes: Tensor) -> Tensor:
        return self._rows_of_distinct(nodes, lambda rows: torch.cat(self._layers(rows), dim=1))

    def _layers(self, rows: Tensor | None = None) -> list[Tensor]:
        """Return some rows of E_0 to E_K, or all. Of E_K, which no other layer reads, only these are computed."""

        def chosen(layer: Tensor) -> Tensor:
            return layer if rows is None else F.embedding(rows, layer)

        layer = self.embedding.weight
        dtype = layer.dtype
        dropping = self.training and self.message_dropout > 0
        generator = seeded_generator(layer.device, "ngcf", self.seed, self.global_step) if dropping else None
        layers = [chosen(layer)]
        for number, (of_sum, of_product) in enumerate(zip(self.sums, self.products, strict=True), 1):
            last = number == len(self.sums)
            own, near = layers[-1] if last else layer, self.graph.layer_sum(layer, (0.0, 1.0), rows if last else None)
            total, product = ((own + near).to(dtype), (near * own).to(dtype))
            layer = at_least_float32(F.leaky_relu(of_sum(total) + of_product(product), 0.2))
            if generator is not None:  # for all nodes, so that a node's are the same on every process
                shape = self.num_users + self.num_items, layer.shape[1]
                factors = dropout_factors(shape, self.message_dropout, generator, layer.device)
                layer = layer * (chosen(factors) if last else factors)
            # F.normalize does the same, and takes half as long again with its gradient.
            layer = layer * layer.square().sum(dim=1, keepdim=True).clamp(min=1e-24).rsqrt()
            layers.append(layer if last else chosen(layer))
        return layers
