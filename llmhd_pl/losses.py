"""Un-reduced losses: one number per sample (pairwise) or per observed and sampled item (pointwise); and InfoNCE."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_ROWS = 128  # anchors at once: their products with 10,000 candidates stay in a processor's cache


def bpr_loss(positive_score: Tensor, negative_score: Tensor) -> Tensor:
    """Bayesian personalised ranking, ``-log sigmoid(positive - negative)`` (Rendle et al., UAI 2009, section 4.1).

    Args:
        positive_score: predictions of the observed items, [B].
        negative_score: predictions of the sampled items, [B].

    Returns:
        [B].
    """
    return F.softplus(negative_score - positive_score)


def bce_loss(positive_score: Tensor, negative_score: Tensor) -> Tensor:
    """Binary cross-entropy on logits, label 1 for the observed and 0 for the sampled item.

    Args:
        positive_score: predictions (logits) of the observed items, [B].
        negative_score: predictions (logits) of the sampled items, [B].

    Returns:
        [B, 2]: column 0 the observed, column 1 the sampled item.
    """
    return torch.stack([F.softplus(-positive_score), F.softplus(negative_score)], dim=1)


class _LogSumExp(torch.autograd.Function):
    """``(counts * (anchors @ candidates.T).logsumexp(dim=1)).sum()`` without ever holding the whole product, [n, m].

    Since the result is a number, its gradient is known but for a factor while each part of the product is still in the
    cache: to multiply once more, or to read the product back from memory, would take half as long again.
    """

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
        total = anchors.new_zeros(())
        of_anchors, of_candidates = torch.empty_like(anchors), torch.zeros_like(candidates)
        for start in range(0, len(anchors), _ROWS):
            part = slice(start, start + _ROWS)
            exponentials = anchors[part] @ candidates.t()
            highest = exponentials.amax(dim=1, keepdim=True)
            sums = exponentials.sub_(highest).exp_().sum(dim=1, keepdim=True)
            total += (counts[part] * (sums.log() + highest).squeeze(1)).sum()
            weights = counts[part, None] / sums
            of_anchors[part] = weights * (exponentials @ candidates)
            of_candidates.addmm_(exponentials.t(), weights * anchors[part])
        ctx.save_for_backward(of_anchors, of_candidates)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        of_anchors, of_candidates = ctx.saved_tensors
        return upstream * of_anchors, upstream * of_candidates, None


def info_nce(anchors: Tensor, positives: Tensor, candidates: Tensor, temperature: float, counts: Tensor) -> Tensor:
    """Sum of InfoNCE on cosines, ``-log(exp(a p / t) / sum_c exp(a c / t))`` (van den Oord et al., 2018, equation 4).

    In float32 under autocast too: bf16 would round a cosine of nearly 1, divided by the temperature, to steps of .04.

    Args:
        anchors: [n, d].
        positives: what each anchor should be like, [n, d].
        candidates: what it is compared with, the positives among them, [m, d].
        temperature: t.
        counts: how many times each anchor counts, [n]; a node that is twice in the batch need be multiplied only once.

    Returns:
        Scalar.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        anchors = F.normalize(anchors.float(), dim=1) / temperature
        agreement = (anchors * F.normalize(positives.float(), dim=1)).sum(dim=1)
        everyone: Tensor = _LogSumExp.apply(  # type: ignore[no-untyped-call]
            anchors, F.normalize(candidates.float(), dim=1), counts.float()
        )
        return everyone - (counts * agreement).sum()
