"""Un-reduced losses: one number per sample (pairwise) or per observed and sampled item (pointwise)."""

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
