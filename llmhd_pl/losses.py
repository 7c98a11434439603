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
    """``(anchors @ candidates.T).logsumexp(dim=1)`` without ever holding the whole product, [n, m].

    The gradient multiplies once more instead of reading the product back from memory, which takes twice as long.
    """

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, candidates: Tensor) -> Tensor:
        result = anchors.new_empty(len(anchors))
        for start in range(0, len(anchors), _ROWS):
            result[start : start + _ROWS] = (anchors[start : start + _ROWS] @ candidates.t()).logsumexp(dim=1)
        ctx.save_for_backward(anchors, candidates, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor | None]:
        anchors, candidates, result = ctx.saved_tensors
        of_anchors = torch.empty_like(anchors)
        of_candidates = torch.zeros_like(candidates) if ctx.needs_input_grad[1] else None
        for start in range(0, len(anchors), _ROWS):
            part = slice(start, start + _ROWS)
            share = (anchors[part] @ candidates.t()).sub_(result[part, None]).exp_().mul_(upstream[part, None])
            torch.mm(share, candidates, out=of_anchors[part])
            if of_candidates is not None:
                of_candidates.addmm_(share.t(), anchors[part])
        return of_anchors, of_candidates


def info_nce(anchors: Tensor, positives: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """InfoNCE on cosines: ``-log(exp(a p / t) / sum_c exp(a c / t))`` (van den Oord et al., 2018, equation 4).

    In float32 under autocast too: bf16 would round a cosine of nearly 1, divided by the temperature, to steps of .04.

    Args:
        anchors: [n, d].
        positives: what each anchor should be like, [n, d].
        candidates: what it is compared with, the positives among them, [m, d].
        temperature: t.

    Returns:
        [n].
    """
    with torch.autocast(anchors.device.type, enabled=False):
        anchors = F.normalize(anchors.float(), dim=1) / temperature
        agreement = (anchors * F.normalize(positives.float(), dim=1)).sum(dim=1)
        everyone: Tensor = _LogSumExp.apply(anchors, F.normalize(candidates.float(), dim=1))  # type: ignore[no-untyped-call]
        return everyone - agreement
