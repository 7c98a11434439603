"""PreferenceUpdater: improves preferences by what the model has become sure of (PAPER.md, section 4)."""

import warnings
from typing import Literal, get_args

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from llmhd_pl.callbacks.llm_sample_scorer import LLMSampleScorer
from llmhd_pl.callbacks.sample_recorder import SampleRecorder, required
from llmhd_pl.callbacks.variance_pruning import VariancePruning
from llmhd_pl.denoising.flags import flag
from llmhd_pl.denoising.store import observed

Among = Literal["all", "dropped"]


class PreferenceUpdater(Callback):
    """Flags confident false positives and negatives, and lets the scorer revise the preferences of their users.

    Every epoch the observed items whose prediction varies least are flagged as false positives, the sampled items
    whose prediction varies most as false negatives, each time the fraction that is the drop rate. An item that has
    been flagged in ``confidence_epochs`` epochs is told to the scorer, once.

    Args:
        confidence_epochs: eps_gamma.
        among: which observed items can be false positives: "all", as the paper has it, or "dropped", those that
            ``LLMSampleScorer`` has just dropped. What varies least of all is mostly easy, not noise (docs/results.md).
        monitor: validation metric that is watched: a fall after an update is a warning.

    Raises:
        ValueError: ``confidence_epochs`` is not 1 to 254, or ``among`` neither of the two.
        RuntimeError: ``LLMSampleScorer`` does not stand before it.
    """

    def __init__(self, confidence_epochs: int = 3, among: Among = "all", monitor: str = "val/ndcg@10") -> None:
        if not 1 <= confidence_epochs <= 254:
            raise ValueError(f"confidence_epochs is {confidence_epochs}; it must be 1 to 254.")
        if among not in get_args(Among):
            raise ValueError(f"among is {among!r}; it must be 'all' or 'dropped'.")
        self.confidence_epochs, self.among, self.monitor = confidence_epochs, among, monitor
        self._before: float | None = None  # the metric at the last update

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the callbacks before it."""
        if stage == "fit":
            self._before = None
            self._recorder = required(trainer, self, SampleRecorder)
            self._pruning = required(trainer, self, VariancePruning)
            self._llm = required(trainer, self, LLMSampleScorer)
            lifetime = getattr(getattr(trainer, "datamodule", None), "negative_lifetime", None)
            # The first epoch of a negative has no variance yet.
            if lifetime is not None and lifetime - 1 < self.confidence_epochs:
                warnings.warn(
                    f"PreferenceUpdater: with negative_lifetime={lifetime} a sampled item is flagged in at most "
                    f"{lifetime - 1} epochs, fewer than confidence_epochs={self.confidence_epochs}: no false negative "
                    "will be found. Raise negative_lifetime to look for them.",
                    stacklevel=2,
                )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Flag, and revise the preferences of users with newly confident items."""
        store, reduce = self._recorder.store, self._recorder.reduce
        rate = self._pruning.drop_rate(trainer)
        positive, negative = store.variances()
        if self.among == "dropped":
            positive = positive.masked_fill(observed(store.weights) > 0, torch.nan)
        disliked = flag(-positive, rate, store.false_positive_flags, self.confidence_epochs, reduce)
        liked = flag(negative, rate, store.false_negative_flags, self.confidence_epochs, reduce)
        items = {
            "disliked": self._by_user(disliked, self._recorder.items),
            "liked": self._by_user(liked, store.negative_item.cpu().long()),
        }
        users = sorted(items["disliked"].keys() | items["liked"].keys())
        self._watch(trainer)
        revised = 0
        if users:
            self._llm.summarize(trainer, users)
            preferences = self._llm.preferences
            new = self._llm.scorer.revise(preferences.current, items["disliked"], items["liked"])
            titles = {
                name: {user: [self._llm.title(item) for item in found] for user, found in group.items()}
                for name, group in items.items()
            }
            preferences.update(store.epoch, "revision", new, titles["disliked"], titles["liked"])
            self._llm.ask_again(list(new))
            revised = len(new)
            preferences.write(self._llm.path(trainer))
        counts = torch.tensor([int(disliked.sum()), int(liked.sum()), revised], device=trainer.strategy.root_device)
        false_positives, false_negatives, revisions = reduce(counts).tolist()
        pl_module.log("preferences/false_positives", float(false_positives))
        pl_module.log("preferences/false_negatives", float(false_negatives))
        pl_module.log("preferences/revised", float(revisions))
        metric = trainer.callback_metrics.get(self.monitor)
        self._before = float(metric) if revisions and metric is not None else None

    def _by_user(self, chosen: Tensor, items: Tensor) -> dict[int, list[int]]:
        samples = chosen.nonzero().flatten().cpu()
        found: dict[int, list[int]] = {}
        for user, item in zip(self._recorder.users[samples].tolist(), items[samples].tolist(), strict=True):
            found.setdefault(user, []).append(item)
        return found

    def _watch(self, trainer: Trainer) -> None:
        metric = trainer.callback_metrics.get(self.monitor)
        if self._before is not None and metric is not None and float(metric) < 0.95 * self._before:
            warnings.warn(
                f"PreferenceUpdater: {self.monitor} fell from {self._before:.4f} to {float(metric):.4f} after "
                "preferences were revised. Look at preferences.jsonl; a larger confidence_epochs revises less.",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, float | None]:
        """The metric at the last update."""
        return {"before": self._before}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Take it over."""
        self._before = state_dict["before"]
