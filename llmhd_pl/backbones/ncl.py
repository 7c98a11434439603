"""NCL."""

import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llmhd_pl.backbones.base import Negatives, Objective
from llmhd_pl.backbones.contrast import check_num_contrasted, contrast, distinct, drawn_nodes
from llmhd_pl.backbones.embedding_backbone import Similarity
from llmhd_pl.backbones.k_means import k_means
from llmhd_pl.backbones.lightgcn import LightGCN
from llmhd_pl.backbones.ranges import check_integers, check_not_negative, check_positive
from llmhd_pl.backbones.seeding import seeded_generator
from llmhd_pl.losses import info_nce
from llmhd_pl.sample_weights import Batch


class NCL(LightGCN):
    """NCL (Lin et al., WWW 2022): LightGCN with two contrastive terms, on the graph's structure and on clusters.

    The loss is LightGCN's and two sums of InfoNCE over the users and the positives of the batch:

    * Structure (equations 5 to 7): the anchor is a node's second layer, an average over its neighbours' neighbours, and
      the positive is the node's own embedding. The candidates are the embeddings of all nodes of the same kind.
    * Prototypes (equations 10 to 12): the anchor is the node's embedding, and the positive is the centre of its
      cluster. The candidates are the centres of all clusters of the same kind.

    K-means finds the clusters at the start of every epoch. A checkpoint holds them, because they cannot be found again
    in the middle of an epoch, when the embeddings have changed.

    Args:
        num_users: The number of users.
        num_items: The number of items.
        embedding_dim: The length of an embedding.
        num_layers: The number of layers, K.
        temperature: The temperature of both sums.
        structure_weight: The weight of the structure sum.
        item_weight: The weight of the items within the structure sum, relative to the users.
        prototype_weight: The weight of the prototype sum.
        num_clusters: The number of clusters of the users, and also that of the items; at most one per node.
        warm_up_epochs: The number of epochs before the prototype sum is added.
        seed: The seed of k-means. The command line links it to ``seed_everything``.
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
        ValueError: If ``num_clusters`` is less than 1, ``temperature`` is not above 0, ``warm_up_epochs`` or a weight
            is less than 0, or an argument is not valid; see ``LightGCN``.
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
        check_integers(1, num_clusters=num_clusters)
        check_integers(0, warm_up_epochs=warm_up_epochs)
        check_positive(temperature=temperature)
        check_not_negative(structure_weight=structure_weight, item_weight=item_weight)
        check_not_negative(prototype_weight=prototype_weight)
        self.temperature, self.seed, self.warm_up_epochs = temperature, seed, warm_up_epochs
        self.structure_weight, self.item_weight, self.prototype_weight = structure_weight, item_weight, prototype_weight
        self._sizes = [min(num_clusters, num_users), min(num_clusters, num_items)]
        # Centres of the users' clusters, then of the items'; the number of each node's cluster within its own kind.
        self.register_buffer("centroids", torch.zeros(sum(self._sizes), embedding_dim))
        self.register_buffer("cluster", torch.zeros(num_users + num_items, dtype=torch.int64))
        self.register_buffer("clustered_epoch", torch.tensor(-1))  # the epoch of these clusters, in checkpoints
        self._clustered = -1  # the epoch that this process knows to have clusters, without asking the device

    def setup(self, stage: str) -> None:
        """Build the graph and forget the clusters of an earlier fit. Lightning loads a checkpoint after this."""
        super().setup(stage)
        if stage == "fit":
            self.clustered_epoch.fill_(-1)
            self._clustered = -1

    def on_train_start(self) -> None:
        """Warn of a run that ends before the prototypes are used."""
        trainer = self.trainer
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        steps = trainer.num_training_batches / trainer.accumulate_grad_batches  # of an epoch
        if trainer.max_steps != -1 and steps < math.inf:
            epochs = min(epochs, trainer.max_steps / math.ceil(steps))
        if self.prototype_weight > 0 and epochs <= self.warm_up_epochs:
            warnings.warn(
                f"{type(self).__name__}: prototype_weight and num_clusters have no effect. The prototypes are used "
                f"after warm_up_epochs={self.warm_up_epochs}, and this run has at most {epochs:,.6g} epochs. Lower "
                "warm_up_epochs, or set prototype_weight to 0 if it is meant to have none.",
                stacklevel=2,
            )

    def on_train_epoch_start(self) -> None:
        """Find the clusters of the epoch before its steps."""
        if self.current_epoch >= self.warm_up_epochs:
            self._find_clusters()

    def auxiliary_loss(self, batch: Batch, batch_size: Tensor) -> Tensor:
        """Return the two sums with their weights, a scalar. The prototypes are left out during the warm-up."""
        own = self.embedding.weight
        context = self.graph.layer_sum(own, (0.0, 0.0, 1.0))
        prototypes = self.current_epoch >= self.warm_up_epochs
        if prototypes:
            self._find_clusters()
        loss = torch.zeros((), device=self.device)
        sizes = [self.num_users, self.num_items]
        kinds = zip(
            ("users", "items"),
            (batch["user"], batch["positive"]),
            own.split(sizes),
            context.split(sizes),
            self.cluster.split(sizes),
            self.centroids.split(self._sizes),
            (1.0, self.item_weight),
            strict=True,
        )
        for kind, nodes, everyone, around, cluster, centroids, weight in kinds:
            drawn = drawn_nodes(everyone, self.num_contrasted, "ncl", kind, self.seed, self.global_step)
            structure = contrast(nodes, around, everyone, self.temperature, drawn)
            loss = loss + self.structure_weight * weight * structure
            if prototypes:
                unique, counts = distinct(nodes)
                anchors, nearest = F.embedding(unique, everyone), centroids[cluster[unique]]
                prototype = info_nce(anchors, nearest, centroids, self.temperature, counts)
                loss = loss + self.prototype_weight * prototype
        return loss

    @torch.no_grad()
    def _find_clusters(self) -> None:
        """Cluster the embeddings once in an epoch, unless its clusters came with a checkpoint."""
        if self._clustered == self.current_epoch:
            return
        if int(self.clustered_epoch) != self.current_epoch:
            generator = seeded_generator(torch.device("cpu"), "ncl", self.seed, self.current_epoch)
            tables = self.embedding.weight.split([self.num_users, self.num_items])
            first = 0
            for table, size in zip(tables, self._sizes, strict=True):
                seed = int(torch.randint(2**31, (), generator=generator))
                # The settings of faiss, the authors' library: random points to start from, 25 iterations.
                centres, cluster = k_means(table.float(), size, seed)
                centroids = slice(0, size) if first == 0 else slice(self._sizes[0], None)
                self.centroids[centroids] = centres.to(self.centroids)
                self.cluster[first : first + len(table)] = cluster
                first += len(table)
            self.clustered_epoch.fill_(self.current_epoch)
        self._clustered = self.current_epoch
