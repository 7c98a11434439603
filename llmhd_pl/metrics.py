"""Recall@K and NDCG@K over a full ranking, as ``torchmetrics.Metric`` with summed states, and the AUC of two groups."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric

from llmhd_pl.precision import at_least_float32, keeping_dtype
from llmhd_pl.ranking import hits_among, top_items


class MeanLoss:
    """The mean loss of an epoch's samples, which is logged as ``train/loss`` in the last step of the epoch.

    ``LightningModule.log`` in every step would do, but it is a noticeable part of a small model's step. With several
    processes each is told the mean of the whole batch, so that all know the same, and nothing need be communicated.
    """

    def __init__(self) -> None:
        self._epoch = -1  # the epoch of the samples
        self._sum: Tensor | float = 0.0
        self._count: Tensor | int = 0
        self._logged = False

    def update(self, module: LightningModule, mean: Tensor, count: Tensor | int) -> None:
        """Add the samples of a step; call it within ``training_step``.

        Args:
            module: The module that trains, which logs.
            mean: The mean loss of the samples of all processes, a scalar without gradient.
            count: The number of these samples, an integer or a scalar.
        """
        if self._epoch != module.current_epoch:
            self._epoch, self._sum, self._count = module.current_epoch, 0.0, 0
        self._sum, self._count = self._sum + at_least_float32(mean) * count, self._count + count
        self._logged = False
        if module.trainer.is_last_batch:
            self.log(module)

    def log(self, module: LightningModule) -> None:
        """Log the mean of the module's epoch; no-op if it has been logged, or if the epoch has had no step."""
        if self._epoch == module.current_epoch and not self._logged:
            mean = torch.as_tensor(self._sum) / self._count
            # Without sync_dist Lightning warns of several processes. All of them log the same, which is the maximum.
            module.log("train/loss", mean, on_step=False, on_epoch=True, prog_bar=True, reduce_fx="max", sync_dist=True)
            self._logged = True

    def state_dict(self) -> dict[str, float]:
        """Return the samples of the epoch so far, in plain Python values, the same on every process."""
        return {"epoch": self._epoch, "sum": float(self._sum), "count": round(float(self._count))}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on with the samples of a checkpoint, with any number of processes; what it had logged is logged again."""
        self._epoch, self._sum, self._count = int(state["epoch"]), state["sum"], int(state["count"])
        self._logged = False


def rank_hits(scores: Tensor, seen: Tensor, relevant: Tensor, k: int, where: str = "Ranking") -> tuple[Tensor, Tensor]:
    """Rank all items for some users and return which of the top K are relevant.

    Args:
        scores: The predictions, [users, items]. They are left as they are.
        seen: The (row, item) pairs to leave out of the ranking, int64 [2, n].
        relevant: The (row, item) pairs of the held-out items, int64 [2, m]; no pair may occur twice.
        k: The length of the ranking.
        where: The beginning of the message of an error.

    Returns:
        ``hits``, bool [users, min(k, items)], in the order of the ranking, and ``num_relevant``, int64 [users], the
        number of held-out items of each user.

    Raises:
        FloatingPointError: If predictions are not finite; see ``check_predictions``.
    """
    _, items = top_items(scores, seen, k, where)
    return hits_among(items, relevant, scores.shape[1])


class RankingMetric(Metric):
    """The mean of a value per user, over the users that have relevant items.

    A child class implements ``per_user``.

    Args:
        k: The length of the ranking, at least 1.

    Raises:
        ValueError: If ``k`` is less than 1.
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
        """Add some users. Those without relevant items do not count.

        Args:
            hits: Whether the item at each place of the ranking is relevant, bool [users, at least k or all items].
            num_relevant: The number of relevant items of each user, [users].
        """
        counted = num_relevant > 0
        values = self.per_user(hits[:, : self.k].float(), num_relevant.clamp(min=1))
        self.total += (values * counted).sum()
        self.users += counted.sum()

    def _apply(self, fn: Callable[[Tensor], Tensor], *arguments: Any, **options: Any) -> Module:
        """Move the sums along with a model, but keep them in float32: in 16 bit they would stop growing."""
        return super()._apply(keeping_dtype(fn), *arguments, **options)

    def compute(self) -> Tensor:
        """Return the mean over the users with relevant items, a scalar; 0 if there are none."""
        return self.total / self.users.clamp(min=1)

    @abstractmethod
    def per_user(self, hits: Tensor, num_relevant: Tensor) -> Tensor:
        """Return the value of each user.

        Args:
            hits: 1 where the item at this place of the ranking is relevant, else 0; float32 [users, at most k].
            num_relevant: The number of relevant items of each user, at least 1, int64 [users].

        Returns:
            One value per user, float32 [users].
        """


class Recall(RankingMetric):
    """Recall@K: the number of relevant items among the top K, divided by the number of the user's relevant items."""

    def per_user(self, hits: Tensor, num_relevant: Tensor) -> Tensor:
        """Return the recall of each user; see ``RankingMetric``."""
        return hits.sum(dim=1) / num_relevant


class NDCG(RankingMetric):
    """NDCG@K with binary relevance (Järvelin and Kekäläinen, 2002). The ideal ranking has min(K, relevant) items."""

    discount: Tensor
    ideal: Tensor

    def __init__(self, k: int) -> None:
        super().__init__(k)
        # Once and on the CPU: a GPU's running sum of floats is not the same in every run.
        discount = torch.arange(2, k + 2).float().log2().reciprocal()
        self.discount, self.ideal = discount, discount.cumsum(0)

    def _apply(self, fn: Callable[[Tensor], Tensor], *arguments: Any, **options: Any) -> Module:
        """Move the discounts along, which are no buffers, because DDP would broadcast those in every step."""
        moved = super()._apply(fn, *arguments, **options)
        device = self.total.device
        self.discount, self.ideal = self.discount.to(device), self.ideal.to(device)
        return moved

    def per_user(self, hits: Tensor, num_relevant: Tensor) -> Tensor:
        """Return the NDCG of each user; see ``RankingMetric``."""
        return (hits * self.discount[: hits.shape[1]]).sum(dim=1) / self.ideal[num_relevant.clamp(max=self.k) - 1]


def auc(positive: Tensor, negative: Tensor) -> float:
    """Return the probability that a value of one group is larger than a value of the other. Ties count half.

    Args:
        positive: The values of the group that should be larger, [n]. NaN is left out.
        negative: The values of the other group, [m]. NaN is left out.

    Returns:
        The area under the ROC curve, 0 to 1; NaN if a group is empty.
    """
    # Imported here: it takes a second, which training need not pay.
    from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

    positive, negative = (group[~group.isnan()] for group in (positive, negative))
    if not len(positive) or not len(negative):
        return float("nan")
    label = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)])
    return float(roc_auc_score(label.cpu().numpy(), torch.cat([positive, negative]).cpu().numpy()))
