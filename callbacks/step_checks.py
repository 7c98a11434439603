"""Checks of what a training step was given and what it returned; every error names the remedy."""

import math
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from llmhd_pl.batches import Key, look_up, named
from llmhd_pl.processes import reduced

OUTPUTS = ("losses", "positive_score", "negative_score")
"""What ``training_step`` may return besides ``loss``, detached."""
LOOKED_AT = 16
"""The batches of a fit that are checked where it would cost too much to check all: enough to find a mistake."""
_MANY = 32  # samples that do not draw the same item by chance
USERS, ITEMS, LABELS = ("user", "users", "user_id"), ("positive", "item", "item_id"), ("label", "labels", "target")
"""The names under which a batch's users, items and labels are found, and checked."""


def check_ends(trainer: Trainer) -> None:
    """Check that an epoch ends before the run does, where decisions are made at an epoch's end.

    Raises:
        RuntimeError: If it does not.
    """
    if math.isinf(trainer.num_training_batches) and trainer.max_steps != -1:
        raise RuntimeError(
            "The training data has no length and the run ends after max_steps, so a decision at the epoch's end "
            "would come after the last step. Set decide_every=... of SampleRecorder or of the method, in optimiser "
            "steps."
        )


def check_batch(batch: Any, sample_key: Key) -> tuple[Tensor, Tensor | None]:
    """Return the samples of a batch and the sampled items, if it has any.

    Args:
        batch: The batch of a training step.
        sample_key: Where the samples are.

    Returns:
        The samples, int64 of any shape, and the sampled items, int64 [B], or None.

    Raises:
        RuntimeError: If there are no samples, or if the sampled items are not of their shape.
    """
    sample, negative = look_up(batch, sample_key), look_up(batch, "negative")
    if sample is None:
        missing = sample_key if isinstance(sample_key, str) else named(sample_key)
        raise RuntimeError(
            f"The training batch has no {missing}{'' if negative is not None else ' and no negative'}. SampleRecorder "
            "needs a dict with the number of each row's training interaction ('sample') and, where there is one, the "
            "sampled item ('negative'), int64 [B]; for sequences 'sample' is [B, L]. Name it by "
            "sample_key=... of SampleRecorder or of the method, or give it: sample_weights(batch, losses, sample=...)."
        )
    if not isinstance(sample, Tensor) or sample.dtype != torch.int64:
        kind = getattr(sample, "dtype", type(sample).__name__)
        raise RuntimeError(f"The samples, {named(sample_key)}, are {kind}; they must be a tensor of torch.int64.")
    if negative is not None and (not isinstance(negative, Tensor) or negative.shape != sample.shape):
        shape = list(negative.shape) if isinstance(negative, Tensor) else type(negative).__name__
        raise RuntimeError(
            f"The training batch has 'sample' of shape {list(sample.shape)} and 'negative' of shape "
            f"{shape}; both must be [B]. With several sampled items per row, take the mean of their "
            "losses, [B], and give the first of them as 'negative', or give none: it is not needed."
        )
    return sample, negative


def check_numbers(sample: Tensor, size: int, padded: bool = True) -> None:
    """Check the numbers of samples.

    Args:
        sample: The samples, int64 of any shape.
        size: The number of training interactions.
        padded: Whether -1 is padding, and not a mistake.

    Raises:
        IndexError: If one of them is neither a row of the interactions nor padding.
    """
    if not sample.numel():
        return
    lowest, highest = sample.aminmax()
    first = -1 if padded else 0
    if int(lowest) < first or int(highest) >= size:
        wrong = sample[(sample >= size) | (sample < first)]
        padding = "-1 is padding" if padded else "there is no padding, because the module says never_padded"
        raise IndexError(
            f"The training batch names sample {int(wrong[0])}, but there are {size:,} training interactions, whose "
            f"numbers are the rows of users and items, from 0; {padding}. Count from 0, in the order of users and "
            "items, and give all of them."
        )


def check_order(batch: Any, sample: Tensor, users: Tensor, items: Tensor) -> None:
    """Check that a batch and the training interactions name the same users and items, by whatever numbers.

    Args:
        batch: The batch of a training step.
        sample: Its samples, int64; only [B] is checked.
        users: The user of each training sample, int64 [n].
        items: The item of each training sample, int64 [n].

    Raises:
        RuntimeError: If the samples of one user, or of one item, belong to several.
    """
    for what, names, owners in (("user", USERS, users), ("item", ITEMS, items)):
        for name in names:
            given = look_up(batch, name)
            if not isinstance(given, Tensor) or given.shape != sample.shape or given.is_floating_point():
                continue
            rows = (sample >= 0).nonzero().flatten().cpu() if sample.dim() == 1 else torch.empty(0, dtype=torch.int64)
            pairs = torch.stack([given.cpu()[rows], owners[sample.cpu()[rows]]], dim=1).unique(dim=0)
            again = (pairs[1:, 0] == pairs[:-1, 0]).nonzero().flatten()
            if len(again):
                (one, first), (_, second) = pairs[again[0]].tolist(), pairs[again[0] + 1].tolist()
                raise RuntimeError(
                    f"The batch's samples of {what} {one} (batch[{name!r}]) belong to the {what}s {first} and {second} "
                    f"of the training interactions: they are in another order. Row s of {what}s must be sample s."
                )


