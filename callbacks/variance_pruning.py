"""VariancePruning: the noise set by loss, and the hard candidates in it by variance (PAPER.md, sections 1 and 2)."""

from typing import Literal, get_args

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from llmhd_pl.callbacks.batch_denoiser import RateOf, check_ramp, check_rate_of, ramp_length, warn_of_slow_ramp
from llmhd_pl.callbacks.sample_recorder import SampleRecorder, required
from llmhd_pl.denoising.schedules import ramp
from llmhd_pl.denoising.selection import candidates, fraction_of, noise_set, random_members
from llmhd_pl.denoising.store import CANDIDATE, CLEAN, NOISE, observed

Candidates = Literal["variance", "random"]


class VariancePruning(Callback):
    """Finds, at the end of every epoch, the noise set and the candidates in it.

    Without ``LLMSampleScorer`` after it the whole noise set is dropped in the next epoch: loss-based denoising, the
    first rung of the paper's ablation.

    Args:
        max_drop_rate: eps_l_max, the largest fraction of the samples in the noise set; with the pointwise objective of
            observed and sampled items together, where new sampled items (``SampleStore.selectable``) are never in it.
        ramp_iterations: alpha, optimiser steps until the drop rate reaches it; the rules' thresholds take as long.
        candidate_fraction: eps_v, of the noise set: the candidates.
        candidates: "variance", or "random", which draws as many from the noise set (the paper's ablation).
        seed: of the random candidates.
        ramp_epochs: epochs until the drop rate is at its maximum, in the place of ``ramp_iterations``: for data of any
            size.
        rate_of: What the drop rate is a fraction of: "samples", with the pointwise objective observed and sampled items
            alike, or "interactions", the observed ones alone.

    Raises:
        ValueError: an argument out of its range.
        RuntimeError: there is no ``SampleRecorder`` before it.
    """

    decides_weights = True

    def __init__(
        self,
        max_drop_rate: float = 0.1,
        ramp_iterations: int = 10_000,
        candidate_fraction: float = 0.5,
        candidates: Candidates = "variance",
        seed: int = 0,
        ramp_epochs: int | None = None,
        rate_of: RateOf = "samples",
    ) -> None:
        check_ramp(max_drop_rate, ramp_iterations, ramp_epochs)
        check_rate_of(rate_of)
        self.rate_of = rate_of
        if not 0 <= candidate_fraction <= 1:
            raise ValueError(f"candidate_fraction is {candidate_fraction}; it is a fraction, from 0 to 1.")
        if candidates not in get_args(Candidates):
            raise ValueError(f"candidates is {candidates!r}; it must be 'variance' or 'random'.")
        self.max_drop_rate, self.ramp_iterations, self.ramp_epochs = max_drop_rate, ramp_iterations, ramp_epochs
        self.candidate_fraction, self.candidates, self.seed = candidate_fraction, candidates, seed
        self.decides = True
        """Whether what is dropped is decided here: ``LLMSampleScorer`` takes that over."""
        self._recorder: SampleRecorder | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the recorder."""
        if stage == "fit":
            self.decides = True
            self._recorder = required(trainer, self, SampleRecorder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of a run that is too short for the drop rate."""
        warn_of_slow_ramp(trainer, self)

    def drop_rate(self, trainer: Trainer) -> float:
        """eps_l(T), T being the optimiser steps taken so far."""
        return ramp(trainer.global_step, ramp_length(trainer, self), 0.0, self.max_drop_rate)

    def droppable(self, trainer: Trainer) -> tuple[Tensor, float]:
        """The losses that a decision can be about, [n] or [n, 2], and which fraction of them is eps_l(T) of all."""
        assert self._recorder is not None
        store, reduce = self._recorder.store, self._recorder.reduce
        losses = store.selectable()
        counted = observed(store.losses) if self.rate_of == "interactions" else store.losses
        return losses, fraction_of(losses, self.drop_rate(trainer), counted, reduce)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Select, and drop the noise set in the next epoch."""
        assert self._recorder is not None
        store, reduce = self._recorder.store, self._recorder.reduce
        noise = noise_set(*self.droppable(trainer), reduce)
        chosen = candidates(noise, *store.variances(), self.candidate_fraction, reduce)
        if self.candidates == "random":
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._recorder.store.epoch)
            keys = torch.rand(noise.shape, generator=generator).to(noise.device)
            chosen = random_members(noise, int(reduce(chosen.sum())), keys, reduce)
        store.status.fill_(CLEAN)
        store.status[noise] = NOISE
        store.status[chosen] = CANDIDATE
        store.weights.fill_(1.0)
        store.weights[noise] = 0.0
        counts = reduce(torch.stack([noise.sum(), chosen.sum()]))
        pl_module.log("denoise/drop_rate", self.drop_rate(trainer))
        pl_module.log("denoise/noise_set", float(counts[0]))
        pl_module.log("denoise/candidates", float(counts[1]))
        if self.decides:
            pl_module.log("denoise/hard", 0.0)
            pl_module.log("denoise/dropped", float(counts[0]))
