"""Epoch: what is known about the training samples when an epoch ends, and the one place where decisions are written."""

from functools import cached_property

import torch
from torch import Tensor

from llmhd_pl.denoising.selection import Reduce, alone, fraction_of
from llmhd_pl.denoising.store import CANDIDATE, CLEAN, HARD, NOISE, SampleStore, observed


class Epoch:
    """The samples of one epoch. The callbacks that act at its end share this object.

    With several processes, each process holds the samples that it owns; the losses of all others are NaN.

    Args:
        store: The predictions and losses of all samples.
        users: The user of each sample, int64 [n].
        items: The observed item of each sample, int64 [n].
        reduce: Sums a tensor over the processes.
        labels: The label of each sample, 0 or 1, int64 [n]; None where every sample is an observed like.

    Attributes:
        drop_rate: The share of the samples that is suspicious in this epoch, eps_l(T); 0 until ``VariancePruning`` has
            set it.
        progress: How much of the ramp is done, from 0 to 1; the thresholds of the rules move along with it.
        droppable_rate: The drop rate as a fraction of ``droppable``.
    """

    def __init__(
        self,
        store: SampleStore,
        users: Tensor,
        items: Tensor,
        reduce: Reduce = alone,
        labels: Tensor | None = None,
    ) -> None:
        self.users, self.items, self.reduce = users, items, reduce
        self.labels = None if labels is None else labels.to(store.losses.device)
        self.number = store.epoch
        self.drop_rate = self.progress = self.droppable_rate = 0.0
        self._store = store

    @property
    def pointwise(self) -> bool:
        """Whether a sample has two losses, of its observed and of its sampled item."""
        return self._store.pointwise

    @property
    def losses(self) -> Tensor:
        """The last losses, float32 [n] or [n, 2]; NaN for samples that were not seen in the last epochs."""
        return self._store.losses

    @property
    def negatives(self) -> Tensor:
        """The sampled item of each sample, int64 [n] on the CPU; -1 where there is none."""
        return self._store.negative_item.cpu().long()

    @property
    def status(self) -> Tensor:
        """What was decided, uint8 [n] or [n, 2]: ``CLEAN``, ``NOISE``, ``CANDIDATE`` or ``HARD``. Not to be changed."""
        return self._store.status

    @property
    def weights(self) -> Tensor:
        """The weights of the losses of the next epoch, float16 [n] or [n, 2]. Not to be changed."""
        return self._store.weights

    @property
    def false_positive_flags(self) -> Tensor:
        """In how many epochs each observed item was flagged, uint8 [n]; ``denoising.flags.flag`` counts it up."""
        return self._store.false_positive_flags

    @property
    def false_negative_flags(self) -> Tensor:
        """In how many epochs each sampled item was flagged, uint8 [n]."""
        return self._store.false_negative_flags

    @cached_property
    def variances(self) -> tuple[Tensor, Tensor]:
        """The variance of the predictions over the last epochs, of the observed and of the sampled items.

        Two tensors, float32 [n]; NaN where fewer than two epochs are known, or where the loss is not. They are computed
        once an epoch.
        """
        known = ~observed(self.losses).isnan()
        positive, negative = self._store.variances()
        return positive.where(known, torch.nan), negative.where(known, torch.nan)

    @cached_property
    def droppable(self) -> Tensor:
        """The losses that a decision for the next epoch can be about; see ``SampleStore.selectable``."""
        return self._store.selectable()

    def set_drop_rate(self, rate: float, progress: float, of_interactions: bool = False) -> None:
        """Set how many samples may be dropped. Every process must call it.

        Args:
            rate: The drop rate eps_l(T), 0 to 1.
            progress: How much of the ramp is done, 0 to 1.
            of_interactions: Whether the rate is a share of the observed interactions, which alone are dropped then.
                Otherwise, with the pointwise objective, it counts the sampled items as well, and some of these may be
                dropped.
        """
        counted = observed(self.losses) if of_interactions else self.losses
        self.drop_rate, self.progress = rate, progress
        if of_interactions and self.pointwise:
            self.droppable = self.losses.clone()
            self.droppable[:, 1] = torch.nan
        self.droppable_rate = fraction_of(self.droppable, rate, counted, self.reduce)

    def decide(self, status: Tensor, weights: Tensor | None = None) -> None:
        """Write the decision about all samples. A later decision replaces it.

        Args:
            status: ``CLEAN``, ``NOISE``, ``CANDIDATE`` or ``HARD`` for each loss, uint8 of the shape of ``losses``.
            weights: The weights of the next epoch, of the same shape. None drops what is noise or a candidate that
                nobody has found hard, and keeps the rest.
        """
        self._store.status.copy_(status)
        if weights is None:
            weights = (self._store.status == CLEAN) | (self._store.status == HARD)
        self._store.weights.copy_(weights)

    def counts(self) -> tuple[int, int]:
        """Return how many losses are kept as hard and how many are dropped, over all processes."""
        hard = (self.status == HARD).sum()
        dropped = ((self.status == NOISE) | (self.status == CANDIDATE)).sum()
        kept_as_hard, left_out = self.reduce(torch.stack([hard, dropped])).tolist()
        return kept_as_hard, left_out
