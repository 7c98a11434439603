"""The methods that LLMHD is compared with, as formulas of a batch's losses (docs/paper.md, section 7).

Predictions are computed from the losses, which is exact for both objectives: a loss is -log p, where p is sigmoid(y)
for an observed item, 1 - sigmoid(y) for a sampled one (BCE), and sigmoid(s_pos - s_neg) for a pair (BPR).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from llmhd_pl.denoising.store import observed

Gather = Callable[[Tensor], tuple[Tensor, int]]
"""The values of all processes, one process after another, [m], and where this process's own begin."""
WINDOW = 3
"""Epochs over which DCF takes a sample's mean loss (``time_step`` in the released code)."""
VARIANCE = 1e-4
"""DCF's sigma^2 in the first epoch (``co_lambda`` in the released code)."""


def alone(values: Tensor) -> tuple[Tensor, int]:
    """``Gather`` for one process."""
    return values, 0


def num_dropped(losses: Tensor, number: int, rate: float) -> int:
    """Return how many samples of a batch are dropped if ``int((1 - rate) * size)`` stay, as in the released codes.

    Args:
        losses: The losses, [B] or [B, 2]; only their dimensions matter. With two columns both count as samples.
        number: The number of rows of the batch over all processes.
        rate: The fraction of all samples.
    """
    size = 2 * number if losses.dim() == 2 else number
    return size - int((1 - rate) * size)


