"""Recall@K and NDCG@K over a full ranking, as torchmetrics.Metric with summed states; and the AUC of two groups."""

import torch
from torch import Tensor
from torchmetrics import Metric


def rank_hits(scores: Tensor, seen: Tensor, relevant: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Rank all items of some users and look up which of the top K are relevant.

    Args:
        scores: predictions, [users, items]; the seen items' are overwritten with -inf.
        seen: (row, item) to leave out of the ranking, int64 [2, n].
        relevant: (row, item) of the held-out items, int64 [2, m], no pair twice.
        k: length of the ranking.

    Returns:
        ``hits``, bool [users, min(k, items)], in the order of the ranking, and ``num_relevant``, int64 [users].
    """
    scores[seen[0], seen[1]] = -torch.inf
    is_relevant = torch.zeros_like(scores, dtype=torch.bool)
    is_relevant[relevant[0], relevant[1]] = True
    top = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return is_relevant.gather(1, top), is_relevant.sum(dim=1)


class _MeanOverUsers(Metric):
    """Sums a value per user and counts the users; those without relevant items are skipped.

    Args:
        k: length of the ranking, at least 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    users: Tensor

    def __init__(self, k: int) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1.")
        self.k = k
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("users", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, hits: Tensor, num_relevant: Tensor) -> None:
        """Add some users.

        Args:
            hits: whether the item at each place of the ranking is relevant, bool [users, >= k or all items].
            num_relevant: number of relevant items of each user, [users].
        """
        counted = num_relevant > 0
        self.total += self._per_user(hits[counted, : self.k].float(), num_relevant[counted]).sum()
        self.users += counted.sum()

    def compute(self) -> Tensor:
        """The mean over the users with relevant items; 0 where there is none."""
        return self.total / self.users.clamp(min=1)

    def _per_user(self, hits: Tensor, num_relevant: Tensor) -> Tensor:
        raise NotImplementedError


class Recall(_MeanOverUsers):
    """Recall@K: relevant items among the top K, divided by all relevant items of the user."""

    def _per_user(self, hits: Tensor, num_relevant: Tensor) -> Tensor:
        return hits.sum(dim=1) / num_relevant


class NDCG(_MeanOverUsers):
    """NDCG@K with binary relevance; the ideal ranking holds min(K, relevant) items (Järvelin and Kekäläinen, 2002)."""

    def _per_user(self, hits: Tensor, num_relevant: Tensor) -> Tensor:
        discount = torch.arange(2, self.k + 2, device=hits.device).float().log2().reciprocal()
        ideal = discount.cumsum(0)[num_relevant.clamp(max=self.k) - 1]
        return (hits * discount[: hits.shape[1]]).sum(dim=1) / ideal


def auc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a value of one group is larger than one of the other, ties counted half.

    Args:
        positive: [n]; NaN is left out.
        negative: [m]; NaN is left out.

    Returns:
        NaN where a group is empty.
    """
    from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]  # a second that training need not wait

    positive, negative = (group[~group.isnan()] for group in (positive, negative))
    if not len(positive) or not len(negative):
        return float("nan")
    label = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)])
    return float(roc_auc_score(label.cpu().numpy(), torch.cat([positive, negative]).cpu().numpy()))
