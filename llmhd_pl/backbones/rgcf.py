"""RGCF."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from llmhd_pl.backbones.base import Negatives, Objective
from llmhd_pl.backbones.contrast import check_num_contrasted, contrast, drawn_nodes
from llmhd_pl.backbones.embedding_backbone import Similarity
from llmhd_pl.backbones.graph_backbone import GraphBackbone
from llmhd_pl.backbones.ranges import check_integers, check_not_negative, check_positive
from llmhd_pl.backbones.seeding import seeded_generator
from llmhd_pl.finite import checks_finite
from llmhd_pl.graph import WeightedAdjacency
from llmhd_pl.sample_weights import Batch
from llmhd_pl.sparse import entry_dots

_POOL = 10  # the number of random pairs drawn for each one that is added
_BLOCK = 2**20  # the pairs multiplied at once on a GPU: 512 MB with embeddings of 64


class _Denoised(NamedTuple):
    """The denoised graph and what is computed in it."""

    features: Tensor
    """[users + items, d]: the sum of the embeddings of a node's neighbours."""
    values: Tensor
    """[2n]: the values of the entries of the denoised graph, 0 for edges that are cut; without gradient."""
    transposed: Tensor
    """[2n]: the values of its transpose."""
    final: Tensor
    """[users + items, d]: the final embeddings."""


