"""PreferenceUpdater: improves preferences by what the model has become sure of (docs/paper.md, section 4)."""

import warnings
from typing import Literal, get_args

import torch
from pytorch_lightning import LightningModule, Trainer

from llmhd_pl.callbacks.epoch_end import EpochEndCallback, required
from llmhd_pl.callbacks.llm_sample_scorer import LLMSampleScorer
from llmhd_pl.callbacks.variance_pruning import VariancePruning
from llmhd_pl.denoising.epoch import Epoch
from llmhd_pl.denoising.flags import flag
from llmhd_pl.denoising.store import observed
from llmhd_pl.items_by_user import ItemsByUser, of_users
from llmhd_pl.llm.judgements import Judgements
from llmhd_pl.processes import wait_for_all

Among = Literal["all", "dropped"]


class PreferenceUpdater(EpochEndCallback):
    """Flags confident false positives and negatives, and lets the scorer revise the preferences of their users.

    Every epoch the observed items whose prediction varies least are flagged as false positives, and the sampled items
    whose prediction varies most as false negatives, each time the fraction that is the drop rate. The scorer is told
    once about an item that has been flagged in ``confidence_epochs`` epochs; without an answer, again when the item
    is flagged next.

    Args:
        confidence_epochs: The number of epochs after which a flagged item is confident; eps_gamma in the paper.
        among: Which observed items can be false positives: "all", as in the paper, or "dropped", those that
            ``LLMSampleScorer`` has just dropped. The items that vary least of all are mostly easy ones, not noise
            (docs/results/).
        monitor: The validation metric to watch: a fall after an update is a warning.

    Raises:
        ValueError: If ``confidence_epochs`` is not 1 to 254, or ``among`` neither of the two.
        RuntimeError: If ``VariancePruning`` and ``LLMSampleScorer`` do not come before it.
    """

    decides = False
    judgements: Judgements

    def __init__(self, confidence_epochs: int = 3, among: Among = "all", monitor: str = "val/ndcg@10") -> None:
        if not 1 <= confidence_epochs <= 254:
            raise ValueError(f"confidence_epochs is {confidence_epochs}; it must be 1 to 254.")
        if among not in get_args(Among):
            raise ValueError(f"among is {among!r}; it must be 'all' or 'dropped'.")
        self.confidence_epochs, self.among, self.monitor = confidence_epochs, among, monitor
        self._before: float | None = None  # the metric at the last update

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the judgements of the scorer before it."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._before = None
            required(trainer, self, VariancePruning)  # it sets the drop rate
            self.judgements = required(trainer, self, LLMSampleScorer).judgements
            lifetime = getattr(getattr(trainer, "datamodule", None), "negative_lifetime", None)
            # The first epoch of a negative has no variance yet.
            if lifetime is not None and lifetime - 1 < self.confidence_epochs:
                warnings.warn(
                    f"PreferenceUpdater: with negative_lifetime={lifetime} a sampled item is flagged in at most "
                    f"{lifetime - 1} epochs, fewer than confidence_epochs={self.confidence_epochs}: no false negative "
                    "will be found. Raise negative_lifetime to look for them.",
                    stacklevel=2,
                )

    def at_epoch_end(self, trainer: Trainer, pl_module: LightningModule, epoch: Epoch) -> None:
        """Flag, and have the preferences of users with newly confident items revised."""
        positive, negative = epoch.variances
        if self.among == "dropped":
            positive = positive.masked_fill(observed(epoch.weights) > 0, torch.nan)
        negatives = epoch.negatives
        if epoch.labels is not None:  # an item with label 0 takes the place of a sampled one
            negative, negatives = epoch.variances[0].where(epoch.labels == 0, torch.nan), epoch.items
            positive = positive.where(epoch.labels == 1, torch.nan)
        confidence = self.confidence_epochs
        disliked = flag(-positive, epoch.drop_rate, epoch.false_positive_flags, confidence, epoch.reduce).cpu()
        liked = flag(negative, epoch.drop_rate, epoch.false_negative_flags, confidence, epoch.reduce).cpu()
        self._watch(trainer)
        revised = self.judgements.revise(
            epoch.number,
            dict(ItemsByUser(epoch.users[disliked], epoch.items[disliked])),
            dict(ItemsByUser(epoch.users[liked], negatives[liked])),
        )
        self.judgements.write_preferences()
        wait_for_all(trainer)
        # The scorer has not been told what it did not answer: it is when the item is flagged next.
        unanswered = ~of_users(epoch.users.cpu(), revised)
        for flags, confident in ((epoch.false_positive_flags, disliked), (epoch.false_negative_flags, liked)):
            flags -= (confident & unanswered).to(flags)
        counts = torch.tensor([int(disliked.sum()), int(liked.sum()), len(revised)], device=epoch.losses.device)
        false_positives, false_negatives, revisions = epoch.reduce(counts).tolist()
        pl_module.log("preferences/false_positives", float(false_positives))
        pl_module.log("preferences/false_negatives", float(false_negatives))
        pl_module.log("preferences/revised", float(revisions))
        metric = trainer.callback_metrics.get(self.monitor)
        self._before = float(metric) if revisions and metric is not None else None

    def _watch(self, trainer: Trainer) -> None:
        metric = trainer.callback_metrics.get(self.monitor)
        if self._before is not None and metric is not None and float(metric) < 0.95 * self._before:
            warnings.warn(
                f"PreferenceUpdater: {self.monitor} fell from {self._before:.4f} to {float(metric):.4f} after "
                "preferences were revised. Look at preferences.jsonl; a larger confidence_epochs revises less.",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, float | None]:
        """Return the metric at the last update."""
        return {"before": self._before}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Take it over."""
        self._before = state_dict["before"]
