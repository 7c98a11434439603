"""SampleWeights: the one place where denoisers reach the loss; plain torch, no Lightning."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from llmhd_pl.batches import Key, look_up, named

Batch = dict[str, Tensor]
"""A training batch: tensors by name, such as ``sample``, ``user``, ``positive`` and ``negative``, each int64 [B]."""
Denoiser = Callable[[Batch, Tensor], Tensor | tuple[Tensor, Tensor]]
SCORE = "sample_weights.score"
"""Where a denoiser finds the predictions that ``sample_weights`` was given, in the batch that it is called with."""
_FLATTENED = ("sample", "negative", "label", "labels", "target", SCORE)


class SampleWeights:
    """Mixin that lets the denoising callbacks weight the losses of a LightningModule.

    A module that inherits from it and multiplies its un-reduced losses by ``self.sample_weights(batch, losses)`` can be
    denoised by every callback of this package. The numbers of the training samples, ``sample``, are int64 of the
    losses' shape, whatever that is: [B], [B, L] for sequences, [B, L, P]. -1 is padding, or a sample that nothing shall
    be decided about: its weight is 1. They are in the batch under ``sample_key``, or given to the call. While the
    trainer validates or tests, all weights are 1, nothing is recorded, and no samples are needed.
    """

    sample_key: Key = "sample"
    """Where the batch holds the samples: a name, or a path such as ("features", "sample"), or (0,) in a tuple."""
    never_padded = False
    """Whether no batch has padding, so that a GPU need not be waited for in every step to look for it."""
    _denoisers: tuple[Denoiser, ...] = ()
    _asked = False  # whether a step has asked for weights since a denoiser was attached

    def attach_denoiser(self, denoiser: Denoiser) -> None:
        """Attach a denoiser; no-op if it is already attached.

        Args:
            denoiser: called with the batch and the detached losses, [B] or [B, 2]; losses of any other shape arrive
                flat, without padding, and so do ``batch["sample"]``, ``batch["negative"]`` and the labels. It returns
                weights of the shape of the losses, and the weighted mean divides by their sum. A denoiser that rewrites
                losses returns a pair ``(weights, counts)`` instead, and the loss is ``(weights * losses).sum() /
                counts.sum()``. R-CE takes a plain mean, so its counts are one. DCF flips labels: a flipped loss counts
                one although its weight, the ratio of the derivatives of the two losses, is negative. Gradients flow
                through the losses only, never through the weights.
        """
        if denoiser not in self._denoisers:
            self._denoisers, self._asked = (*self._denoisers, denoiser), False

    def detach_denoiser(self, denoiser: Denoiser) -> None:
        """Detach the denoiser; no-op if it is not attached."""
        self._denoisers = tuple(other for other in self._denoisers if other != denoiser)

    def require_asked(self) -> None:
        """Check that the training step asked for weights.

        Raises:
            RuntimeError: If it did not, because then no decision would have an effect.
        """
        if not self._asked:
            raise RuntimeError(
                f"{type(self).__name__} inherits SampleWeights, but its training_step did not call "
                "self.sample_weights(batch, losses), so that nothing that is decided would have an effect. Multiply "
                "the un-reduced losses by it."
            )

    def sample_weights(
        self, batch: Any, losses: Tensor, sample: Tensor | None = None, score: Tensor | None = None
    ) -> Tensor:
        """Return the product of the weights of all attached denoisers, or ones if there is none.

        Args:
            batch: The training batch, of any type.
            losses: The un-reduced losses, of the shape of the samples, S. With one sample per row, [B], they may also
                be [B, 2], for the observed and the sampled item.
            sample: The number of the training interaction of each loss, int64 of shape S; -1 is padding. None takes
                them from the batch, by ``sample_key``.
            score: The model's prediction for each sample, of shape S; higher means that the user likes the item more.
                Its variance over the epochs tells hard samples from noise. None takes minus the loss.

        Returns:
            Weights of the shape of the losses, without gradient. Use ``weights_and_counts`` to compute a mean.

        Raises:
            RuntimeError: If the shapes do not agree, or if a denoiser needs samples and there are none.
        """
        return self.weights_and_counts(batch, losses, sample, score)[0]

    def weights_and_counts(
        self, batch: Any, losses: Tensor, sample: Tensor | None = None, score: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the weights and what each loss counts in the mean. Call this or ``sample_weights`` once per step.

        Args:
            batch: The training batch, of any type.
            losses: The un-reduced losses; see ``sample_weights``.
            sample: The samples; see ``sample_weights``.
            score: The predictions; see ``sample_weights``.

        Returns:
            Weights and counts of the shape of the losses, without gradient. They are equal unless a denoiser returned
            a pair; see ``attach_denoiser``.

        Raises:
            RuntimeError: If the shapes do not agree, if a denoiser needs samples and there are none, or if there is
                padding though ``never_padded`` says that there is none.
        """
        losses = losses.detach()
        # One step may serve training and validation, whose losses are measured and not learned from.
        if not self._denoisers or _evaluates(getattr(self, "_trainer", None)):
            ones = torch.ones_like(losses)
            return ones, ones
        self._asked = True
        if sample is None:
            sample = look_up(batch, self.sample_key)
        rows = dict(batch) if isinstance(batch, Mapping) else {}
        if sample is None and (losses.dim() == 1 or losses.shape[1:] == (2,)):
            return self._product(rows, losses)  # T-CE and R-CE need no samples
        _check_shapes(sample, losses, score, self.sample_key)
        rows["sample"] = sample
        if score is not None:
            rows[SCORE] = score.detach()
        trusted = self.never_padded and sample.device.type != "cpu"
        if sample.dim() == 1 and (trusted or not len(sample) or sample.min() >= 0):
            return self._product(rows, losses)
        if self.never_padded:
            raise RuntimeError(
                f"{type(self).__name__} says never_padded, but {named(self.sample_key)} has padding or a number below "
                "0. Give every row the number of its training interaction, or set never_padded = False."
            )
        known = sample != -1  # any other number that is no sample is an error of whoever looks it up
        alike = {
            name: value[known] for name, value in rows.items() if name in _FLATTENED and value.shape == sample.shape
        }
        weights, counts = torch.ones_like(losses), torch.ones_like(losses)
        weights[known], counts[known] = self._product(alike, losses[known])
        return weights, counts

    def _product(self, rows: Batch, losses: Tensor) -> tuple[Tensor, Tensor]:
        weights = counts = torch.ones_like(losses)
        for denoiser in self._denoisers:
            result = denoiser(rows, losses)
            weight, count = result if isinstance(result, tuple) else (result, result)
            weights, counts = weights * weight, counts * count
        return weights, counts


