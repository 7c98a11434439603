"""The methods that LLMHD is compared with, as formulas of a batch's losses (PAPER.md, "The baselines, exactly").

Predictions are read off the losses, which is exact for both objectives: a loss is -log p, p being sigmoid(y) for an
observed item, 1 - sigmoid(y) for a sampled one (BCE), and sigmoid(s_pos - s_neg) for a pair (BPR).
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
    """How many samples go from a batch of which ``int((1 - rate) * size)`` stay, as the released codes count.

    Args:
        losses: [B] or [B, 2]; only its dimensions matter. With two columns both count as samples.
        number: rows of the batch over all processes.
        rate: of all samples.
    """
    size = 2 * number if losses.dim() == 2 else number
    return size - int((1 - rate) * size)


def places(keys: Tensor, gather: Gather = alone) -> tuple[Tensor, int]:
    """The place of each key among those of all processes, 0 for the largest; of equal ones the earlier comes first.

    Args:
        keys: [B], of this process.
        gather: brings the keys of all processes together.

    Returns:
        int64 [B], and the number of keys of all processes.
    """
    everything, start = gather(keys)
    order = everything.argsort(descending=True, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return place[start : start + len(keys)], len(order)


def truncated(losses: Tensor, rate: float, gather: Gather = alone) -> Tensor:
    """T-CE (Wang et al., WSDM 2021): the highest losses of observed items are dropped.

    Give every sample of the batch a key, an observed item its loss and a sampled one 0: the ``int((1 - rate) * size)``
    lowest keys stay. The size counts the sampled items, which have no key to fall for; so, pointwise, twice the rate of
    the observed ones goes. (Beyond a rate of one half the released code goes on with sampled items, in no order; here
    none goes.) The pairwise form drops the highest of the losses.

    Args:
        losses: of this process, [B] (pairwise) or [B, 2] (pointwise).
        rate: delta, of the samples of the batch.
        gather: brings the losses of all processes together, so that they drop what one process would drop.

    Returns:
        Weights 0 or 1, the shape of the losses.
    """
    place, number = places(observed(losses), gather)
    weights = torch.ones_like(losses)
    observed(weights)[place < num_dropped(losses, number, rate)] = 0.0
    return weights


def reweighted(losses: Tensor, beta: float) -> Tensor:
    """R-CE (Wang et al., WSDM 2021): a loss weighs less the higher it is.

    The weight is sigmoid(y)^beta for an observed item, (1 - sigmoid(y))^beta for a sampled one, and, pairwise,
    sigmoid(s_pos - s_neg)^beta: each time p^beta, and the loss is -log p.

    Args:
        losses: [B] or [B, 2], without gradient; then so are the weights.
        beta: 0 weighs all alike.

    Returns:
        Weights, the shape of the losses, for a plain mean: their sum must not divide.
    """
    return torch.exp(-beta * losses)


def damped(losses: Tensor) -> Tensor:
    """DCF's phi(l) = log(1 + l + l^2 / 2), which one very high loss moves little (He et al., KDD 2024, equation 2)."""
    return torch.log1p(losses + losses.square() / 2)


def variance_at(epoch: int, num_epochs: int) -> float:
    """DCF's sigma^2: falls in a straight line from 1e-4 in the first epoch to 0 in the last."""
    return VARIANCE * (1 - min(epoch / max(num_epochs - 1, 1), 1.0))


def lower_bound(mean: Tensor, seen: Tensor, kept: Tensor, variance: float) -> Tensor:
    """How low a sample's loss may be, given how seldom it was kept: DCF's l* (He et al., KDD 2024, equations 3 and 4).

    ``relu(mean - sigma^2 (s + sigma^2 log(2 s) / s^2) / (n + 1 - sigma^2))``

    Args:
        mean: of the damped losses of the last epochs, [B].
        seen: s, epochs in which the sample was seen, this one included; at least 1, [B].
        kept: n, epochs before this one in which it was kept, [B].
        variance: sigma^2.
    """
    width = seen + variance * torch.log(2.0 * seen) / seen.square()
    return torch.relu(mean - variance * width / (kept + 1 - variance))


