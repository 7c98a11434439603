"""Checks of what a training step was given and what it returned; every error names the remedy."""

from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor

OUTPUTS = ("losses", "positive_score", "negative_score")
"""What ``training_step`` returns besides ``loss``, detached."""


def whole_numbers(name: str, values: Any) -> Tensor:
    """Return the users or the items of the training samples as int64 [n].

    Args:
        name: "users" or "items"; the error names it.
        values: A tensor, an array, a column of a data frame, or a list.

    Raises:
        TypeError: If they are not whole numbers from 0.
    """
    array = values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    wrong = array < 0 if array.dtype.kind in "iu" else np.ones(len(array), dtype=bool)
    if wrong.any():
        row = int(wrong.argmax())
        raise TypeError(
            f"{name} must be whole numbers from 0, one for each training sample; {name}[{row}] is {array[row]!r}. "
            f"pandas.factorize({name})[0] numbers identifiers of any kind."
        )
    return torch.from_numpy(array.astype(np.int64))


class WatchedWeights(Tensor):
    """Weights that note that something was computed with them, beyond a look at their shape."""

    used = False

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        WatchedWeights.used |= getattr(function, "__name__", "") not in ("__get__", "__len__", "size", "dim")
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


def check_batch(batch: Any) -> None:
    """Check the batch of a training step.

    Raises:
        RuntimeError: If it is no dict with ``sample`` and ``negative``, or if these are not both [B].
    """
    missing = [key for key in ("sample", "negative") if not isinstance(batch, dict) or key not in batch]
    if missing:
        raise RuntimeError(
            f"The training batch has no {' and no '.join(missing)}. SampleRecorder needs a dict with the number of "
            "each row's training interaction ('sample') and the sampled item ('negative'), int64 [B]."
        )
    sample, negative = batch["sample"], batch["negative"]
    if sample.dim() != 1 or negative.shape != sample.shape:
        raise RuntimeError(
            f"The training batch has 'sample' of shape {list(sample.shape)} and 'negative' of shape "
            f"{list(negative.shape)}; both must be [B]. With several sampled items per row, take the mean of their "
            "losses, [B], and give the first of them as 'negative'."
        )


def check_losses(samples: Tensor, losses: Tensor) -> None:
    """Check the losses that ``sample_weights`` was given.

    Raises:
        RuntimeError: If they are neither [B] nor [B, 2].
    """
    if losses.shape not in (samples.shape, (*samples.shape, 2)):
        raise RuntimeError(
            f"sample_weights was given losses of shape {list(losses.shape)} for a batch of {len(samples)}. It "
            "needs them before they are reduced: [B], or [B, 2] for the observed and the sampled item."
        )


def check_weights_used(module: LightningModule, weight_key: str) -> None:
    """Check that the first step computed something with the weights in its batch.

    Raises:
        RuntimeError: If it did not.
    """
    if not WatchedWeights.used:
        raise RuntimeError(
            f"{type(module).__name__}.training_step did not use batch[{weight_key!r}], so that nothing "
            "that is decided would have an effect. Multiply the un-reduced losses by it, or give the name of "
            "the weight that it multiplies by: SampleRecorder(weight_key=...)."
        )


def checked_outputs(
    module: LightningModule, outputs: Any, samples: Tensor, weight_key: str | None, pointwise: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses and the two predictions of a step, detached.

    Args:
        module: The module; errors name its class.
        outputs: What ``training_step`` returned.
        samples: The samples of the batch, int64 [B].
        weight_key: The name of the weights in the batch; None for a module with ``SampleWeights``.
        pointwise: Whether the weights in the batch are [B, 2].

    Raises:
        RuntimeError: If one of them is missing or has another shape than [B] (losses also [B, 2]).
    """
    name = type(module).__name__
    missing = [key for key in OUTPUTS if not isinstance(outputs, dict) or key not in outputs]
    if missing:
        raise RuntimeError(
            f"{name}.training_step returned no {', '.join(missing)}. Let it return a dict with "
            "'loss' and, detached, 'losses' [B] or [B, 2], 'positive_score' and 'negative_score' [B]."
        )
    losses, positive, negative = (outputs[key].detach() for key in OUTPUTS)
    size = samples.shape
    for key, value in zip(OUTPUTS, (losses, positive, negative), strict=True):
        if value.shape not in ((size, (*size, 2)) if key == "losses" else (size,)):
            raise RuntimeError(
                f"{name}.training_step returned {key!r} of shape {list(value.shape)} for a "
                f"batch of {len(samples)}. It must be [B]" + (" or [B, 2]." if key == "losses" else ".")
            )
    if weight_key is not None and losses.dim() == 2 and not pointwise:
        raise RuntimeError(
            f"{name}.training_step returned losses of shape [B, 2], but "
            f"batch[{weight_key!r}] is one weight per row, [B]. Return their mean, losses.mean(dim=1), so "
            "that both columns are weighted alike; or inherit llmhd_pl.SampleWeights; or set "
            "hparams.objective = 'bce' and multiply by weights of shape [B, 2]."
        )
    return losses, positive, negative
