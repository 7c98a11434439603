"""SampleWeights: the one place where denoisers reach the loss; plain torch, no Lightning."""

from collections.abc import Callable

import torch
from torch import Tensor

Batch = dict[str, Tensor]
"""A training batch: tensors by name, such as ``sample``, ``user``, ``positive`` and ``negative``, each int64 [B]."""
Denoiser = Callable[[Batch, Tensor], Tensor | tuple[Tensor, Tensor]]


class SampleWeights:
    """Mixin that lets the denoising callbacks weight the losses of a LightningModule.

    A module that inherits from it and multiplies its un-reduced losses by ``self.sample_weights(batch, losses)`` can be
    denoised by every callback of this package. ``batch["sample"]`` must hold the number of the training sample of each
    row.
    """

    _denoisers: tuple[Denoiser, ...] = ()
    _asked = False  # whether a step has asked for weights since a denoiser was attached

    def attach_denoiser(self, denoiser: Denoiser) -> None:
        """Attach a denoiser; no-op if it is already attached.

        Args:
            denoiser: called with the batch and the detached losses. It returns weights of the shape of the losses, and
                the weighted mean divides by their sum. A denoiser that rewrites losses returns a pair
                ``(weights, counts)`` instead, and the loss is ``(weights * losses).sum() / counts.sum()``. R-CE takes a
                plain mean, so its counts are one. DCF flips labels: a flipped loss counts one although its weight,
                the ratio of the derivatives of the two losses, is negative. Gradients flow through the losses only,
                never through the weights.
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

    def sample_weights(self, batch: Batch, losses: Tensor) -> Tensor:
        """Return the product of the weights of all attached denoisers, or ones if there is none.

        Args:
            batch: The training batch.
            losses: The un-reduced losses, [B] (pairwise) or [B, 2] (pointwise).

        Returns:
            Weights of the shape of the losses, without gradient. Use ``weights_and_counts`` to compute a mean.
        """
        return self.weights_and_counts(batch, losses)[0]

    def weights_and_counts(self, batch: Batch, losses: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights and what each loss counts in the mean. Call this or ``sample_weights`` once per step.

        Args:
            batch: The training batch.
            losses: The un-reduced losses, [B] (pairwise) or [B, 2] (pointwise).

        Returns:
            Weights and counts of the shape of the losses, without gradient. They are equal unless a denoiser returned
            a pair; see ``attach_denoiser``.
        """
        self._asked = True
        losses = losses.detach()
        weights = counts = torch.ones_like(losses)
        for denoiser in self._denoisers:
            result = denoiser(batch, losses)
            weight, count = result if isinstance(result, tuple) else (result, result)
            weights, counts = weights * weight, counts * count
        return weights, counts
