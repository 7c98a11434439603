"""What all backbones share: the training step, the seam for denoisers, and evaluation by full ranking."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import MetricCollection

from llmhd_pl.graph import SymmetricAdjacency, symmetric_normalization
from llmhd_pl.losses import bce_loss, bpr_loss
from llmhd_pl.metrics import NDCG, Recall, rank_hits
from llmhd_pl.sample_weights import Batch, SampleWeights

Objective = Literal["bpr", "bce"]


class Backbone(SampleWeights, LightningModule, ABC):
    """A recommender that scores pairs, ranks the catalog, and trains on triples.

    Args:
        num_users: number of users; ``train.py`` takes it from the data.
        num_items: number of items; ``train.py`` takes it from the data.
        objective: "bpr" (pairwise) or "bce" (pointwise).
        learning_rate: of Adam.
        l2: weight of half the squared norm of the embeddings used by a sample, averaged over the batch.
        ks: lengths of the rankings that are evaluated; a prediction has the longest.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        objective: Objective = "bpr",
        learning_rate: float = 1e-3,
        l2: float = 1e-4,
        ks: Sequence[int] = (5, 10, 20),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        for name, size in (("num_users", num_users), ("num_items", num_items)):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}; the number from the data module is needed, at least 1.")
        if objective not in ("bpr", "bce"):
            raise ValueError(f"objective is {objective!r}; it must be 'bpr' or 'bce'.")
        self.num_users, self.num_items = num_users, num_items
        self._loss = bpr_loss if objective == "bpr" else bce_loss
        self.learning_rate, self.l2 = learning_rate, l2
        self.ks = tuple(sorted(ks))
        metrics = {f"{name}@{k}": metric(k) for name, metric in (("recall", Recall), ("ndcg", NDCG)) for k in self.ks}
        # Without compute groups: torchmetrics would merge metrics whose first batch happens to give the same sums.
        self.val_metrics = MetricCollection(dict(metrics), prefix="val/", compute_groups=False)
        self.test_metrics = self.val_metrics.clone(prefix="test/")

    @abstractmethod
    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Predictions of (user, item) pairs, both int64 [n]: [n]."""

    @abstractmethod
    def rank(self, users: Tensor) -> Tensor:
        """Predictions of all items for these users, int64 [n]: float32 [n, items]."""

    @abstractmethod
    def squared_norms(self, batch: Batch) -> Tensor:
        """The squared norm of the embeddings that each sample uses, for the L2 term: [B]."""

    def auxiliary_loss(self, batch: Batch, batch_size: Tensor) -> Tensor | None:
        """A further term of the training loss, for models that have one; denoisers have no say in it.

        Args:
            batch: the training batch; with several processes, this one's share.
            batch_size: number of samples in the whole batch, scalar.

        Returns:
            The sum over the samples of ``batch``, scalar: the processes' terms are added up. None: there is none.
        """
        return None

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step on a batch of triples.

        Returns:
            ``loss`` (scalar, with gradient), and without: ``losses`` ([B] or [B, 2]), ``positive_score`` and
            ``negative_score`` (both [B]).
        """
        users = batch["user"]
        predictions = self.score(users.repeat(2), torch.cat([batch["positive"], batch["negative"]]))
        positive_score, negative_score = predictions.chunk(2)
        losses = self._loss(positive_score, negative_score)
        weights, counts = self.weights_and_counts(batch, losses)
        # Under DDP a rank's share of the batch varies, and gradients are averaged over the ranks: dividing by the
        # ranks' mean makes their average the gradient of the whole batch's weighted mean.
        count, samples = self._mean_over_ranks(torch.stack([counts.sum(), counts.new_tensor(len(users))]))
        loss = (weights * losses).sum() / count.clamp(min=torch.finfo(count.dtype).tiny)
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, batch_size=len(users))
        if self.l2 > 0:
            loss = loss + self.l2 / 2 * self.squared_norms(batch).sum() / samples
        further = self.auxiliary_loss(batch, samples * self.trainer.world_size)
        if further is not None:
            loss = loss + self.trainer.world_size * further
        return {
            "loss": loss,
            "losses": losses.detach(),
            "positive_score": positive_score.detach(),
            "negative_score": negative_score.detach(),
        }

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return value
        reduced: Tensor = self.trainer.strategy.reduce(value, reduce_op="mean")
        return reduced

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Rank the catalog for the users of the batch."""
        self._evaluate(self.val_metrics, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Rank the catalog for the users of the batch."""
        self._evaluate(self.test_metrics, batch)

    def _evaluate(self, metrics: MetricCollection, batch: Batch) -> None:
        metrics.update(*rank_hits(self.rank(batch["user"]), batch["seen"], batch["relevant"], self.ks[-1]))
        for name, metric in metrics.items():
            self.log(name, metric, prog_bar=name == "val/ndcg@10", batch_size=len(batch["user"]))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The top K unseen items of each user; where fewer are unseen, the rest of the row has score -inf.

        Returns:
            ``user`` int64 [b], ``item`` int64 [b, K] and ``score`` [b, K], best first.
        """
        scores = self.rank(batch["user"])
        scores[batch["seen"][0], batch["seen"][1]] = -torch.inf
        top = scores.topk(min(self.ks[-1], scores.shape[1]), dim=1)
        return {"user": batch["user"], "item": top.indices, "score": top.values}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam; fused, which is 8 times faster on a CPU for embedding tables."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=True)


class EmbeddingBackbone(Backbone):
    """A backbone whose prediction is the dot product of a user's and an item's embedding.

    The free parameters are one table, users first, then items; children turn it into the final embeddings.

    Args:
        num_users: number of users.
        num_items: number of items.
        embedding_dim: length of an embedding.
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
        objective: Objective = "bpr",
        learning_rate: float = 1e-3,
        l2: float = 1e-4,
        ks: Sequence[int] = (5, 10, 20),
    ) -> None:
        super().__init__(num_users, num_items, objective, learning_rate, l2, ks)
        self.embedding = torch.nn.Embedding(num_users + num_items, embedding_dim)
        for table in self.embedding.weight.split([num_users, num_items]):
            torch.nn.init.xavier_uniform_(table)
        self._final: Tensor | None = None

    @abstractmethod
    def final_embeddings(self) -> Tensor:
        """The embeddings that predictions are made from: [users + items, d]."""

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Dot products of (user, item) pairs, both int64 [n]: [n]."""
        pairs = F.embedding(torch.cat([users, items + self.num_users]), self.final_embeddings())
        user, item = pairs.chunk(2)
        return (user * item).sum(dim=1)

    def rank(self, users: Tensor) -> Tensor:
        """Dot products with all items, in float32 under autocast too, where bf16 would tie the top: [n, items]."""
        final = self.final_embeddings() if self._final is None else self._final
        with torch.autocast(final.device.type, enabled=False):
            return torch.mm(final[users], final[self.num_users :].t())

    def squared_norms(self, batch: Batch) -> Tensor:
        """Squared norms of the free embeddings of each sample's user, positive and negative: [B]."""
        nodes = torch.cat([batch["user"], batch["positive"] + self.num_users, batch["negative"] + self.num_users])
        return F.embedding(nodes, self.embedding.weight).square().sum(dim=1).view(3, -1).sum(dim=0)

    def _freeze(self) -> None:
        self._final = self.final_embeddings()

    def _thaw(self) -> None:
        self._final = None

    # One propagation serves a whole evaluation.
    on_validation_epoch_start = on_test_epoch_start = on_predict_epoch_start = _freeze
    on_validation_epoch_end = on_test_epoch_end = on_predict_epoch_end = _thaw


