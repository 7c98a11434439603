"""Un-reduced losses: one number per sample (pairwise) or per observed and sampled item (pointwise); and InfoNCE."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
        return (anchors @ F.normalize(candidates.float(), dim=1).t()).logsumexp(dim=1) - agreement