class RGCF(GraphBackbone):
    """RGCF (Tian et al., SIGIR 2022): a graph model that weights its edges, cuts unlikely ones, and tries new ones.

    The feature of a node is the sum of its neighbours' embeddings. The weight of an edge is s = (cos + 1) / 2 of the
    features of its two ends, or 0 if s < ``prune_below``. The weighted graph is normalised by rows, and the final
    embedding is the mean of the features and of their propagations over K layers. Gradients flow through the weights.

    The loss has a further term, ``ssl_weight`` times the InfoNCE between a user's final embedding and its embedding in
    a second graph, summed over the users of the batch; the candidates are all users. The second graph consists of the
    denoised one, whose values have no gradient here, and of added edges: the pairs with the highest dot product of
    features among 10 times as many random pairs. The added edges have the median of the graph's values and are drawn
    anew in every step. The second graph is normalised symmetrically.

    Args:
        num_users: The number of users.
        num_items: The number of items.
        embedding_dim: The length of an embedding.
        num_layers: The number of layers, K.
        prune_below: The weight below which an edge is cut.
        added_edges: The number of edges added in the second graph, as a share of the edges of the first.
        temperature: The temperature of InfoNCE.
        ssl_weight: The weight of InfoNCE.
        seed: The seed of the added edges. The command line links it to ``seed_everything``.
        objective: The loss, "bpr", "bce" or "softmax"; see ``Backbone``.
        learning_rate: The learning rate of Adam.
        l2: The weight of the L2 term, on the features; see ``Backbone``.
        ks: The cutoffs of the metrics.
        similarity: "dot" or "cosine"; see ``EmbeddingBackbone``.
        softmax_temperature: The temperature of "softmax"; see ``Backbone``.
        negatives: The items that an observed one is compared with; see ``Backbone``.
        num_contrasted: How many nodes of a kind, drawn anew in each step, a node is contrasted with in place of all of
            them; see ``sampled_info_nce``. None is all of them, as in the paper.

    Raises:
        ValueError: If ``prune_below`` is not from 0 to 1, ``temperature`` is not above 0, ``num_layers``,
            ``added_edges`` or ``ssl_weight`` is less than 0, or an argument is not valid; see ``EmbeddingBackbone``.
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
        similarity: Similarity | None = None,
        softmax_temperature: float = 0.15,
        negatives: Negatives | None = None,
        num_contrasted: int | None = None,
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
        check_num_contrasted(num_contrasted)
        self.num_contrasted = num_contrasted
        check_integers(0, num_layers=num_layers)
        if not 0 <= prune_below <= 1:
            raise ValueError(f"prune_below is {prune_below}; it must be from 0 to 1, as the weights of edges are.")
        check_not_negative(added_edges=added_edges, ssl_weight=ssl_weight)
        check_positive(temperature=temperature)
        self.num_layers, self.prune_below, self.added_edges = num_layers, prune_below, added_edges
        self.temperature, self.ssl_weight, self.seed = temperature, ssl_weight, seed
        self._step: _Denoised | None = None  # the denoised graph of the training step that is running

    def build_adjacency(self, users: Tensor, items: Tensor) -> WeightedAdjacency:
        """Return the graph without weights, of interactions that are both int64 [n]."""
        return WeightedAdjacency(users, items, self.num_users, self.num_items)

    @property
    def graph(self) -> WeightedAdjacency:
        """The adjacency, without weights; see ``GraphBackbone``."""
        graph = super().graph
        assert isinstance(graph, WeightedAdjacency)
        return graph

    @checks_finite
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Compute the loss of a batch; see ``Backbone``. The graph is denoised once for all terms of the loss."""
        self._step = self._denoise()
        try:
            return super().training_step(batch, batch_idx)
        finally:
            self._step = None

    def final_embeddings(self) -> Tensor:
        """Return the mean over the layers of the denoised graph: float32 [users + items, d]."""
        return (self._step or self._denoise()).final

    def squared_norms(self, batch: Batch) -> Tensor:
        """Return the squared norm of the features of each sample's user, positive and negative: [B]."""
        features = (self._step or self._denoise()).features
        nodes = torch.cat([batch["user"], batch["positive"] + self.num_users, batch["negative"] + self.num_users])
        return F.embedding(nodes, features).square().sum(dim=1).view(3, -1).sum(dim=0)

    def auxiliary_loss(self, batch: Batch, batch_size: Tensor) -> Tensor:
        """Return ``ssl_weight`` times the sum of the users' InfoNCE between the two graphs, a scalar."""
        denoised = self._step or self._denoise()
        others = self._diverse(denoised)[: self.num_users]
        drawn = drawn_nodes(others, self.num_contrasted, "rgcf", "users", self.seed, self.global_step)
        mine = denoised.final[: self.num_users]
        return self.ssl_weight * contrast(batch["user"], mine, others, self.temperature, drawn)

    def _denoise(self) -> _Denoised:
        """Weight the edges by the present embeddings, cut the unlikely ones, and propagate the features."""
        graph = self.graph
        features = graph(self.embedding.weight)
        similarity = (graph.edge_dots(F.normalize(features, dim=1)) + 1) / 2
        weights = graph.spread(torch.where(similarity < self.prune_below, 0.0, similarity))
        scale = 1 / (graph.row_sums(weights) + 1e-7)
        # The scales of the rows are multiplied into the values, which are fewer numbers than the rows of embeddings.
        values = weights * scale.index_select(0, graph.row)
        transposed = weights.detach() * scale.detach().index_select(0, graph.col)
        layer = total = features
        for _ in range(self.num_layers):
            layer = graph.product(values, transposed, layer)
            total = total + layer
        return _Denoised(features, values.detach(), transposed, total / (self.num_layers + 1))

    def _diverse(self, denoised: _Denoised) -> Tensor:
        """Return the final embeddings in the second graph, ``D^-1/2 (denoised graph + added edges) D^-1/2``.

        D holds the sums of the rows of the matrix in the middle, whose values have no gradient.
        """
        features, values, transposed, _ = denoised
        graph, added = self.graph, self.draw_edges(features.detach())
        median = values.median()
        root = (graph.row_sums(values) + median * added.crow.diff() + 1e-7).rsqrt()
        of_graph, of_added = (
            root.index_select(0, some.row) * root.index_select(0, some.col) for some in (graph, added)
        )
        values, transposed, more = values * of_graph, transposed * of_graph, median * of_added
        layer = total = features
        for _ in range(self.num_layers):
            layer = graph.product(values, transposed, layer) + added.product(more, more, layer)
            total = total + layer
        return total / (self.num_layers + 1)

    def draw_edges(self, features: Tensor) -> WeightedAdjacency:
        """Draw random pairs and keep the most similar ones; the draws depend on the seed and the step alone.

        Args:
            features: The features of the nodes, [users + items, d].

        Returns:
            The kept pairs as a graph. A pair that was drawn twice is two edges.
        """
        generator = seeded_generator(features.device, "rgcf", self.seed, self.global_step)
        wanted = int(self.added_edges * len(self.graph.col) / 2)
        users, items = (
            torch.randint(size, (_POOL * wanted,), generator=generator, device=features.device)
            for size in (self.num_users, self.num_items)
        )
        # Sorting the users changes nothing, because the items are drawn independently of them, and sorted pairs are a
        # pattern in CSR.
        if features.device.type == "cpu":
            counts = torch.bincount(users, minlength=self.num_users)
            users, crow = torch.repeat_interleave(counts), F.pad(counts.cumsum(0), (1, 0)).int()
            dots = entry_dots(crow, items.int(), features[: self.num_users], features[self.num_users :])
        else:  # to count would make the CPU wait
            users = users.sort().values
            nodes = zip(users.split(_BLOCK), (items + self.num_users).split(_BLOCK), strict=True)
            dots = torch.cat([(F.embedding(u, features) * F.embedding(i, features)).sum(dim=1) for u, i in nodes])
        best = dots.topk(wanted, sorted=False).indices
        return WeightedAdjacency(users[best], items[best], self.num_users, self.num_items)
