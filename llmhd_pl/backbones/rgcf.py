"""RGCF."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llmhd_pl.backbones.base import GraphBackbone, Objective, seeded_generator
from llmhd_pl.graph import WeightedAdjacency
from llmhd_pl.losses import info_nce
from llmhd_pl.sample_weights import Batch

_POOL = 10  # random pairs drawn for one that is added
_BLOCK = 8192  # pairs multiplied at once: they stay in a processor's cache


class RGCF(GraphBackbone):
    """RGCF (Tian et al., SIGIR 2022): a graph model that weighs its edges, cuts unlikely ones, and tries new ones.

    The feature of a node is the sum of its neighbours' embeddings. An edge's weight is s = (cos + 1) / 2 of its ends'
    features, 0 where s < ``prune_below``; the graph is normalised by rows, and the final embedding is the mean of the
    features and what they become in K layers. To the loss comes ``ssl_weight`` times the InfoNCE, summed over the
    batch's users, between that and the embeddings in a second graph: the same one without gradient, and the pairs with
    the highest dot product of features among 10 times as many random ones, with the median of its values, drawn anew
    in every step, normalised symmetrically. All users are told apart from.

    Args:
        num_users: number of users.
        num_items: number of items.
        embedding_dim: length of an embedding.
        num_layers: K.
        prune_below: the weight below which an edge is cut.
        added_edges: edges added in the second graph, as a share of all.
        temperature: of InfoNCE.
        ssl_weight: of InfoNCE.
        seed: seed of the added edges. ``train.py`` links it to ``seed_everything``.
        objective: see ``Backbone``, as for all that follow.
        learning_rate: of Adam.
        l2: weight of the L2 term, on the features.
        ks: lengths of the rankings.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        embedding_dim: int = 64,
        num_layers: int = 2,
        prune_below: float = 0.02,
        added_edges: float = 0.1,
        temperature: float = 0.2,
        ssl_weight: float = 1e-6,
        seed: int = 0,
        objective: Objective = "bpr",
        learning_rate: float = 1e-3,
        l2: float = 1e-5,
        ks: Sequence[int] = (5, 10, 20),
    ) -> None:
        super().__init__(num_users, num_items, embedding_dim, objective, learning_rate, l2, ks)
        self.num_layers, self.prune_below, self.added_edges = num_layers, prune_below, added_edges
        self.temperature, self.ssl_weight, self.seed = temperature, ssl_weight, seed
        self._step: tuple[Tensor, Tensor, Tensor] | None = None

    def _build_adjacency(self, users: Tensor, items: Tensor) -> WeightedAdjacency:
        return WeightedAdjacency(users, items, self.num_users, self.num_items)

    @property
    def graph(self) -> WeightedAdjacency:
        """The adjacency; see ``GraphBackbone``."""
        graph = super().graph
        assert isinstance(graph, WeightedAdjacency)
        return graph

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """As every backbone's; the features and the graph serve all terms of the loss."""
        self._step = self._denoise()
        try:
            return super().training_step(batch, batch_idx)
        finally:
            self._step = None

    def final_embeddings(self) -> Tensor:
        """The mean over the layers of the denoised graph: float32 [users + items, d]."""
        return (self._step or self._denoise())[2]

    def squared_norms(self, batch: Batch) -> Tensor:
        """Squared norms of the features of each sample's user, positive and negative: [B]."""
        features = (self._step or self._denoise())[0]
        nodes = torch.cat([batch["user"], batch["positive"] + self.num_users, batch["negative"] + self.num_users])
        return F.embedding(nodes, features).square().sum(dim=1).view(3, -1).sum(dim=0)

    def auxiliary_loss(self, batch: Batch, batch_size: Tensor) -> Tensor:
        """``ssl_weight`` times the sum of the users' InfoNCE between the two graphs: scalar."""
        features, weights, final = self._step or self._denoise()
        others = self._diverse(features, weights.detach())[: self.num_users]
        users, counts = batch["user"].unique(return_counts=True)
        mine, positives = F.embedding(users, final), F.embedding(users, others)
        return self.ssl_weight * info_nce(mine, positives, others, self.temperature, counts)

    def _denoise(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features [users + items, d], weights of the edges [n], and final embeddings [users + items, d]."""
        features = self.graph(self.embedding.weight)
        similarity = (self.graph.edge_dots(F.normalize(features, dim=1)) + 1) / 2
        weights = torch.where(similarity < self.prune_below, 0.0, similarity)
        scale = self._row_scale(weights)
        layer = total = features
        for _ in range(self.num_layers):
            layer = scale * self.graph.weighted(weights, layer)
            total = total + layer
        return features, weights, total / (self.num_layers + 1)

    def _row_scale(self, weights: Tensor) -> Tensor:
        """1 / (the sum of each row of the weighted graph): [users + items, 1]."""
        ones = weights.new_ones(self.num_users + self.num_items, 1)
        return 1 / (self.graph.weighted(weights, ones) + 1e-7)

    def _diverse(self, features: Tensor, weights: Tensor) -> Tensor:
        """Final embeddings in the second graph, D^-1/2 (denoised graph + added edges) D^-1/2, D its rows' sums."""
        scale = self._row_scale(weights)
        row = torch.repeat_interleave(scale.squeeze(1), self.graph.crow.diff())
        median = (weights.index_select(0, self.graph.edge) * row).median()
        added, count = self._added_edges(features.detach())
        count = median * count

        def product(x: Tensor) -> Tensor:
            return scale * self.graph.weighted(weights, x) + added.weighted(count, x)

        root = (product(torch.ones_like(scale)) + 1e-7).rsqrt()
        layer = total = features
        for _ in range(self.num_layers):
            layer = root * product(root * layer)
            total = total + layer
        return total / (self.num_layers + 1)

    def _added_edges(self, features: Tensor) -> tuple[WeightedAdjacency, Tensor]:
        """The most similar of random pairs, as a graph, and how many times each was among them, [edges]."""
        generator = seeded_generator(features.device, "rgcf", self.seed, self.global_step)
        wanted = int(self.added_edges * len(self.graph.col) / 2)
        users, items = (
            torch.randint(size, (_POOL * wanted,), generator=generator, device=features.device)
            for size in (self.num_users, self.num_items)
        )
        dots = torch.cat(  # F.embedding is faster than an index
            [
                (F.embedding(some_users, features) * F.embedding(some_items + self.num_users, features)).sum(dim=1)
                for some_users, some_items in zip(users.split(_BLOCK), items.split(_BLOCK), strict=True)
            ]
        )
        best = dots.topk(wanted).indices
        pairs, count = torch.unique(users[best] * self.num_items + items[best], return_counts=True)
        graph = WeightedAdjacency(pairs // self.num_items, pairs % self.num_items, self.num_users, self.num_items)
        return graph, count.float()
