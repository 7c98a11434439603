"""StepRecords: what training steps say about their samples, checked on its way into the store."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from llmhd_pl.batches import Key
from llmhd_pl.callbacks.sample_state import SampleState
from llmhd_pl.callbacks.step_checks import (
    LOOKED_AT,
    OUTPUTS,
    check_batch,
    check_labels,
    check_numbers,
    check_order,
    checked_outputs,
)
from llmhd_pl.denoising.store import SampleStore, observed
from llmhd_pl.finite import FiniteCheck


class _Record(NamedTuple):
    sample: Tensor
    losses: Tensor
    score: Tensor | None
    negative: Tensor | None


class StepRecords:
    """Collects what the calls of a training step say, and writes it into the store once the step is over.

    Args:
        users: The user of each training sample, int64 [n].
        items: The item of each training sample, int64 [n].
        labels: The label of each training sample, int64 [n], or None.
        weight_key: Where the weights are in the batch; None for a module with ``SampleWeights``.
        module: The module, which says by ``SampleWeights.never_padded`` whether a sample of -1 is padding, and by the
            mark of ``checks_finite`` whether its step has looked for losses that are not finite.
    """

    def __init__(
        self, users: Tensor, items: Tensor, labels: Tensor | None, weight_key: Key | None, module: LightningModule
    ) -> None:
        self.users, self.items, self.labels, self.weight_key = users, items, labels, weight_key
        self.padded = not getattr(module, "never_padded", False)
        self._checked = getattr(module.training_step, "checks_finite", False)
        self.finite = FiniteCheck("losses or predictions that training_step returned")
        self._records: list[_Record] = []
        self._looked_at = 0
        self._repeats = self.padded  # whether a step may name a sample twice; a backbone's batches show it
        self._extremes: list[Tensor] = []  # the smallest and the largest number of batches that are yet to be checked

    def begin(self) -> None:
        """Forget what was said outside of a training step, as in a validation."""
        self._records = []

    def check(self, batch: Any, sample: Tensor) -> None:
        """Check the samples of a batch against the training interactions.

        Raises:
            IndexError: If a number is no row of the interactions. After the first batches ``weights_of`` raises it on a
                CPU, and on a GPU ``verify``, unless CUDA has stopped at it.
            RuntimeError: If the batch names other users or items, or labels that are not known.
        """
        if self._looked_at < LOOKED_AT:
            self._looked_at += 1
            check_numbers(sample, len(self.users), self.padded)
            check_order(batch, sample, self.users, self.items)
            self._repeats = self._repeats or len(sample.unique()) < sample.numel()
            check_labels(batch, sample, self.labels)
        elif sample.device.type != "cpu" and sample.numel():  # a GPU would have to be waited for in every step
            self._extremes.append(torch.stack(sample.aminmax()))

    def weights_of(self, store: SampleStore, sample: Tensor, negative: Tensor | None) -> Tensor:
        """Return the weights of a batch, as ``SampleStore.weights_of`` does.

        Raises:
            IndexError: If a number is no row of the interactions.
        """
        try:
            return store.weights_of(sample, negative)
        except IndexError:
            check_numbers(sample, len(self.users), self.padded)
            raise

    def padded_weights(self, store: SampleStore, sample: Tensor, negative: Tensor | None) -> Tensor:
        """Return the weights of samples of any shape; padding has the weight 1.

        Raises:
            IndexError: If a number is neither a row of the interactions nor padding.
        """
        weights = torch.ones((*sample.shape, 2) if store.pointwise else sample.shape, device=sample.device)
        known = sample != -1 if self.padded else torch.ones_like(sample, dtype=torch.bool)
        weights[known] = self.weights_of(store, sample[known], None if negative is None else negative[known])
        return weights

    def verify(self, epoch: int) -> None:
        """Check what was left unchecked in the steps of an epoch.

        Raises:
            IndexError: If a number is no row of the interactions.
            FloatingPointError: If a loss or a prediction is not finite.
        """
        self.finite.verify(epoch)
        extremes, self._extremes = self._extremes, []
        if extremes:
            check_numbers(torch.stack(extremes), len(self.users), self.padded)

    def add(self, sample: Tensor, losses: Tensor, score: Tensor | None, negative: Tensor | None) -> None:
        """Keep what a step says until it is over.

        Args:
            sample: The samples, int64 [B], without padding.
            losses: Their losses, [B] or [B, 2].
            score: Their predictions, [B]; None is minus the loss.
            negative: Their sampled items, int64 [B], or None.

        Raises:
            RuntimeError: If there are losses of sampled items without the items, or besides labels.
        """
        if losses.dim() == 2 and (negative is None or self.labels is not None):
            raise RuntimeError(
                "Losses of shape [B, 2] are those of an observed and a sampled item, so the batch must have the "
                "sampled items ('negative', int64 [B]) and no labels. Give one loss per sample otherwise."
            )
        self._records.append(_Record(sample, losses, score, negative))

    def write(
        self,
        state: SampleState,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: Any,
        sample_key: Key,
    ) -> int:
        """Write the records of the step.

        Args:
            state: Where to.
            trainer: The trainer; errors name its epoch and step.
            module: The module; errors name its class.
            outputs: What ``training_step`` returned. ``positive_score`` and ``negative_score``, if they are there, are
                the predictions, and ``negative`` the sampled items in place of those in the batch.
            batch: The batch.
            sample_key: Where its samples are.

        Returns:
            The number of samples that were written.

        Raises:
            RuntimeError: If the outputs lack something or have another shape.
            FloatingPointError: If a loss or a prediction is not finite.
        """
        records, self._records = self._records, []
        if isinstance(outputs, Mapping) and any(name in outputs for name in OUTPUTS):
            sample, negative = check_batch(batch, sample_key)
            # The module may have chosen another one, and DDP on a GPU gives it a copy of the batch.
            negative = outputs.get("negative", negative)
            if negative is not None:
                values = checked_outputs(module, outputs, sample, self.weight_key, state.store.pointwise)
                losses, positive_score, negative_score = values
                rows = [sample, positive_score, negative_score, losses, negative]
                if self.padded and not bool((known := sample >= 0).all()):
                    rows = [value[known] for value in rows]
                elif sample.dim() > 1:
                    rows = [value.flatten(0, sample.dim() - 1) for value in rows]
                returned = rows[3]
                # Those that were given to sample_weights are not weighted yet; the returned ones may be.
                if len(records) == 1 and records[0].losses.shape == returned.shape:
                    rows[3] = records[0].losses
                # On a GPU a module that checks raises at the end of its own epoch, which comes after the decision.
                if not self._checked or returned.device.type != "cpu":
                    # One check of all, because a check costs more than the values.
                    self._see(torch.cat([value.flatten() for value in (returned, *rows[1:4])]), trainer)
                state.match(rows[3])
                if self._repeats:
                    rows = list(_once(*rows))
                state.store.record(*rows)
                state.own(rows[0])
                return len(rows[0])
        written = 0
        for record in records:
            losses = record.losses
            score = -observed(losses) if record.score is None else record.score
            # The loss of a sampled item grows with its prediction.
            of_sampled = losses[:, 1] if losses.dim() == 2 else None
            self._see(torch.cat([losses.flatten(), score]), trainer)
            state.match(losses)
            state.store.record(*_once(record.sample, score, of_sampled, losses, record.negative))
            state.own(record.sample)
            written += len(record.sample)
        return written

    def _see(self, values: Tensor, trainer: Trainer) -> None:
        self.finite.see(values, trainer.current_epoch, trainer.global_step - 1)


def _once(
    sample: Tensor, score: Tensor, negative_score: Tensor | None, losses: Tensor, negative: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]:
    """Return every sample once, with the means of its losses and predictions and one of its sampled items."""
    once, places, counts = torch.unique(sample, return_inverse=True, return_counts=True)
    if len(once) == len(sample):
        return sample, score, negative_score, losses, negative
    if negative is not None:
        negative = torch.zeros_like(once).scatter_reduce_(0, places, negative, "amax", include_self=False)
    if negative_score is not None:
        negative_score = mean_of_rows(negative_score, places, counts)
    return once, mean_of_rows(score, places, counts), negative_score, mean_of_rows(losses, places, counts), negative


def mean_of_rows(values: Tensor, places: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of the rows of each sample, in float32.

    Args:
        values: The values, [B] or [B, 2].
        places: The sample of each row, as ``torch.unique`` numbers them, int64 [B].
        counts: The number of rows of each sample, int64 [m].
    """
    sums = torch.zeros(len(counts), *values.shape[1:], device=values.device)
    sums.index_add_(0, places, values.float())
    return torch.div(sums, counts if values.dim() == 1 else counts[:, None])
