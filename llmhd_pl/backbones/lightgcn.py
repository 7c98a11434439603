"""LightGCN."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from llmhd_pl.backbones.base import EmbeddingBackbone, Objective, training_graph
from llmhd_pl.graph import SymmetricAdjacency, symmetric_normalization


class LightGCN(EmbeddingBackbone):
    """LightGCN (He et al., SIGIR 2020): embeddings smoothed over the user-item graph.

    ``E_k = D^-1/2 A D^-1/2 E_{k-1}``; the final embedding is the mean of E_0 to E_K (equations 7 and 8).

    Args:
        num_users: number of users.
        num_items: number of items.
        embedding_dim: length of an embedding.
        num_layers: K.
        objective: see ``Backbone``, as for all that follow.
        learning_rate: of Adam.
        l2: weight of the L2 term.
        ks: lengths of the rankings.
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
    ) -> None:
        super().__init__(num_users, num_items, embedding_dim, objective, learning_rate, l2, ks)
        self.num_layers = num_layers
        self.adjacency: SymmetricAdjacency | None = None

    def set_graph(self, users: Tensor, items: Tensor) -> None:
        """Build the graph from training interactions, both int64 [n]; a Trainer with a data module does it itself."""
        self.adjacency = SymmetricAdjacency(*symmetric_normalization(users, items, self.num_users, self.num_items)).to(
            self.device
        )
        # The graph is the same on every rank and never changes in a step: DDP need not broadcast it in each.
        names = [f"adjacency.{name}" for name, _ in self.adjacency.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    def setup(self, stage: str) -> None:
        """Take the graph from the trainer's data module, unless ``set_graph`` was called and there is none."""
        if self.adjacency is None or hasattr(getattr(self.trainer, "datamodule", None), "train_users"):
            self.set_graph(*training_graph(self))

    def final_embeddings(self) -> Tensor:
        """The mean over the layers: [users + items, d].

        Raises:
            RuntimeError: there is no graph yet.
        """
        if self.adjacency is None:
            raise RuntimeError("LightGCN has no graph yet. Call set_graph(users, items) first.")
        layers = self.num_layers + 1
        return self.adjacency.layer_sum(self.embedding.weight, [1 / layers] * layers)
