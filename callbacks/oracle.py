"""Oracle: the noise mask as the judge. It shows what a perfect judge would gain; it is no method."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from llmhd_pl.callbacks.batch_denoiser import BatchDenoiser
from llmhd_pl.denoising.store import observed
from llmhd_pl.sample_weights import Batch


class Oracle(BatchDenoiser):
    """Drops the injected noise from the loss, from the first step on, and from the graph if asked.

    Args:
        graph: take the noise out of the model's graph too.

    Raises:
        RuntimeError: the data has no ``noise_mask``, or a step did not call ``sample_weights``.
        TypeError: the module has no ``sample_weights``, or no ``set_graph`` where it is needed.
    """

    def __init__(self, graph: bool = False) -> None:
        self.graph = graph

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the mask and attach to the loss."""
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "noise_mask"):
            raise RuntimeError("Oracle needs the truth: a data module with noise_mask, as those of llmhd_pl have.")
        if self.graph and not hasattr(pl_module, "set_graph"):
            raise TypeError(
                f"{type(pl_module).__name__} has no set_graph(users, items): graph=True is for graph models."
            )
        self._clean = ~data.noise_mask
        self._edges = data.train_users[self._clean], data.train_items[self._clean]
        super().setup(trainer, pl_module, stage)

    def weigh(self, batch: Batch, losses: Tensor) -> Tensor:
        """0 for noise, 1 for the rest."""
        self._clean = self._clean.to(losses.device)
        weights = torch.ones_like(losses)
        # The pair of a misclick teaches nothing; the sampled item of the pointwise objective is innocent.
        observed(weights)[:] = self._clean[batch["sample"]].to(losses.dtype)
        return weights

    def _prune(self, trainer: Trainer, pl_module: Any) -> None:
        if self.graph:
            pl_module.set_graph(*self._edges)

    # The model builds its whole graph in setup, before every one of these.
    on_fit_start = on_validation_start = on_test_start = on_predict_start = _prune