def training_graph(module: LightningModule) -> tuple[Tensor, Tensor]:
    """Users and items of the training interactions of the trainer's data module, each int64 [n].

    Raises:
        RuntimeError: the trainer's data module has none.
    """
    data: Any = getattr(module.trainer, "datamodule", None)
    if not hasattr(data, "train_users"):
        raise RuntimeError(
            f"{type(module).__name__} needs the training interactions for its graph, but the trainer has no data "
            "module with train_users and train_items. Pass one, or call set_graph(users, items) before training."
        )
    return data.train_users, data.train_items


class GraphBackbone(EmbeddingBackbone):
    """An ``EmbeddingBackbone`` whose embeddings travel over the graph of training interactions.

    Takes the arguments of ``EmbeddingBackbone``.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.adjacency: SymmetricAdjacency | None = None

    def set_graph(self, users: Tensor, items: Tensor) -> None:
        """Build the graph from training interactions, both int64 [n]; a Trainer with a data module does it itself."""
        self.adjacency = self._build_adjacency(users, items).to(self.device)
        # The graph is the same on every rank and never changes in a step: DDP need not broadcast it in each.
        names = [f"adjacency.{name}" for name, _ in self.adjacency.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    def _build_adjacency(self, users: Tensor, items: Tensor) -> SymmetricAdjacency:
        return SymmetricAdjacency(*symmetric_normalization(users, items, self.num_users, self.num_items))

    def setup(self, stage: str) -> None:
        """Take the graph from the trainer's data module, unless ``set_graph`` was called and there is none."""
        if self.adjacency is None or hasattr(getattr(self.trainer, "datamodule", None), "train_users"):
            self.set_graph(*training_graph(self))

    @property
    def graph(self) -> SymmetricAdjacency:
        """The adjacency.

        Raises:
            RuntimeError: there is none yet.
        """
        if self.adjacency is None:
            raise RuntimeError(f"{type(self).__name__} has no graph yet. Call set_graph(users, items) first.")
        return self.adjacency


def seeded_generator(device: torch.device, *key: int | str) -> torch.Generator:
    """A generator for the draws that belong to a key such as (seed, epoch), whatever was drawn before them."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest) >> 1)


def dropout(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Zero entries of ``x`` with probability ``rate`` and scale the rest by 1 / (1 - rate), as ``F.dropout`` does."""
    keep = torch.rand(x.shape, generator=generator, device=x.device) >= rate
    return x * keep / (1 - rate)
