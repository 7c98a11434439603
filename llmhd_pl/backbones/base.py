"""What all backbones share: the training step, the seam for denoisers, the evaluation, and the optimiser."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from llmhd_pl.backbones.checkpoints import CheckedCheckpoints
from llmhd_pl.backbones.comparisons import chosen_negatives, compare, log_popularity
from llmhd_pl.backbones.ranges import check_not_negative, check_positive
from llmhd_pl.finite import FiniteCheck, check_parameters, checks_finite
from llmhd_pl.metrics import NDCG, MeanLoss, Recall
from llmhd_pl.processes import reduced
from llmhd_pl.ranking import AT_ONCE, Top, hits_among, top_items, top_items_by_users
from llmhd_pl.sample_weights import Batch, SampleWeights

Objective = Literal["bpr", "bce", "softmax"]
Negatives = Literal["uniform", "hardest", "shared", "in-batch"]


class Backbone(SampleWeights, CheckedCheckpoints, ABC):
    """A recommender that scores pairs, ranks the catalog, and trains on triples.

    A child class implements ``score``, ``rank`` and ``squared_norms``; it may add a term to the loss by overriding
    ``auxiliary_loss``.

    Args:
        num_users: The number of users. The command line takes it from the data module.
        num_items: The number of items. The command line takes it from the data module.
        objective: The loss: "bpr" (pairwise), "bce" (pointwise) or "softmax" (sampled softmax: Wu et al., TOIS 2024).
        learning_rate: The learning rate of Adam.
        l2: The weight of the L2 term: half the squared norm of the embeddings that a sample uses, averaged over the
            batch.
        ks: The cutoffs K of Recall@K and NDCG@K. A prediction holds as many items as the largest one.
        softmax_temperature: The number that predictions are divided by in the softmax.
        negatives: The items that an observed one is compared with. For "bpr" and "bce": "uniform" takes the sampled
            item, "hardest" the one of several candidates that has the highest prediction (dynamic negative sampling:
            Zhang et al., SIGIR 2013); the data module's ``num_negatives`` is the number of candidates. For "softmax":
            "shared" compares the whole batch with the first 512 items that were sampled for it; "in-batch" with the
            observed items of its first 512 samples, corrected by how often an item is observed (Yi et al., RecSys
            2019), and with several processes each has its own batch; "uniform" compares each sample with its own
            candidates. None is "shared" for "softmax" and "uniform" for the others.

    Raises:
        ValueError: If a size is not a positive integer, the objective is unknown or does not go with the negatives,
            the learning rate, the temperature or the L2 weight is out of range, or a cutoff is less than 1.
        RuntimeError: In a run, if the batches have no candidates though ``negatives`` needs them, or if "in-batch" has
            no training interactions to count.
        FloatingPointError: In a run, if a loss, a prediction or a parameter is not finite.
    """

    never_padded = True

    def __init__(
        self,
        num_users: int,
        num_items: int,
        objective: Objective = "bpr",
        learning_rate: float = 1e-3,
        l2: float = 1e-4,
        ks: Sequence[int] = (5, 10, 20),
        softmax_temperature: float = 0.15,
        negatives: Negatives | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        for name, size in (("num_users", num_users), ("num_items", num_items)):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}; it must be the data module's {name}, an integer of at least 1.")
        self.negatives = chosen_negatives(objective, negatives)
        check_positive(softmax_temperature=softmax_temperature, learning_rate=learning_rate)
        check_not_negative(l2=l2)
        self.num_users, self.num_items = num_users, num_items
        self.objective: Objective = objective
        self.softmax_temperature, self.learning_rate, self.l2 = softmax_temperature, learning_rate, l2
        self.log_share: Tensor | None = None
        """The logarithm of each item's share of the training interactions, [items], on the device of the run."""
        self.ks = tuple(sorted(ks))
        metrics = {f"{name}@{k}": metric(k) for name, metric in (("recall", Recall), ("ndcg", NDCG)) for k in self.ks}
        # No compute groups: torchmetrics would merge metrics whose first batch happens to give the same sums.
        self.val_metrics = MetricCollection(dict(metrics), prefix="val/", compute_groups=False)
        self.test_metrics = self.val_metrics.clone(prefix="test/")
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget the steps of a fit and the users of an evaluation, which may have been broken off."""
        self._losses, self._predictions = FiniteCheck("losses"), FiniteCheck("predictions")
        self._mean_loss = MeanLoss()
        self.val_metrics.reset()
        self.test_metrics.reset()

    def setup(self, stage: str) -> None:
        """Check the data's sizes, and begin anew; see ``CheckedCheckpoints``. A checkpoint is loaded after this."""
        super().setup(stage)
        self._begin_anew()

    def on_train_epoch_end(self) -> None:
        """Log the mean loss if no last step has, and check the model before the epoch's checkpoint is written."""
        self._mean_loss.log(self)
        self._losses.verify(self.current_epoch)
        self._predictions.verify(self.current_epoch)
        check_parameters(self, f"Epoch {self.current_epoch}")

    def on_fit_start(self) -> None:
        """Count the items of the training interactions, if negatives from the batch are corrected by their popularity.

        Raises:
            RuntimeError: If the trainer's data module does not know them.
        """
        super().on_fit_start()
        if self.negatives == "in-batch":
            self.log_share = log_popularity(self).to(self.device)

    @abstractmethod
    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the predictions of (user, item) pairs.

        Args:
            users: The user of each pair, int64 [n].
            items: The item of each pair, int64 [n].

        Returns:
            One prediction per pair, [n]; a logit under the pointwise objective.
        """

    def score_against(self, users: Tensor, items: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predictions of each user with its own items, and with items that all users share.

        The default scores every pair. A model whose prediction is a dot product overrides this by one product.

        Args:
            users: The users, int64 [n].
            items: The own items of each user, int64 [n, k].
            shared: The shared items, int64 [m].

        Returns:
            Predictions, [n, k] and [n, m].
        """
        both = torch.cat([items, shared.expand(len(users), -1)], dim=1)
        scores = self.score(users.repeat_interleave(both.shape[1]), both.flatten()).view(both.shape)
        own, against = scores.tensor_split([items.shape[1]], dim=1)
        return own, against

    @abstractmethod
    def rank(self, users: Tensor) -> Tensor:
        """Return the predictions of the whole catalog for some users.

        Args:
            users: The users, int64 [n].

        Returns:
            Predictions, float32 [n, items]. They are left as they are, so that they may be a view of what the model
            keeps.
        """

    @abstractmethod
    def squared_norms(self, batch: Batch) -> Tensor:
        """Return the squared norm of the embeddings that each sample uses, for the L2 term: [B]."""

    def auxiliary_loss(self, batch: Batch, batch_size: Tensor) -> Tensor | None:
        """Return a further term of the training loss, or None if the model has none. Denoisers do not weight it.

        Args:
            batch: The training batch; with several processes, the share of this process.
            batch_size: The number of samples in the whole batch, a scalar.

        Returns:
            The sum over the samples of ``batch``, a scalar; the sums of all processes are added up. None if there is
            no such term.
        """
        return None

    @checks_finite
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Compute the loss of a batch of triples.

        Args:
            batch: The training batch.
            batch_idx: The number of the batch in the epoch; not used.

        Returns:
            ``loss`` (a scalar, with gradient) and, without gradient, ``losses`` ([B], or [B, 2] for "bce"),
            ``positive_score``, ``negative_score`` and ``negative``, the sampled items (each [B]).
        """
        users = batch["user"]
        compared = compare(self, batch)
        losses, batch["negative"] = compared.losses, compared.negative
        # Not all predictions of a softmax: what is wrong with them is wrong with the loss, too.
        pair = torch.cat([compared.positive_score, compared.negative_score]).detach()
        self._predictions.see(pair, self.current_epoch, self.global_step)
        weights, counts = self.weights_and_counts(batch, losses)
        # Under DDP the ranks' shares of a batch differ in size, and gradients are averaged over the ranks. If each rank
        # divides by the ranks' mean count, that average is the gradient of the weighted mean over the whole batch.
        total = (weights * losses).sum()
        local = torch.stack([counts.sum(), counts.new_full((), len(users)), total.detach()])
        count, samples, totals = reduced(self.trainer, local, "mean")
        count = count.clamp(min=torch.finfo(count.dtype).tiny)
        loss, batch_size = total / count, samples * self.trainer.world_size
        self._mean_loss.update(self, totals / count, len(users) if self.trainer.world_size == 1 else batch_size)
        if self.l2 > 0:
            loss = loss + self.l2 / 2 * self.squared_norms(batch).sum() / samples
        auxiliary = self.auxiliary_loss(batch, batch_size)
        if auxiliary is not None:
            loss = loss + self.trainer.world_size * auxiliary
        self._losses.see(loss.detach(), self.current_epoch, self.global_step)
        return {
            "loss": loss,
            "losses": losses.detach(),
            "positive_score": compared.positive_score.detach(),
            "negative_score": compared.negative_score.detach(),
            "negative": compared.negative,
        }

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Rank the catalog for the users of the batch and update the validation metrics."""
        self._evaluate(self.val_metrics, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Rank the catalog for the users of the batch and update the test metrics."""
        self._evaluate(self.test_metrics, batch)

    def _evaluate(self, metrics: MetricCollection, batch: Batch) -> None:
        metrics.update(*self.hits(batch))
        for name, metric in metrics.items():
            self.log(name, metric, prog_bar=name == "val/ndcg@10", batch_size=len(batch["user"]))

    def hits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rank the catalog for the users of an evaluation batch, and return which of the top K are relevant.

        Args:
            batch: The batch: ``user`` int64 [b], and ``seen`` and ``relevant``, (row, item) pairs, int64 [2, n].

        Returns:
            What ``hits_among`` returns. K is the largest of ``ks``.

        Raises:
            FloatingPointError: If predictions are not finite; see ``check_predictions``.
        """
        return hits_among(self._top(batch)[1], batch["relevant"], self.num_items)

    def _top(self, batch: Batch) -> Top:
        users, k = batch["user"], self.ks[-1]
        if len(users) * self.num_items <= AT_ONCE:
            return top_items(self.rank(users), batch["seen"], k, self._where())
        return self.top_of_many(users, batch["seen"], k)

    def top_of_many(self, users: Tensor, seen: Tensor, k: int) -> Top:
        """Return the top K of a catalogue so large that the predictions of all users cannot be held at once.

        The default ranks a few users at a time. A model whose prediction is a dot product goes by blocks of items.

        Args:
            users: The users, int64 [n].
            seen: The (row, item) pairs to leave out, int64 [2, m].
            k: The length of the ranking.

        Raises:
            FloatingPointError: If predictions are not finite; see ``check_predictions``.
        """
        return top_items_by_users(self.rank, users, seen, k, max(AT_ONCE // self.num_items, 1), self._where())

    def _where(self) -> str:
        return f"{self.trainer.state.stage}, epoch {self.current_epoch}, step {self.global_step}"

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the top K unseen items of each user, K being the largest of ``ks``.

        Args:
            batch: The batch: ``user`` int64 [b], and ``seen`` int64 [2, n], the (row, item) pairs to leave out.
            batch_idx: The number of the batch; not used.

        Returns:
            ``user`` int64 [b], ``item`` int64 [b, K] and ``score`` [b, K], best first. If a user has fewer than K
            unseen items, the rest of the row has the score -inf.

        Raises:
            FloatingPointError: If predictions are not finite; see ``check_predictions``.
        """
        values, items = self._top(batch)
        return {"user": batch["user"], "item": items, "score": values}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam, in its fused version, which is 8 times faster on a CPU for embedding tables.

        With "16-mixed" and a clipped gradient it is the plain version: the fused one scales the gradient back too late.

        Raises:
            ValueError: If parameters are float16, in which Adam's epsilon is 0.
        """
        if any(parameter.dtype == torch.float16 for parameter in self.parameters()):
            raise ValueError("Adam cannot train in float16 (16-true). Use bf16-true, bf16-mixed or 16-mixed.")
        trainer = self._trainer
        clipped = trainer is not None and trainer.precision == "16-mixed" and trainer.gradient_clip_val is not None
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=not clipped)
