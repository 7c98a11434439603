"""What an observed item is compared with in a training step: sampled items, candidates, or items of the whole batch."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from llmhd_pl.losses import bce_loss, bpr_loss, softmax_loss
from llmhd_pl.sample_weights import Batch
from llmhd_pl.training_data import training_interactions

if TYPE_CHECKING:
    from llmhd_pl.backbones.base import Backbone, Negatives, Objective

_SHARED = 512  # items that a whole batch is compared with: one product, which costs less than a step without it


class Comparison(NamedTuple):
    """The un-reduced losses of a batch, [B] or [B, 2], and what they were computed from, [B]."""

    losses: Tensor
    positive_score: Tensor
    negative_score: Tensor
    negative: Tensor
    """The sampled item of each sample, int64; with "hardest" the candidate that was chosen."""


def chosen_negatives(objective: "Objective", negatives: "Negatives | None") -> "Negatives":
    """Return what observed items are compared with: what was asked for, or the default of the objective.

    Args:
        objective: The loss.
        negatives: The items, or None for the default; see ``Backbone``.

    Raises:
        ValueError: If the objective is unknown, or does not go with the negatives.
    """
    if objective not in ("bpr", "bce", "softmax"):
        raise ValueError(f"objective is {objective!r}; it must be 'bpr', 'bce' or 'softmax'.")
    softmax: tuple[Negatives, ...] = ("shared", "in-batch", "uniform")
    others: tuple[Negatives, ...] = ("uniform", "hardest")
    allowed = softmax if objective == "softmax" else others
    if negatives is None:
        return allowed[0]
    if negatives not in allowed:
        raise ValueError(
            f"negatives is {negatives!r}; with the objective {objective!r} it must be one of {', '.join(allowed)}."
        )
    return negatives


def log_popularity(model: "Backbone") -> Tensor:
    """Return the logarithm of each item's share of the training interactions, of which it has at least one: [items].

    Args:
        model: The model, in a fit.

    Raises:
        RuntimeError: If the trainer's data module does not know the interactions.
    """
    remedy = "Pass a data module that has them, or train with negatives='shared'."
    _, items = training_interactions(model.trainer, model, remedy)
    counts = torch.bincount(items, minlength=model.num_items).clamp(min=1)
    return (counts / len(items)).log()


def compare(model: "Backbone", batch: Batch) -> Comparison:
    """Compare the observed items of a batch with others, as the model's ``objective`` and ``negatives`` say.

    Args:
        model: The model.
        batch: The training batch.

    Raises:
        RuntimeError: If the batch has no candidates though they are needed.
    """
    users, positive, negative = batch["user"], batch["positive"], batch["negative"]
    if model.negatives in ("shared", "in-batch"):
        return _with_shared(model, batch)
    single = model.objective != "softmax" and model.negatives == "uniform"
    candidates = negative[:, None] if single else _candidates(model, batch)
    predictions = model.score(users.repeat(1 + candidates.shape[1]), torch.cat([positive, candidates.t().flatten()]))
    positive_score, scores = predictions[: len(users)], predictions[len(users) :].view(candidates.shape[1], -1)
    if model.objective == "softmax":
        losses = softmax_loss(positive_score, scores.t(), model.softmax_temperature)
        return Comparison(losses, positive_score, scores[0], negative)
    negative_score = scores[0]
    if not single:
        hardest = scores.detach().argmax(dim=0, keepdim=True)
        negative_score, negative = scores.gather(0, hardest)[0], candidates.gather(1, hardest.t())[:, 0]
    loss = bpr_loss if model.objective == "bpr" else bce_loss
    return Comparison(loss(positive_score, negative_score), positive_score, negative_score, negative)


def _with_shared(model: "Backbone", batch: Batch) -> Comparison:
    users, positive, negative = batch["user"], batch["positive"], batch["negative"]
    corrected = model.negatives == "in-batch"
    shared = (positive if corrected else batch.get("shared", negative))[:_SHARED]
    own, against = model.score_against(users, torch.stack([positive, negative], dim=1), shared)
    observed, excluded = own[:, 0], shared.int() == positive.int()[:, None]
    if corrected:
        assert model.log_share is not None
        popularity = model.softmax_temperature * model.log_share
        observed, against = observed - popularity[positive], against - popularity[shared]
    losses = softmax_loss(observed, against, model.softmax_temperature, excluded)
    return Comparison(losses, own[:, 0], own[:, 1], negative)


def _candidates(model: "Backbone", batch: Batch) -> Tensor:
    if "candidates" not in batch:
        raise RuntimeError(
            f"The training batch has no 'candidates', int64 [B, k], which negatives={model.negatives!r} with the "
            f"objective {model.objective!r} chooses from. Give the data module a num_negatives of 2 or more."
        )
    return batch["candidates"]
