"""Oracle: the noise mask as the judge. It shows what a perfect judge would gain and is not a method."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from llmhd_pl.callbacks.batch_denoiser import BatchDenoiser
from llmhd_pl.denoising.store import observed
from llmhd_pl.sample_weights import Batch
from llmhd_pl.training_data import Ids, known_noise, training_interactions, zeros_and_ones


class Oracle(BatchDenoiser):
    """Drops the known noise from the loss, from the first step on, and from the graph if asked.

    Args:
        graph: Whether to take the noise out of the model's graph too.
        noise: Which training samples are noise, [n]; None takes ``noise_mask`` of the trainer's data module.

    Raises:
        ValueError: If there is more or less noise than training interactions.
        RuntimeError: If the noise is not known, or if a training step did not ask for weights.
        TypeError: If the module does not inherit from ``SampleWeights``, or has no ``set_graph`` where it is needed.
    """

    def __init__(self, graph: bool = False, noise: Ids | None = None) -> None:
        self.graph = graph
        self._noise = None if noise is None else zeros_and_ones("noise", noise).bool()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the mask and attach to the loss."""
        if stage != "fit" and not self.graph:
            return  # without a graph, an evaluation has nothing to do with noise
        self._clean = ~known_noise(trainer, self, self._noise)
        users = getattr(getattr(trainer, "datamodule", None), "train_users", None)
        if users is not None and len(users) != len(self._clean):
            raise ValueError(f"There are {len(self._clean):,} noise for {len(users):,} training interactions.")
        super().setup(trainer, pl_module, stage)
        if not self.graph:
            return
        if not hasattr(pl_module, "set_graph"):
            raise TypeError(
                f"{type(pl_module).__name__} has no set_graph(users, items): graph=True is for graph models."
            )
        remedy = "Use a data module of llmhd_pl."
        users, items = training_interactions(trainer, self, remedy)
        self._edges = users[self._clean], items[self._clean]

    def weigh(self, batch: Batch, losses: Tensor) -> Tensor:
        """Return 0 for noise and 1 for the rest."""
        self._clean = self._clean.to(losses.device)
        weights = torch.ones_like(losses)
        # The pair of a misclick teaches nothing. With the pointwise objective its sampled item is as good as any other.
        observed(weights)[:] = self._clean[self.samples(batch, len(self._clean))].to(losses.dtype)
        return weights

    # The model builds its whole graph in setup, which comes before each of these.
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the noise out of the graph."""
        self._prune(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the noise out of the graph."""
        self._prune(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the noise out of the graph."""
        self._prune(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the noise out of the graph."""
        self._prune(pl_module)

    def _prune(self, pl_module: Any) -> None:
        if self.graph:
            pl_module.set_graph(*self._edges)
