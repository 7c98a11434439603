"""Which suspicious samples are hard: three rules over the scores of the language model (docs/paper.md, section 3).

Scores go from 1 to 10. NaN is no answer, and a sample without an answer is never hard.
"""

from typing import Literal

import torch
from torch import Tensor

from llmhd_pl.denoising.epoch import Epoch
from llmhd_pl.denoising.schedules import ramp
from llmhd_pl.denoising.selection import Reduce, alone, largest, telling
from llmhd_pl.denoising.store import CANDIDATE, CLEAN, HARD, NOISE
from llmhd_pl.precision import widest_dtype
from llmhd_pl.scale import FITTING

Rule = Literal["paper", "consistent", "joint"]
RULES: tuple[Rule, ...] = ("paper", "consistent", "joint")


def asks_about_sampled(rule: Rule, pointwise: bool, of_interactions: bool) -> bool:
    """Tell whether the language model is asked about sampled items, and not about the observed ones alone.

    Args:
        rule: The rule. Of a pair of items, only the printed one looks at the sampled item.
        pointwise: Whether the losses are of one item each.
        of_interactions: Whether the drop rate is a share of the observed interactions, so that of single items only
            these can become candidates.

    Returns:
        Whether the sampled item of a candidate, or with pointwise losses a sampled item, may be asked about.
    """
    return not of_interactions if pointwise else rule == "paper"


def paper_pairwise(positive: Tensor, negative: Tensor, threshold: float) -> Tensor:
    """Apply the rule as printed to pairs: hard if ``s(u, i) - s(u, j) < eps_pair(T)``.

    Args:
        positive: The scores of the observed items, s(u, i), [n].
        negative: The scores of the sampled items, s(u, j), [n].
        threshold: The threshold eps_pair(T), which falls from 7 to 3.

    Returns:
        Whether each pair is hard, bool [n].
    """
    return positive - negative < threshold


def paper_pointwise(positive: Tensor, negative: Tensor, low: float, high: float) -> Tensor:
    """Apply the rule as printed to single items: hard if ``s(u, i) < eps_pos(T)``, or if ``s(u, j) > eps_neg(T)``.

    Args:
        positive: The scores of the observed items, s(u, i), [n].
        negative: The scores of the sampled items, s(u, j), [n].
        low: The threshold eps_pos(T), which falls from 8 to 6.
        high: The threshold eps_neg(T), which rises from 2 to 4.

    Returns:
        Whether each item is hard, bool [n, 2].
    """
    return torch.stack([positive < low, negative > high], dim=1)


def consistent(positive: Tensor, negative: Tensor | None = None) -> Tensor:
    """Call a sample hard if the language model agrees with its label: the observed item fits, the sampled one does not.

    For a pair of items the observed one decides, because the gap to a randomly drawn negative is mostly chance.

    Args:
        positive: The scores of the observed items, s(u, i), [n].
        negative: The scores of the sampled items, s(u, j), [n], for the pointwise objective.

    Returns:
        Whether each is hard, bool [n], or [n, 2] with ``negative``.
    """
    hard = positive >= FITTING
    return hard if negative is None else torch.stack([hard, negative < FITTING], dim=1)


def joint(
    losses: Tensor,
    agreement: Tensor,
    rate: float,
    weight: float = 1.0,
    reduce: Reduce = alone,
    labels: Tensor | None = None,
) -> Tensor:
    """Let loss and score decide together: drop the samples with the largest ``z(loss) - weight * z(agreement)``.

    z subtracts the mean and divides by the standard deviation. For a sample without a score, z(agreement) is 0, so that
    its loss alone decides.

    Args:
        losses: The losses, [n] or [n, 2]; NaN marks samples that are not considered.
        agreement: The agreement of the language model with the label, of the shape of the losses: s(u, i) for observed
            items, -s(u, j) for sampled ones and for items with label 0; NaN is no answer.
        rate: The fraction of the losses to drop.
        weight: The weight of the score against the loss.
        reduce: Sums a tensor over the processes.
        labels: The labels of the samples, 0 or 1, [n]; with them each label is a group of its own, with its own z.

    Returns:
        What is dropped, bool of the shape of the losses. It is nothing if neither loss nor score tells samples apart.
    """
    if labels is not None:
        ones, zeros = (
            joint(
                losses.where(labels == label, torch.nan),
                agreement.where(labels == label, torch.nan),
                rate,
                weight,
                reduce,
            )
            for label in (1, 0)
        )
        return ones | zeros
    key = _standard(losses, reduce)
    if losses.dim() == 2:
        for column in range(2):
            key[:, column] -= weight * _standard(agreement[:, column], reduce).nan_to_num(0.0)
    else:
        key -= weight * _standard(agreement, reduce).nan_to_num(0.0)
    if not telling(key, reduce):
        return torch.zeros_like(losses, dtype=torch.bool)
    return largest(key.flatten(), rate, reduce).view(losses.shape)


def _standard(values: Tensor, reduce: Reduce) -> Tensor:
    exact = widest_dtype(values.device)
    values = values.to(exact)
    count, total = reduce(torch.stack([(~values.isnan()).sum().to(exact), values.nansum()])).unbind()
    centred = values - total / count.clamp(min=1)
    deviation = (reduce(centred.square().nansum()) / count.clamp(min=1)).sqrt()
    return (centred / deviation.clamp(min=1e-12)).float()


def decide(rule: Rule, epoch: Epoch, positive: Tensor, negative: Tensor, score_weight: float = 1.0) -> Tensor:
    """Return the status of every sample once the language model has answered (docs/paper.md, section 3).

    Args:
        rule: "paper", "consistent" or "joint".
        epoch: The epoch, after ``VariancePruning`` has selected the noise set and the candidates.
        positive: The scores of the observed items, float32 [n]; NaN is no answer.
        negative: The scores of the sampled items, float32 [n].
        score_weight: The weight of the score against the loss, in the rule "joint".

    Returns:
        uint8, the shape of ``epoch.status``. No candidate is left: each is hard or noise.
    """
    status, pairwise, labels = epoch.status.clone(), not epoch.pointwise, epoch.labels
    positive, negative = positive.to(status.device), negative.to(status.device)
    if rule == "joint":
        agreement = positive if pairwise else torch.stack([positive, -negative], dim=1)
        if labels is not None:
            agreement = positive.where(labels == 1, -positive)
        dropped = joint(epoch.droppable, agreement, epoch.droppable_rate, score_weight, epoch.reduce, labels)
        status[status != CLEAN] = HARD
        status[dropped] = NOISE
        return status
    low, high = ramp(epoch.progress, 1, 8.0, 6.0), ramp(epoch.progress, 1, 2.0, 4.0)
    if labels is not None:  # an item with label 0 is what a sampled one is to the pointwise objective
        both = (
            consistent(positive, positive) if rule == "consistent" else paper_pointwise(positive, positive, low, high)
        )
        hard = both[:, 0].where(labels == 1, both[:, 1])
    elif rule == "consistent":
        hard = consistent(positive, None if pairwise else negative)
    elif pairwise:
        hard = paper_pairwise(positive, negative, ramp(epoch.progress, 1, 7.0, 3.0))
    else:
        hard = paper_pointwise(positive, negative, low, high)
    candidates = status == CANDIDATE
    status[candidates] = torch.where(hard[candidates], HARD, NOISE).to(status.dtype)
    return status
