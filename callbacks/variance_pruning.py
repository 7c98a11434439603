"""VariancePruning: the noise set by loss, and the candidates in it by variance (docs/paper.md, sections 1 and 2)."""

import warnings
from typing import Any, Literal, get_args

import torch
from pytorch_lightning import LightningModule, Trainer

from llmhd_pl.callbacks.audited_rate import audited_rate
from llmhd_pl.callbacks.epoch_end import EpochEndCallback
from llmhd_pl.callbacks.ramps import (
    RateOf,
    check_ramp,
    check_steps,
    ramp_length,
    steps_of_an_epoch,
    warn_of_slow_ramp,
)
from llmhd_pl.denoising.epoch import Epoch
from llmhd_pl.denoising.schedules import ramp
from llmhd_pl.denoising.selection import candidates, noise_set, random_members, telling
from llmhd_pl.denoising.store import CANDIDATE, NOISE
from llmhd_pl.processes import wait_for_all

Candidates = Literal["variance", "random"]


class VariancePruning(EpochEndCallback):
    """Selects the noise set at the end of every epoch, and the candidates in it.

    Without ``LLMSampleScorer`` after it, the whole noise set is dropped in the next epoch. That is loss-based
    denoising, the first rung of the paper's ablation.

    Args:
        max_drop_rate: The largest fraction of the samples in the noise set; eps_l_max in the paper. With the pointwise
            objective, sampled items that are drawn anew (``SampleStore.selectable``) are never in it. "auto" asks the
            judge of ``LLMSampleScorer`` before the first epoch which share of the interactions came about by chance
            (``llmhd_pl.audit``); if it cannot tell, nothing is dropped, with a warning.
        ramp_iterations: The number of optimiser steps until the drop rate reaches its maximum; alpha in the paper. The
            thresholds of the rules take as long.
        candidate_fraction: The fraction of the noise set that becomes candidates; eps_v in the paper.
        candidates: "variance", or "random", which draws as many from the noise set (the paper's ablation).
        seed: The seed of the random candidates.
        ramp_epochs: The number of epochs until the drop rate reaches its maximum, in place of ``ramp_iterations``: for
            data of any size.
        rate_of: What the drop rate is a fraction of. With the pointwise objective "samples" counts observed and sampled
            items alike, and either may be dropped; with "interactions" it is the share of the observed items that is
            dropped, and no sampled one is. With the pairwise objective they are the same.
        false_discoveries: With "auto", drop only so much that at most this share of it is expected to fit its user
            after all. None drops as much as came about by chance.

    Raises:
        ValueError: If an argument is out of its range.
        RuntimeError: If there is no ``SampleRecorder`` before it, or, with "auto", no ``LLMSampleScorer``.
    """

    def __init__(
        self,
        max_drop_rate: float | Literal["auto"] = 0.1,
        ramp_iterations: int = 10_000,
        candidate_fraction: float = 0.5,
        candidates: Candidates = "variance",
        seed: int = 0,
        ramp_epochs: int | None = None,
        rate_of: RateOf = "samples",
        false_discoveries: float | None = None,
    ) -> None:
        self.auto = max_drop_rate == "auto"
        rate = 0.0 if max_drop_rate == "auto" else max_drop_rate
        check_ramp(rate, ramp_iterations, ramp_epochs, rate_of)
        if false_discoveries is not None and not (self.auto and 0 <= false_discoveries <= 1):
            raise ValueError(
                f"false_discoveries is {false_discoveries}; it is a share, from 0 to 1, for max_drop_rate='auto'."
            )
        if self.auto and rate_of != "interactions":
            raise ValueError("max_drop_rate='auto' is a share of the interactions: set rate_of='interactions'.")
        if not 0 <= candidate_fraction <= 1:
            raise ValueError(f"candidate_fraction is {candidate_fraction}; it is a fraction, from 0 to 1.")
        if candidates not in get_args(Candidates):
            raise ValueError(f"candidates is {candidates!r}; it must be 'variance' or 'random'.")
        self.max_drop_rate, self.ramp_iterations, self.ramp_epochs = rate, ramp_iterations, ramp_epochs
        self.false_discoveries, self._audited = false_discoveries, False
        self.candidate_fraction, self.candidates, self.seed = candidate_fraction, candidates, seed
        self.rate_of: RateOf = rate_of

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the recorder; other interactions than those of the last fit are audited anew."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and not self.recorder.goes_on:
            self._audited = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """With "auto", find the drop rate, unless a checkpoint has brought it; one process asks for all."""
        if not self.auto or self._audited:
            return
        wait_for_all(trainer)
        rate = 0.0
        if trainer.global_rank == 0:
            rate = audited_rate(trainer, self, self.recorder, self.false_discoveries)
        wait_for_all(trainer)
        self.max_drop_rate, self._audited = trainer.strategy.broadcast(rate), True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the drop rate that was found."""
        if self._audited:
            checkpoint["audited_drop_rate"] = self.max_drop_rate

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over the drop rate that was found."""
        if self.auto and "audited_drop_rate" in checkpoint:
            self.max_drop_rate, self._audited = checkpoint["audited_drop_rate"], True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of a run that is too short for the drop rate."""
        if not self.recorder.goes_on:
            warn_of_slow_ramp(trainer, self)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refuse a module whose steps are not counted, where something depends on their number."""
        if self.ramp_epochs is None or self.recorder.decide_every is not None:
            check_steps(trainer, pl_module, batch_idx)

    def at_epoch_end(self, trainer: Trainer, pl_module: LightningModule, epoch: Epoch) -> None:
        """Select the noise set and the candidates."""
        length, recorder = ramp_length(trainer, self), self.recorder
        done: float = recorder.steps
        if self.ramp_epochs is not None:
            done = epoch.number + 1 if recorder.decide_every is None else done / steps_of_an_epoch(trainer)
        rate = ramp(done, length, 0.0, self.max_drop_rate)
        epoch.set_drop_rate(rate, ramp(done, length, 0.0, 1.0), self.rate_of == "interactions")
        noise = noise_set(epoch.droppable, epoch.droppable_rate, epoch.reduce, epoch.labels)
        chosen = candidates(noise, *epoch.variances, self.candidate_fraction, epoch.reduce, epoch.labels)
        if self.candidates == "random":
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch.number)
            keys = torch.rand(noise.shape, generator=generator).to(noise.device)
            chosen = random_members(noise, int(epoch.reduce(chosen.sum())), keys, epoch.reduce)
        status = torch.zeros_like(epoch.status)
        status[noise] = NOISE
        status[chosen] = CANDIDATE
        epoch.decide(status)
        suspicious, candidate = epoch.reduce(torch.stack([noise.sum(), chosen.sum()])).tolist()
        if rate > 0 and not suspicious and not telling(epoch.losses, epoch.reduce):
            warnings.warn(
                f"VariancePruning: all losses of epoch {epoch.number} are equal, so that nothing can be selected by "
                "them. Give the loss of each sample, before they are reduced.",
                stacklevel=2,
            )
        pl_module.log("denoise/drop_rate", rate)
        pl_module.log("denoise/noise_set", float(suspicious))
        pl_module.log("denoise/candidates", float(candidate))