def _evaluates(trainer: Any) -> bool:
    return any(getattr(trainer, stage, False) for stage in ("evaluating", "sanity_checking", "predicting"))


def _check_shapes(sample: Any, losses: Tensor, score: Tensor | None, key: Key) -> None:
    if not isinstance(sample, Tensor) or sample.dtype != torch.int64:
        kind = "missing" if sample is None else getattr(sample, "dtype", type(sample).__name__)
        raise RuntimeError(
            f"The samples, {named(key)}, are {kind}; they must be a tensor of torch.int64 with the number of the "
            "training interaction of each loss, in the batch or given: sample_weights(batch, losses, sample=...)."
        )
    if losses.shape != sample.shape and (sample.dim() != 1 or losses.shape != (*sample.shape, 2)):
        shape = f"a batch of {len(sample)}" if sample.dim() == 1 else f"samples of shape {list(sample.shape)}"
        pair = ", or [B, 2] for the observed and the sampled item" if sample.dim() == 1 else ""
        raise RuntimeError(
            f"sample_weights was given losses of shape {list(losses.shape)} for {shape}. It needs them before they "
            f"are reduced: of the shape of the samples{' [B]' if pair else ''}{pair}."
        )
    if score is not None and score.shape != sample.shape:
        raise RuntimeError(
            f"sample_weights was given a score of shape {list(score.shape)} for samples of shape "
            f"{list(sample.shape)}. It is one prediction for each sample."
        )
