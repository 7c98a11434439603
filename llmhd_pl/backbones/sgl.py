"""SGL."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from llmhd_pl.backbones.base import Negatives, Objective
from llmhd_pl.backbones.contrast import check_num_contrasted, contrast, drawn_nodes
from llmhd_pl.backbones.embedding_backbone import Similarity
from llmhd_pl.backbones.lightgcn import LightGCN
from llmhd_pl.backbones.ranges import check_dropped, check_not_negative, check_positive
from llmhd_pl.backbones.seeding import seeded_generator
from llmhd_pl.graph import SymmetricAdjacency, edge_normalization
from llmhd_pl.sample_weights import Batch

Augmentation = Literal["edge_dropout", "node_dropout", "random_walk"]


class SGL(LightGCN):
    """SGL (Wu et al., SIGIR 2021): LightGCN with a contrastive term between two thinned graphs.

    The loss is LightGCN's and ``ssl_weight`` times the InfoNCE between a node's embeddings in the two graphs, averaged
    over the batch, once for its users and once for its positives (equations 10 and 11, as in RecBole). The
    candidates are all nodes of the same kind in the second graph. The graphs are drawn anew in every epoch.

    Args:
        num_users: The number of users.
        num_items: The number of items.
        embedding_dim: The length of an embedding.
        num_layers: The number of layers, K.
        augmentation: How the graphs are thinned (equations 6 to 8). "edge_dropout" drops edges, "node_dropout" drops
            users and items with all of their edges, and "random_walk" drops edges, different ones in each layer. The
            rest of the graph is normalised by its own degrees.
        drop_rate: The share of the edges, or of the users and of the items, that is dropped.
        temperature: The temperature of InfoNCE.
        ssl_weight: The weight of InfoNCE.
        seed: The seed of the thinned graphs. The command line links it to ``seed_everything``.
        objective: The loss, "bpr", "bce" or "softmax"; see ``Backbone``.
        learning_rate: The learning rate of Adam.
        l2: The weight of the L2 term; see ``Backbone``.
        ks: The cutoffs of the metrics.
        similarity: "dot" or "cosine"; see ``EmbeddingBackbone``.
        softmax_temperature: The temperature of "softmax"; see ``Backbone``.
        negatives: The items that an observed one is compared with; see ``Backbone``.
        num_contrasted: How many nodes of a kind, drawn anew in each step, a node is contrasted with in place of all of
            them; see ``sampled_info_nce``. None is all of them, as in the paper.

    Raises:
        ValueError: If ``augmentation`` is none of the three, ``drop_rate`` is not in [0, 1), ``temperature`` is not
            above 0, ``ssl_weight`` is less than 0, or an argument is not valid; see ``LightGCN``.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        embedding_dim: int = 64,
        num_layers: int = 3,
        augmentation: Augmentation = "edge_dropout",
        drop_rate: float = 0.1,
        temperature: float = 0.5,
        ssl_weight: float = 0.05,
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
            num_layers,
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
        if augmentation not in ("edge_dropout", "node_dropout", "random_walk"):
            raise ValueError(
                f"augmentation is {augmentation!r}; it must be 'edge_dropout', 'node_dropout' or 'random_walk'."
            )
        check_dropped(drop_rate=drop_rate)
        check_positive(temperature=temperature)
        check_not_negative(ssl_weight=ssl_weight)
        self.augmentation, self.drop_rate = augmentation, drop_rate
        self.temperature, self.ssl_weight, self.seed = temperature, ssl_weight, seed
        self._views: tuple[int, tuple[list[SymmetricAdjacency], ...]] | None = None

    def set_graph(self, users: Tensor, items: Tensor) -> None:
        """Build the graph from training interactions, both int64 [n], and forget the thinned graphs of the old one."""
        super().set_graph(users, items)
        self._views = None

    def on_train_epoch_start(self) -> None:
        """Draw the thinned graphs of the epoch before its steps, because the draws come from the CPU."""
        self.thinned_graphs()

    def auxiliary_loss(self, batch: Batch, batch_size: Tensor) -> Tensor:
        """Return ``ssl_weight`` times the mean InfoNCE of the users and of the positives, a scalar."""
        first, second = (self._propagate(view) for view in self.thinned_graphs())
        loss = torch.zeros((), device=self.device)
        kinds = zip(
            (batch["user"], batch["positive"]),
            first.split([self.num_users, self.num_items]),
            second.split([self.num_users, self.num_items]),
            strict=True,
        )
        for kind, (nodes, one, other) in zip(("users", "items"), kinds, strict=True):
            drawn = drawn_nodes(other, self.num_contrasted, "sgl", kind, self.seed, self.global_step)
            loss = loss + contrast(nodes, one, other, self.temperature, drawn)
        return self.ssl_weight * loss / batch_size

    def _propagate(self, view: list[SymmetricAdjacency]) -> Tensor:
        if self.augmentation != "random_walk":
            layers = self.num_layers + 1
            return view[0].layer_sum(self.embedding.weight, [1 / layers] * layers)
        layer = total = self.embedding.weight
        for adjacency in view:
            layer = adjacency(layer)
            total = total + layer
        return total / (self.num_layers + 1)

    def thinned_graphs(self) -> tuple[list[SymmetricAdjacency], ...]:
        """Return the two views of the graph in this epoch, which are the same after a resume.

        Returns:
            Two lists, one per view: of one graph for all layers, or for "random_walk" of one graph per layer.
        """
        if self._views is None or self._views[0] != self.current_epoch:
            graphs = self.num_layers if self.augmentation == "random_walk" else 1
            self._views = (
                self.current_epoch,
                tuple([self._thinned(view, layer) for layer in range(graphs)] for view in (0, 1)),
            )
        return self._views[1]

    def _thinned(self, view: int, layer: int) -> SymmetricAdjacency:
        """Return the graph with the value 0 at both entries of each dropped edge, so that it stays symmetric."""
        graph = self.graph
        edges = len(graph.col) // 2
        # The rows of the users come first: the first half of the entries are the edges, sorted by user and item. The
        # second half are the same edges, sorted by item and user.
        degrees = graph.crow.diff()[: self.num_users]
        users = torch.repeat_interleave(torch.arange(self.num_users, device=degrees.device), degrees, output_size=edges)
        items = graph.col[:edges].long() - self.num_users
        generator = seeded_generator(torch.device("cpu"), "sgl", self.seed, self.current_epoch, view, layer)

        def chosen(size: int) -> Tensor:
            dropped = torch.zeros(size, dtype=torch.bool)
            dropped[torch.randperm(size, generator=generator)[: int(size * self.drop_rate)]] = True
            return dropped.to(graph.col.device)

        if self.augmentation == "node_dropout":
            keep = ~(chosen(self.num_users)[users] | chosen(self.num_items)[items])
        else:
            keep = ~chosen(edges)
        val = edge_normalization(users, items, self.num_users, self.num_items, keep)
        return SymmetricAdjacency(graph.crow, graph.col, torch.cat([val, val[items.argsort(stable=True)]]))
