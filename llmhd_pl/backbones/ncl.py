"""NCL."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llmhd_pl.backbones.base import Objective, seeded_generator
from llmhd_pl.backbones.lightgcn import LightGCN
from llmhd_pl.losses import info_nce
from llmhd_pl.sample_weights import Batch


class NCL(LightGCN):
    """NCL (Lin et al., WWW 2022): LightGCN, and each node should be like its neighbours, near and in kind.

    To LightGCN's loss come two sums over the batch's users and positives: the InfoNCE between a node's second layer,
    an average of its neighbours' neighbours, and its own embedding, told apart from those of all nodes of its kind
    (structure; equations 5 to 7), and between its embedding and the centre of its cluster, told apart from all
    centres (prototypes; equations 10 to 12). The clusters are found by k-means at the start of every epoch; a
    checkpoint holds them, because in the middle of an epoch they could not be found again.

    Args:
        num_users: number of users.
        num_items: number of items.
        embedding_dim: length of an embedding.
        num_layers: K.
        temperature: of both InfoNCE.
        structure_weight: of the first sum.
        item_weight: of the items within it.
        prototype_weight: of the second sum.
        num_clusters: of the users, and as many of the items.
        warm_up_epochs: epochs before the prototypes come in.
        seed: seed of k-means. ``train.py`` links it to ``seed_everything``.
        objective: see ``Backbone``, as for all that follow.
        learning_rate: of Adam.
        l2: weight of the L2 term.
        ks: lengths of the rankings.
    """

    centroids: Tensor
    cluster: Tensor
    clustered_epoch: Tensor

    def __init__(
        self,
        num_users: int,
        num_items: int,
        embedding_dim: int = 64,
        num_layers: int = 3,
        temperature: float = 0.1,
        structure_weight: float = 1e-7,
        item_weight: float = 1.0,
        prototype_weight: float = 8e-8,
        num_clusters: int = 1000,
        warm_up_epochs: int = 20,
        seed: int = 0,
        objective: Objective = "bpr",
        learning_rate: float = 1e-3,
        l2: float = 1e-4,
        ks: Sequence[int] = (5, 10, 20),
    ) -> None:
        super().__init__(num_users, num_items, embedding_dim, num_layers, objective, learning_rate, l2, ks)
        if num_clusters < 1:
            raise ValueError(f"num_clusters is {num_clusters}; it must be at least 1.")
        self.temperature, self.seed, self.warm_up_epochs = temperature, seed, warm_up_epochs
        self.structure_weight, self.item_weight, self.prototype_weight = structure_weight, item_weight, prototype_weight
        self._sizes = [min(num_clusters, num_users), min(num_clusters, num_items)]
        self.register_buffer("centroids", torch.zeros(sum(self._sizes), embedding_dim))  # of the users, of the items
        self.register_buffer("cluster", torch.zeros(num_users + num_items, dtype=torch.int64))
        self.register_buffer("clustered_epoch", torch.tensor(-1))
        self._clustered = -1

    def setup(self, stage: str) -> None:
        """Take the graph, and forget the clusters of an earlier fit; a checkpoint is loaded after this."""
        super().setup(stage)
        if stage == "fit":
            self.clustered_epoch.fill_(-1)
            self._clustered = -1

    def auxiliary_loss(self, batch: Batch, batch_size: Tensor) -> Tensor:
        """Both sums, with their weights: scalar."""
        own = self.embedding.weight
        context = self.graph.layer_sum(own, (0.0, 0.0, 1.0))
        prototypes = self.current_epoch >= self.warm_up_epochs
        if prototypes and self._clustered != self.current_epoch:
            self._find_clusters()
        loss = torch.zeros((), device=self.device)
        kinds = zip(
            (batch["user"], batch["positive"] + self.num_users),
            own.split([self.num_users, self.num_items]),
            self.centroids.split(self._sizes),
            (1.0, self.item_weight),
            strict=True,
        )
        for nodes, everyone, centroids, weight in kinds:
            unique, counts = nodes.unique(return_counts=True)
            anchors = F.embedding(unique, own)
            structure = info_nce(F.embedding(unique, context), anchors, everyone, self.temperature, counts)
            loss = loss + self.structure_weight * weight * structure
            if prototypes:
                nearest = centroids[self.cluster[unique]]
                prototype = info_nce(anchors, nearest, centroids, self.temperature, counts)
                loss = loss + self.prototype_weight * prototype
        return loss

    @torch.no_grad()
    def _find_clusters(self) -> None:
        """Cluster the embeddings, unless the checkpoint that was resumed holds this epoch's clusters."""
        from sklearn.cluster import KMeans  # type: ignore[import-untyped]  # a second that other models need not wait

        if int(self.clustered_epoch) != self.current_epoch:
            generator = seeded_generator(torch.device("cpu"), "ncl", self.seed, self.current_epoch)
            tables = self.embedding.weight.split([self.num_users, self.num_items])
            first = 0
            for table, size in zip(tables, self._sizes, strict=True):
                seed = int(torch.randint(2**31, (), generator=generator))
                # As faiss does it, the authors' library: random points to start from, 25 rounds.
                means = KMeans(size, init="random", n_init=1, max_iter=25, random_state=seed).fit(
                    table.float().cpu().numpy()
                )
                centroids = slice(0, size) if first == 0 else slice(self._sizes[0], None)
                self.centroids[centroids] = torch.from_numpy(means.cluster_centers_).to(self.centroids)
                self.cluster[first : first + len(table)] = torch.from_numpy(means.labels_).to(self.cluster)
                first += len(table)
            self.clustered_epoch.fill_(self.current_epoch)
        self._clustered = self.current_epoch
