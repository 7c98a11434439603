"""Un-reduced losses, one number per sample (pairwise) or two, of its observed and sampled item (pointwise); InfoNCE."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_NEVER = -1e9  # the logit of an item that is left out; finite, so that its gradient is 0 and not NaN
_ROWS = 128  # the anchors at once on a CPU: their products with 10,000 candidates stay in its cache
_PRODUCTS = 2**27  # the products at once on another device, which has no such cache but enough to do: 512 MB


def bpr_loss(positive_score: Tensor, negative_score: Tensor) -> Tensor:
    """Return the pairwise loss ``-log sigmoid(positive - negative)`` of each sample.

    Bayesian personalised ranking: Rendle et al., UAI 2009, section 4.1.

    Args:
        positive_score: The predictions of the observed items, [B].
        negative_score: The predictions of the sampled items, [B].

    Returns:
        One loss per sample, [B].
    """
    return F.softplus(negative_score - positive_score)


def bce_loss(positive_score: Tensor, negative_score: Tensor) -> Tensor:
    """Return the binary cross-entropy of each item, with the label 1 for observed and 0 for sampled items.

    Args:
        positive_score: The logits of the observed items, [B].
        negative_score: The logits of the sampled items, [B].

    Returns:
        Two losses per sample, [B, 2]: the observed item in column 0, the sampled one in column 1.
    """
    return torch.stack([F.softplus(-positive_score), F.softplus(negative_score)], dim=1)


class _SoftmaxLoss(torch.autograd.Function):
    """The sampled softmax, with as few passes over the predictions as there can be, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, positive: Tensor, negatives: Tensor, temperature: float, excluded: Tensor | None) -> Tensor:
        exponentials = negatives / temperature
        if excluded is not None:
            exponentials.masked_fill_(excluded, _NEVER)
        highest = exponentials.amax(dim=1, keepdim=True)
        sums = exponentials.sub_(highest).exp_().sum(dim=1)
        gap = sums.log() + highest.squeeze(1) - positive / temperature
        ctx.temperature = temperature
        ctx.save_for_backward(exponentials, sums, gap)
        return F.softplus(gap)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        exponentials, sums, gap = ctx.saved_tensors
        slope = upstream * gap.sigmoid() / ctx.temperature
        return -slope, exponentials * (slope / sums)[:, None], None, None


def softmax_loss(
    positive_score: Tensor, negative_scores: Tensor, temperature: float = 1.0, excluded: Tensor | None = None
) -> Tensor:
    """Return the sampled softmax loss ``-log(exp(p / t) / (exp(p / t) + sum_j exp(n_j / t)))`` of each sample.

    With a single negative it is the pairwise loss. Wu et al., TOIS 2024, where it is called SSM.

    Args:
        positive_score: The predictions of the observed items, p, [B].
        negative_scores: The predictions of the items that each of them is compared with, n_j, [B, N].
        temperature: The temperature t.
        excluded: Which of these items are left out of the sum, bool [B, N]; None is none.

    Returns:
        One loss per sample, [B]; 0 if all of its items are left out, or if there are none.
    """
    if not negative_scores.numel():  # a process without a sample of the batch still takes part in the backward pass
        return positive_score * 0 + negative_scores.sum()
    loss: Tensor = _SoftmaxLoss.apply(positive_score, negative_scores, temperature, excluded)  # type: ignore[no-untyped-call]
    return loss


class _LogSumExp(torch.autograd.Function):
    """``(counts * (anchors @ candidates.T).logsumexp(dim=1)).sum()`` without the whole product, [n, m], in memory.

    The result is a scalar, so the gradient is known up to a factor while a part of the product is still in the cache.
    Computing the product again, or reading it back from memory, would take half as long again.
    """

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
        total = anchors.new_zeros(())
        of_anchors, of_candidates = torch.empty_like(anchors), torch.zeros_like(candidates)
        rows = _ROWS if anchors.device.type == "cpu" else max(1, _PRODUCTS // len(candidates))
        for start in range(0, len(anchors), rows):
            part = slice(start, start + rows)
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
    """Return the sum of InfoNCE on cosines, ``-log(exp(a p / t) / sum_c exp(a c / t))`` for an anchor a.

    Van den Oord et al., 2018, equation 4. It is computed in float32 even under autocast: bf16 would round a cosine of
    nearly 1, divided by the temperature, to steps of .04.

    Args:
        anchors: The anchors a, [n, d].
        positives: The positive p of each anchor, [n, d].
        candidates: The candidates c of the denominator, which include the positives, [m, d].
        temperature: The temperature t.
        counts: How many times each anchor counts, [n]. A node that occurs twice in a batch is so multiplied only once.

    Returns:
        The sum, a scalar.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        anchors = F.normalize(anchors.float(), dim=1) / temperature
        agreement = (anchors * F.normalize(positives.float(), dim=1)).sum(dim=1)
        everyone: Tensor = _LogSumExp.apply(  # type: ignore[no-untyped-call]
            anchors, F.normalize(candidates.float(), dim=1), counts.float()
        )
        return everyone - (counts * agreement).sum()


def sampled_info_nce(
    anchors: Tensor, positives: Tensor, drawn: Tensor, temperature: float, counts: Tensor, own: Tensor, among: int
) -> Tensor:
    """Return the sum of ``info_nce`` with its denominator estimated from k of the m candidates, drawn uniformly.

    It is ``-log(exp(a p / t) / (exp(a p / t) + m / k sum_c exp(a c / t)))``, where the sum leaves out the positive,
    which is there in any case. So the denominator is that of ``info_nce`` on average, and the same if each candidate
    is drawn once.

    Args:
        anchors: The anchors a, [n, d].
        positives: The positive p of each anchor, [n, d].
        drawn: The candidates c that were drawn, with repetitions, [k, d].
        temperature: The temperature t.
        counts: How many times each anchor counts, [n].
        own: Which of the drawn candidates are the positive of an anchor, bool [n, k].
        among: The number of candidates that they were drawn from, m.

    Returns:
        The sum, a scalar.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        anchors = F.normalize(anchors.float(), dim=1)
        agreement = (anchors * F.normalize(positives.float(), dim=1)).sum(dim=1)
        cosines = anchors @ F.normalize(drawn.float(), dim=1).t()
        shifted = cosines + temperature * math.log(among / len(drawn))
        return (counts * softmax_loss(agreement, shifted, temperature, own)).sum()
