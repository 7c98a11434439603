"""LightGCN."""

from collections.abc import Sequence

from torch import Tensor

from llmhd_pl.backbones.base import Negatives, Objective
from llmhd_pl.backbones.embedding_backbone import Similarity
from llmhd_pl.backbones.graph_backbone import GraphBackbone
from llmhd_pl.backbones.ranges import check_integers


class LightGCN(GraphBackbone):
    """LightGCN (He et al., SIGIR 2020): free embeddings, smoothed over the user-item graph.

    ``E_k = D^-1/2 A D^-1/2 E_{k-1}``; the final embedding is the mean of E_0 to E_K (equations 7 and 8).

    Args:
        num_users: The number of users.
        num_items: The number of items.
        embedding_dim: The length of an embedding.
        num_layers: The number of layers, K.
        objective: The loss, "bpr", "bce" or "softmax"; see ``Backbone``.
        learning_rate: The learning rate of Adam.
        l2: The weight of the L2 term; see ``Backbone``.
        ks: The cutoffs of the metrics.
        similarity: "dot" or "cosine"; see ``EmbeddingBackbone``.
        softmax_temperature: The temperature of "softmax"; see ``Backbone``.
        negatives: The items that an observed one is compared with; see ``Backbone``.

    Raises:
        ValueError: If ``num_layers`` is less than 0, or an argument is not valid; see ``EmbeddingBackbone``.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        embedding_dim: int = 64,
        num_layers: int = 2,
        objective: Objective = "bpr",
        learning_rate: float = 1e-3,
        l2: float = 1e-4,
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
        check_integers(0, num_layers=num_layers)
        self.num_layers = num_layers

    def final_embeddings(self) -> Tensor:
        """Return the mean over the layers: float32 [users + items, d]."""
        return self.graph.layer_sum(self.embedding.weight, self._layer_weights)

    @property
    def _layer_weights(self) -> list[float]:
        return [1 / (self.num_layers + 1)] * (self.num_layers + 1)

    def _rows(self, nodes: Tensor) -> Tensor:
        few = 2 * len(nodes) < self.num_users + self.num_items  # see benchmarks/product.py
        if not few or self.num_layers == 0:
            return super()._rows(nodes)
        weights = self._layer_weights
        return self._rows_of_distinct(nodes, lambda rows: self.graph.layer_sum(self.embedding.weight, weights, rows))
