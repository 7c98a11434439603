"""Backbones whose embeddings travel over the graph of training interactions."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from llmhd_pl.backbones.base import Negatives, Objective
from llmhd_pl.backbones.embedding_backbone import EmbeddingBackbone, Similarity
from llmhd_pl.graph import SymmetricAdjacency, symmetric_normalization
from llmhd_pl.training_data import TrainingData, training_interactions


class GraphBackbone(EmbeddingBackbone):
    """An ``EmbeddingBackbone`` whose final embeddings depend on the graph of training interactions.

    A child class reads the graph from ``graph``. It may override ``build_adjacency`` to use another matrix.

    Args:
        num_users: The number of users.
        num_items: The number of items.
        embedding_dim: The length of an embedding.
        objective: The loss, "bpr", "bce" or "softmax"; see ``Backbone``.
        learning_rate: The learning rate of Adam.
        l2: The weight of the L2 term; see ``Backbone``.
        ks: The cutoffs of the metrics.
        similarity: "dot" or "cosine"; see ``EmbeddingBackbone``.
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
        self.adjacency: SymmetricAdjacency | None = None

    def set_graph(self, users: Tensor, items: Tensor) -> None:
        """Build the graph from training interactions, on the device of the model.

        With a data module in the trainer, ``setup`` calls this.

        Args:
            users: The user of each interaction, int64 [n].
            items: The item of each interaction, int64 [n]; no pair may occur twice.
        """
        self.adjacency = self.build_adjacency(users.to(self.device), items.to(self.device))
        # The graph is the same on every rank and no step changes it, so DDP need not broadcast it in each step.
        names = [f"adjacency.{name}" for name, _ in self.adjacency.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    def build_adjacency(self, users: Tensor, items: Tensor) -> SymmetricAdjacency:
        """Return the matrix of the graph, by default ``D^-1/2 A D^-1/2``.

        Args:
            users: The user of each interaction, int64 [n].
            items: The item of each interaction, int64 [n]; no pair occurs twice.

        Returns:
            The adjacency of [users + items] nodes.
        """
        return SymmetricAdjacency(*symmetric_normalization(users, items, self.num_users, self.num_items))

    def setup(self, stage: str) -> None:
        """Build the graph from the trainer's data module. Without one, keep the graph that ``set_graph`` has built.

        Raises:
            RuntimeError: If there is neither a graph nor a data module with training interactions.
        """
        super().setup(stage)
        if self.adjacency is None or isinstance(getattr(self.trainer, "datamodule", None), TrainingData):
            remedy = "Pass a data module that has them, or call the model's set_graph(users, items) before training."
            interactions = training_interactions(self.trainer, self, remedy)
            # Lightning moves the model right after this. It is moved now, so that the graph is built on the device.
            self.to(self.trainer.strategy.root_device)
            self.set_graph(*interactions)

    def _rows_of_distinct(self, nodes: Tensor, rows: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what predictions are products of, for some nodes: [n, d].

        Args:
            nodes: The nodes, int64 [n].
            rows: Computes the final embeddings of the nodes that it is given, int64 [m], each once: [m, d].
        """
        if nodes.device.type != "cpu":  # it would have to be waited for to know how many nodes there are
            return super()._rows(nodes)
        distinct, places = nodes.unique(return_inverse=True)
        return self._compared(F.embedding(places, rows(distinct)))

    @property
    def graph(self) -> SymmetricAdjacency:
        """The adjacency.

        Raises:
            RuntimeError: If there is no graph yet.
        """
        if self.adjacency is None:
            raise RuntimeError(f"{type(self).__name__} has no graph yet. Call set_graph(users, items) first.")
        return self.adjacency
