"""DoubleCorrection: DCF drops by a bound on the loss over epochs, and relabels some (He et al., KDD 2024)."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from llmhd_pl.callbacks.ramps import RateOf
from llmhd_pl.callbacks.step_checks import check_owners
from llmhd_pl.callbacks.step_records import mean_of_rows
from llmhd_pl.callbacks.truncated_loss import TruncatedLoss
from llmhd_pl.denoising.baselines import LossHistory, double_corrected, variance_at
from llmhd_pl.denoising.store import observed
from llmhd_pl.fingerprint import digest_of
from llmhd_pl.processes import reduced
from llmhd_pl.sample_weights import Batch
from llmhd_pl.training_data import training_interactions


class DoubleCorrection(TruncatedLoss):
    """DCF for pointwise losses, and its analogue for pairwise ones; ``llmhd_pl.denoising.baselines`` has the formulas.

    It drops as many samples as T-CE, and of the same kind, but by bounds in place of losses. The history of losses is
    kept by ``batch["sample"]``; a sample that occurs several times in a step has the mean of its losses. A label that
    is to be flipped is flipped for this step only; in the next epoch the sample is judged anew. Under DDP a sample must
    stay with its process, as it does with the data modules of this package.

    Args:
        max_drop_rate: See ``TruncatedLoss``.
        ramp_iterations: See ``TruncatedLoss``.
        relabel_ratio: The share of the samples to be dropped that is relabelled instead; r in the paper.
        num_samples: The number of training interactions; None takes it from the trainer's data module.
        ramp_epochs: See ``TruncatedLoss``.
        rate_of: See ``TruncatedLoss``.

    Raises:
        ValueError: If an argument is out of its range, or if a checkpoint is of other data.
        TypeError: If the module does not inherit from ``SampleWeights``.
        RuntimeError: If the number of samples is not known, if the trainer has no ``max_epochs``, over which sigma^2
            falls, or if several processes trained on the same sample.
        IndexError: If a batch names a sample that there is not.
    """

    history: LossHistory | None = None
    _data: str | None = None  # a digest of the interactions, if they are known

    def __init__(
        self,
        max_drop_rate: float = 0.1,
        ramp_iterations: int = 30_000,
        relabel_ratio: float = 0.05,
        num_samples: int | None = None,
        ramp_epochs: int | None = None,
        rate_of: RateOf = "samples",
    ) -> None:
        super().__init__(max_drop_rate, ramp_iterations, ramp_epochs, rate_of)
        if not 0 <= relabel_ratio <= 1:
            raise ValueError(f"relabel_ratio is {relabel_ratio}; it is a fraction, from 0 to 1.")
        self.relabel_ratio, self.num_samples = relabel_ratio, num_samples

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make room for the samples and attach to the loss."""
        if stage != "fit":
            return
        before = (None if self.history is None else len(self.history.seen), self._data)
        num_samples = self.num_samples
        if num_samples is None:
            remedy = "Use a data module of llmhd_pl, or give num_samples=... of DoubleCorrection or of DCF."
            users, items = training_interactions(trainer, self, remedy)
            num_samples, self._data = len(users), digest_of(users, items)
        if trainer.max_epochs is None or trainer.max_epochs < 1:
            raise RuntimeError("DoubleCorrection's sigma^2 falls to 0 over the epochs of a run: set max_epochs.")
        super().setup(trainer, pl_module, stage)
        if not self.goes_on or self.history is None or before != (num_samples, self._data):
            self.history = LossHistory(num_samples, trainer.strategy.root_device)
        self._mine = torch.zeros_like(self.history.seen, dtype=torch.uint8)  # trained on by this process, in this fit
        self._repeats = False  # whether batches have been seen that name a sample twice

    def weigh(self, batch: Batch, losses: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights and what each loss counts in the mean.

        The weight is 0 for what is dropped, negative for what is relabelled, and 1 for the rest.
        """
        assert self.history is not None and self.trainer.max_epochs is not None
        variance = variance_at(self.trainer.current_epoch, self.trainer.max_epochs)
        sample = self.samples(batch, len(self.history.seen))
        self._mine.index_fill_(0, sample, 1)
        values, places = observed(losses), None
        if self._repeats or self._looks:
            once, inverse, counts = sample.unique(return_inverse=True, return_counts=True)
            if len(once) < len(sample):
                self._repeats, places = True, inverse
                sample, values = once, mean_of_rows(values, places, counts)
        bounds = self.history.bounds(sample, values, variance)
        liked = self.likes(batch, losses)
        weights, counts = double_corrected(
            losses,
            bounds if places is None else bounds[places],
            self.rate_for(losses, liked),
            self.relabel_ratio,
            self.gather,
            liked,
        )
        kept = observed(weights) == 1
        if places is not None:  # a sample is kept if all of its rows are
            kept = torch.ones_like(sample).scatter_reduce_(0, places, kept.long(), "amin").bool()
        self.history.keep(sample, kept)
        return weights, counts

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the rates, and refuse samples that several processes share."""
        check_owners(trainer, self._mine)
        super().on_train_epoch_end(trainer, pl_module)
        pl_module.log("denoise/relabel_rate", self.relabel_ratio * self.drop_rate)

    def state_dict(self) -> dict[str, Any]:
        """Return the history of all samples, of whichever process. Lightning calls it on every process at once."""
        if self.history is None:
            return {}  # nothing was trained
        more = super().state_dict() | {"data": self._data}
        state = {name: value.clone() for name, value in vars(self.history).items()}
        if self.trainer.world_size == 1:
            return state | more
        # The process that owns a sample has seen it most often; a sample not seen since a resume is the same for all.
        # Nothing here is negative, so that the largest is what the owners say.
        owned = state["seen"] == reduced(self.trainer, state["seen"], "max")
        return {
            name: reduced(self.trainer, torch.where(owned, value, torch.full_like(value, -1)), "max")
            for name, value in state.items()
        } | more

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the history of a checkpoint, whatever the number of processes that wrote it."""
        if self.history is None or not state_dict:
            return  # evaluation needs none of it
        if state_dict["data"] != self._data:
            raise ValueError(
                "The checkpoint's history of losses belongs to other interactions: sample numbers would be taken for "
                "those of others. Resume with the same data, split, noise and seed."
            )
        super().load_state_dict(state_dict)
        for name, value in vars(self.history).items():
            if state_dict[name].shape != value.shape:
                raise ValueError(
                    f"The checkpoint's history has {state_dict[name].shape[-1]} samples; this run has "
                    f"{value.shape[-1]}. Resume with the same data and the same noise."
                )
            value.copy_(state_dict[name])