def check_labels(batch: Any, sample: Tensor, known: Tensor | None = None) -> None:
    """Check that the labels of a batch, if it has any, are those that are known.

    Args:
        batch: The batch of a training step.
        sample: Its samples, int64 of any shape.
        known: The label of each training sample, 0 or 1, int64 [n]; None takes all samples for likes.

    Raises:
        RuntimeError: If the batch has labels of 0 and 1, and none are known, or others.
    """
    for name in LABELS:
        labels = look_up(batch, name)
        if not isinstance(labels, Tensor) or labels.shape != sample.shape:
            continue
        rows = sample[sample >= 0]
        labels = labels[sample >= 0]
        if not bool(((labels == 0) | (labels == 1)).all()):
            continue
        if known is None and bool((labels == 0).any()):
            raise RuntimeError(
                f"batch[{name!r}] has labels of 0 and 1, but without labels every sample is judged as a like. Give "
                "them, one for each training sample: labels=... of SampleRecorder or of the method."
            )
        if known is not None and bool((differs := labels.cpu() != known[rows.cpu()]).any()):
            row = int(differs.nonzero()[0])
            raise RuntimeError(
                f"batch[{name!r}] is {int(labels[row])} for sample {int(rows[row])}, and labels[{int(rows[row])}] is "
                f"{int(known[rows[row].cpu()])}: they are in another order. Row s of labels must be sample s."
            )


def check_recorded(module: LightningModule, recorded: Tensor, epoch: int) -> None:
    """Check that an epoch has recorded something.

    Args:
        module: The module; the error names its class.
        recorded: The number of samples that all processes have recorded, a scalar.
        epoch: The epoch.

    Raises:
        RuntimeError: If it has not, because then there is nothing to decide by.
    """
    if recorded == 0:
        raise RuntimeError(
            f"Nothing was recorded in epoch {epoch}, so that nothing could be decided: {type(module).__name__}."
            "training_step returned None in every step, or all samples were padding (-1), or it never came to the "
            "losses. A step that optimises by itself must set self.automatic_optimization = False."
        )


def check_owners(trainer: Trainer, mine: Tensor) -> None:
    """Check that no sample is trained on by several processes. Every process must call it.

    Args:
        trainer: The trainer.
        mine: Which samples this process has trained on, uint8 [n].

    Raises:
        RuntimeError: If one is.
    """
    if trainer.world_size > 1 and int((owners := reduced(trainer, mine.int())).max()) > 1:
        raise RuntimeError(
            f"Sample {int(owners.argmax())} was trained on by {int(owners.max())} processes. What is known of a "
            "sample stays with its process: let each process have samples (better: users) of its own for the whole "
            "run, as the data modules of llmhd_pl do; a sampler that shuffles over all processes cannot be used. "
            "For a data loader of your own set Trainer(use_distributed_sampler=False)."
        )


def check_negatives(negatives: Tensor) -> None:
    """Check that the sampled items of an epoch are no dummy.

    Args:
        negatives: The sampled items, int32 [n]; -1 where there is none.

    Raises:
        RuntimeError: If many samples have all the same one.
    """
    there = negatives[negatives >= 0]
    if len(there) >= _MANY and bool(there.min() == there.max()):
        raise RuntimeError(
            f"The sampled item of all {len(there):,} samples, batch['negative'], is item {int(there[0])}. A dummy is "
            "not needed: leave 'negative' out of the batch if the module samples no items."
        )


def checked_outputs(
    module: LightningModule, outputs: Any, samples: Tensor, weight_key: Key | None, pointwise: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses and the two predictions of a step, detached.

    Args:
        module: The module; errors name its class.
        outputs: What ``training_step`` returned.
        samples: The samples of the batch, int64 [B].
        weight_key: Where the weights are in the batch; None for a module with ``SampleWeights``.
        pointwise: Whether the weights in the batch are [B, 2].

    Raises:
        RuntimeError: If one of them is missing or has another shape than [B] (losses also [B, 2]).
    """
    name = type(module).__name__
    missing = [key for key in OUTPUTS if key not in outputs]
    if missing:
        raise RuntimeError(
            f"{name}.training_step returned no {', '.join(missing)}. Let it return a dict with "
            "'loss' and, detached, 'losses' [B] or [B, 2], 'positive_score' and 'negative_score' [B], or none of them."
        )
    given = (outputs[key] for key in OUTPUTS)
    losses, positive, negative = (value.detach() if value.requires_grad else value for value in given)
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
            f"{named(weight_key)} is one weight per row, [B]. Return their mean, losses.mean(dim=1), so "
            "that both columns are weighted alike; or inherit llmhd_pl.SampleWeights; or set "
            "hparams.objective = 'bce' and multiply by weights of shape [B, 2]."
        )
    return losses, positive, negative