def double_corrected(
    losses: Tensor, bounds: Tensor, rate: float, relabel_ratio: float, gather: Gather = alone
) -> tuple[Tensor, Tensor]:
    """DCF (He et al., KDD 2024): the highest bounds are dropped, the highest of them relabelled.

    Bounds take the place of T-CE's keys. Of the samples that go, the highest ``relabel_ratio`` (rounded down) come
    back as what they seem to be: their label is 0, and their loss softplus(y) in place of softplus(-y). The ratio of
    the derivatives, -sigmoid(y) / (1 - sigmoid(y)) = -1 / (exp(loss) - 1), is the weight by which the loss that was
    computed gives the gradient of the flipped one, exactly. (Its value it does not give: in the reported mean a flipped
    loss is a number between -1 and 0.) The pairwise form turns the pair round.

    Args:
        losses: of this process, [B] (pairwise) or [B, 2] (pointwise), without gradient.
        bounds: l* of the observed items, or of the pairs, [B].
        rate: delta, of the samples of the batch.
        relabel_ratio: r, of the samples that go.
        gather: brings the bounds of all processes together, so that they decide what one process would decide.

    Returns:
        Weights, the shape of the losses: 1, 0 where it was dropped, negative where it was flipped; and what each counts
        in the mean: 1, or 0 where it was dropped.
    """
    place, number = places(bounds, gather)
    goes = num_dropped(losses, number, rate)
    flipped = place < int(relabel_ratio * goes)
    dropped = (place < goes) & ~flipped
    weights, counts = torch.ones_like(losses), torch.ones_like(losses)
    observed(weights)[dropped] = observed(counts)[dropped] = 0.0
    # A loss of 1e-30 (y = 69) has a label that nobody would flip; it must not become 0 * infinity.
    flip = -1 / torch.expm1(observed(losses).float().clamp(min=1e-30))
    observed(weights).copy_(torch.where(flipped, flip.to(weights.dtype), observed(weights)))
    return weights, counts


class LossHistory:
    """The damped losses of each sample's last epochs, by sample and not by its place in a shuffled epoch.

    Every sample counts for itself how often it was seen, so that neither a broken epoch nor a resumed one matters.

    Args:
        num_samples: n.
        device: where the tensors lie.
    """

    damped: Tensor
    """float32 [3, n], in turn; 0 where none is."""
    seen: Tensor
    """int32 [n], s."""
    kept: Tensor
    """int32 [n], how often the sample was neither dropped nor flipped."""

    def __init__(self, num_samples: int, device: torch.device | str = "cpu") -> None:
        self.damped = torch.zeros(WINDOW, num_samples, device=device)
        self.seen = torch.zeros(num_samples, dtype=torch.int32, device=device)
        self.kept = torch.zeros(num_samples, dtype=torch.int32, device=device)

    def bounds(self, sample: Tensor, losses: Tensor, variance: float) -> Tensor:
        """Write down this epoch's losses of some samples, and take their lower bounds.

        Args:
            sample: int64 [B], none twice.
            losses: of the observed items, or of the pairs, [B].
            variance: sigma^2.

        Returns:
            float32 [B].
        """
        self.damped[self.seen[sample].long() % WINDOW, sample] = damped(losses.float())
        self.seen[sample] += 1
        seen = self.seen[sample]
        mean = self.damped[:, sample].sum(dim=0) / seen.clamp(max=WINDOW)
        return lower_bound(mean, seen.float(), self.kept[sample].float(), variance)

    def keep(self, sample: Tensor, kept: Tensor) -> None:
        """Count for each sample, int64 [B], whether it was kept, bool [B]."""
        self.kept[sample] += kept.int()
