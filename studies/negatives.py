"""Study 5: do variance and a judge tell hard negatives from false ones?

    PYTHONPATH=studies llmhd compare --config studies/negatives.yaml -- --data.data_dir data/yelp

An item that nobody has clicked may be one that the user would like: a false negative. The harder the sampled items are,
the more of them are false. SRNS (Ding et al., NeurIPS 2020) takes those whose prediction is high and varies over the
epochs; a judge can say which ones fit the user. The grid has plain LightGCN on the hardest of several candidates too.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from llmhd_pl.backbones import LightGCN
from llmhd_pl.llm.alignment import scale
from llmhd_pl.llm.encoder import EncoderScorer
from llmhd_pl.sample_weights import Batch

_WINDOW = 5  # the epochs that a variance is taken over, as in SRNS
_RAMP = 10  # the epochs until the variance has its full weight


class ChosenNegatives(LightGCN):
    """LightGCN with BPR on the one of several sampled items that has the highest value.

    The value is the probability that the sampled item is ranked above the observed one.

    Args:
        num_users: The number of users.
        num_items: The number of items.
        variance_weight: How many standard deviations of this probability over the last epochs are added. The data
            module must keep its candidates for as many epochs (``negative_lifetime``).
        judged_share: The share of the catalog that fits a user best, in the eyes of a sentence encoder that is aligned
            with the training interactions; 0 asks none.
        judged: What happens to a sampled item in that share: "half" gives its loss half the weight, "veto" takes
            another candidate unless all of them are in it.
        **of_lightgcn: The arguments of ``LightGCN``.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        variance_weight: float = 0.0,
        judged_share: float = 0.0,
        judged: Literal["half", "veto"] = "half",
        **of_lightgcn: Any,
    ) -> None:
        super().__init__(num_users, num_items, **of_lightgcn)
        self.variance_weight, self.judged_share, self.judged = variance_weight, judged_share, judged
        self._past: tuple[int, Tensor] | None = None  # the lifetime of the candidates, and the values [epochs, n, k]
        if judged_share > 0 and judged == "half":
            self.attach_denoiser(lambda batch, losses: torch.where(batch["fits"], 0.5, 1.0))

    def on_fit_start(self) -> None:
        """Let the judge compare every user with every item."""
        super().on_fit_start()
        if self.judged_share > 0:
            self._taste, self._item, self._limit = fitting(self.trainer.datamodule, self.judged_share)  # type: ignore[attr-defined]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Choose the sampled item of each sample, and go on as LightGCN does."""
        users, candidates = batch["user"], batch["candidates"]
        with torch.no_grad():
            items = torch.cat([batch["positive"], candidates.t().flatten()])
            scores = self.score(users.repeat(1 + candidates.shape[1]), items).view(-1, len(users))
            value = (scores[1:] - scores[0]).sigmoid().t()
            if self.variance_weight > 0:
                value = value + self.variance_weight * min(1.0, self.current_epoch / _RAMP) * self._deviation(
                    batch, value
                )
            fits = torch.zeros_like(candidates, dtype=torch.bool)
            if self.judged_share > 0:
                fits = (self._taste[users][:, None] * self._item[candidates]).sum(2) >= self._limit[users][:, None]
                if self.judged == "veto":
                    value = value - 10.0 * fits
            chosen = value.argmax(dim=1, keepdim=True)
        batch["negative"], batch["fits"] = candidates.gather(1, chosen)[:, 0], fits.gather(1, chosen)[:, 0]
        return super().training_step(batch, batch_idx)

    def _deviation(self, batch: Batch, value: Tensor) -> Tensor:
        """Return the standard deviation of the values of the same candidates over the last epochs, [B, k]."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        lifetime = self.current_epoch // data.negative_lifetime
        if self._past is None or self._past[0] != lifetime:
            self._past = lifetime, torch.full((_WINDOW, len(data.train_users), value.shape[1]), torch.nan)
        past = self._past[1]
        past[self.current_epoch % _WINDOW, batch["sample"]] = value
        known = past[:, batch["sample"]]
        mean = known.nanmean(dim=0)
        return (known - mean).square().nanmean(dim=0).sqrt()


def fitting(data: Any, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what says whether an item is among those that fit a user best.

    Args:
        data: A data module after ``setup``.
        share: The share of the catalog.

    Returns:
        The directions of the users, [users, d], and of the items, [items, d], and the cosine from which on an item is
        in the share, [users].
    """
    scorer = EncoderScorer()
    pairs = torch.stack([data.train_users, data.train_items], dim=1)
    scorer.prepare(data.interactions.items, pairs)
    assert scorer._projections is not None
    rows = torch.from_numpy(scorer._row)  # of each item; -1, the row of zeros, for an item without text
    vectors, items = (
        F.pad(torch.as_tensor(part), (0, 0, 0, 1))[rows] for part in (scorer.item_vectors, scorer._judged)
    )
    sums = torch.zeros(data.num_users, vectors.shape[1]).index_add_(0, pairs[:, 0], vectors[pairs[:, 1]])
    taste = F.normalize(scorer._projections["preference"](scale(sums)), dim=1)
    place = data.num_items - int(share * data.num_items)
    return taste, items, torch.cat([(part @ items.T).kthvalue(place, dim=1).values for part in taste.split(1024)])