def places(keys: Tensor, gather: Gather = alone) -> tuple[Tensor, int]:
    """Return the place of each key among those of all processes, 0 for the largest; ties go to the earlier one.

    Args:
        keys: The keys of this process, [B].
        gather: Brings the keys of all processes together.

    Returns:
        The places, int64 [B], and the number of keys of all processes.
    """
    everything, start = gather(keys)
    order = everything.argsort(descending=True, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return place[start : start + len(keys)], len(order)


def truncated(losses: Tensor, rate: float, gather: Gather = alone, liked: Tensor | None = None) -> Tensor:
    """Return the weights of T-CE (Wang et al., WSDM 2021), which drops the highest losses of observed items.

    Every sample of the batch has a key: an observed item its loss, a sampled one 0. The ``int((1 - rate) * size)``
    lowest keys stay. The size counts the sampled items, but these are never dropped; so, with pointwise losses, twice
    the rate of the observed items is. (Beyond a rate of one half the released code goes on with sampled items, in no
    particular order; here none is dropped.) The pairwise form drops the highest losses.

    Args:
        losses: The losses of this process, [B] (pairwise) or [B, 2] (pointwise).
        rate: The fraction of the samples of the batch, delta.
        gather: Brings the losses of all processes together, so that they drop what one process would drop.
        liked: Whether each row is an observed item, bool [B], where rows of observed and of sampled items are mixed;
            None if all rows are.

    Returns:
        Weights 0 or 1, of the shape of the losses.
    """
    weights = torch.ones_like(losses)
    observed(weights)[_chosen(losses, observed(losses), rate, gather, liked)[0]] = 0.0
    return weights


def _chosen(
    losses: Tensor, keys: Tensor, rate: float, gather: Gather, liked: Tensor | None, relabel_ratio: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return which rows have the highest keys, as many as are to be dropped, and which the very highest of these."""
    if liked is not None:
        keys = keys.where(liked, -torch.inf)
    place, number = places(keys, gather)
    goes = num_dropped(losses, number, rate)
    highest, very = place < goes, place < int(relabel_ratio * goes)
    return (highest, very) if liked is None else (highest & liked, very & liked)


def reweighted(losses: Tensor, beta: float) -> Tensor:
    """Return the weights of R-CE (Wang et al., WSDM 2021): a loss weighs less the higher it is.

    The weight is sigmoid(y)^beta for an observed item, (1 - sigmoid(y))^beta for a sampled one, and, pairwise,
    sigmoid(s_pos - s_neg)^beta. Each is p^beta, and the loss is -log p.

    Args:
        losses: The losses, [B] or [B, 2], without gradient; the weights have none either.
        beta: How steeply the weight falls; 0 weighs all alike.

    Returns:
        Weights of the shape of the losses, for a plain mean: do not divide by their sum.
    """
    return torch.exp(-beta * losses)


def damped(losses: Tensor) -> Tensor:
    """Return DCF's phi(l) = log(1 + l + l^2 / 2), which dampens very high losses (He et al., KDD 2024, equation 2)."""
    return torch.log1p(losses + losses.square() / 2)


def variance_at(epoch: int, num_epochs: int) -> float:
    """Return DCF's sigma^2, which falls in a straight line from 1e-4 in the first epoch to 0 in the last."""
    return VARIANCE * (1 - min(epoch / max(num_epochs - 1, 1), 1.0))


def lower_bound(mean: Tensor, seen: Tensor, kept: Tensor, variance: float) -> Tensor:
    """Return DCF's lower bound of the loss, l* (He et al., KDD 2024, equations 3 and 4).

    ``relu(mean - sigma^2 (s + sigma^2 log(2 s) / s^2) / (n + 1 - sigma^2))``

    Args:
        mean: The mean of the damped losses of the last epochs, [B].
        seen: The number of epochs in which the sample was seen, including this one, s; at least 1, [B].
        kept: The number of epochs before this one in which it was kept, n, [B].
        variance: The variance sigma^2.
    """
    width = seen + variance * torch.log(2.0 * seen) / seen.square()
    return torch.relu(mean - variance * width / (kept + 1 - variance))


def double_corrected(
    losses: Tensor,
    bounds: Tensor,
    rate: float,
    relabel_ratio: float,
    gather: Gather = alone,
    liked: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return weights and counts of DCF (He et al., KDD 2024): drop the highest bounds, relabel the very highest.

    Bounds replace the keys of T-CE. Of the samples that would be dropped, the highest ``relabel_ratio`` (rounded down)
    are relabelled instead: their label becomes 0, and their loss softplus(y) in place of softplus(-y). The weight of
    such a loss is the ratio of the derivatives, -sigmoid(y) / (1 - sigmoid(y)) = -1 / (exp(loss) - 1), which turns the
    gradient of the computed loss into exactly that of the flipped one. (It does not turn the value: in the reported
    mean a flipped loss is a number between -1 and 0.) The pairwise form swaps the pair.

    Args:
        losses: The losses of this process, [B] (pairwise) or [B, 2] (pointwise), without gradient.
        bounds: The bounds l* of the observed items or of the pairs, [B].
        rate: The fraction of the samples of the batch, delta.
        relabel_ratio: The fraction of the samples to be dropped that is relabelled, r.
        gather: Brings the bounds of all processes together, so that they decide what one process would decide.
        liked: See ``truncated``.

    Returns:
        Weights of the shape of the losses: 1, or 0 for a dropped loss, or negative for a flipped one; and what each
        loss counts in the mean: 1, or 0 for a dropped one.
    """
    highest, flipped = _chosen(losses, bounds, rate, gather, liked, relabel_ratio)
    dropped = highest & ~flipped
    weights, counts = torch.ones_like(losses), torch.ones_like(losses)
    observed(weights)[dropped] = observed(counts)[dropped] = 0.0
    # A loss of 1e-30 (y = 69) is never flipped; its weight must not become infinite.
    flip = -1 / torch.expm1(observed(losses).float().clamp(min=1e-30))
    observed(weights).copy_(torch.where(flipped, flip.to(weights.dtype), observed(weights)))
    return weights, counts


class LossHistory:
    """The damped losses of the last epochs, kept by sample and not by its place in a shuffled epoch.

    Every sample has its own count of how often it was seen, so that interrupted and resumed epochs do no harm.

    Args:
        num_samples: The number of samples, n.
        device: The device of the tensors.
    """

    damped: Tensor
    """float32 [3, n], a ring of the last epochs; 0 where there is none yet."""
    seen: Tensor
    """int32 [n], s: how often the sample was seen."""
    kept: Tensor
    """int32 [n], n: how often the sample was neither dropped nor flipped."""

    def __init__(self, num_samples: int, device: torch.device | str = "cpu") -> None:
        self.damped = torch.zeros(WINDOW, num_samples, device=device)
        self.seen = torch.zeros(num_samples, dtype=torch.int32, device=device)
        self.kept = torch.zeros(num_samples, dtype=torch.int32, device=device)

    def bounds(self, sample: Tensor, losses: Tensor, variance: float) -> Tensor:
        """Record the losses of some samples in this epoch, and return their lower bounds.

        Args:
            sample: The samples, int64 [B], each at most once.
            losses: The losses of the observed items or of the pairs, [B].
            variance: The variance sigma^2.

        Returns:
            The bounds, float32 [B].
        """
        self.damped[self.seen[sample].long() % WINDOW, sample] = damped(losses.float())
        self.seen[sample] += 1
        seen = self.seen[sample]
        mean = self.damped[:, sample].sum(dim=0) / seen.clamp(max=WINDOW)
        return lower_bound(mean, seen.float(), self.kept[sample].float(), variance)

    def keep(self, sample: Tensor, kept: Tensor) -> None:
        """Count the samples, int64 [B], that were kept, bool [B]."""
        self.kept[sample] += kept.int()
