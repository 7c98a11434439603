"""GraphPruning: edges of samples that are dropped again and again leave the graph. It is not in the paper."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from llmhd_pl.callbacks.epoch_end import EpochEndCallback
from llmhd_pl.callbacks.sample_recorder import SampleRecorder
from llmhd_pl.denoising.epoch import Epoch
from llmhd_pl.denoising.store import observed
from llmhd_pl.training_data import training_interactions


class GraphPruning(EpochEndCallback):
    """Takes the edges of samples that were dropped in several epochs in a row out of a graph model's adjacency.

    An edge whose sample is kept again comes back. A checkpoint holds the edges that its validation metric was computed
    with, and ``test`` and ``predict`` use the same. Place it after the callbacks that decide.

    Args:
        patience: The number of epochs in a row.

    Raises:
        ValueError: If ``patience`` is not 1 to 255, or if a checkpoint is of other data.
        TypeError: If the model has no ``set_graph(users, items)``.
        RuntimeError: If there is no ``SampleRecorder`` before it, if a callback that decides comes after it, or if the
            training interactions are not known.
    """

    decides = False

    def __init__(self, patience: int = 3) -> None:
        if not 1 <= patience <= 255:
            raise ValueError(f"patience is {patience}; it counts epochs, from 1 to 255.")
        self.patience = patience
        # Epochs in a row that each sample was dropped, and whether its edge was out in the last epoch that was trained.
        self._dropped = torch.zeros(0, dtype=torch.uint8)
        self._out = torch.zeros(0, dtype=torch.bool)
        self._built: Tensor | None = None  # what is out of the graph as it is; None: not built here

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the recorder and the interactions."""
        if not hasattr(pl_module, "set_graph"):
            raise TypeError(
                f"{type(pl_module).__name__} has no set_graph(users, items): GraphPruning is for graph models."
            )
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._users, self._items = self.recorder.users, self.recorder.items
        else:
            callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
            given = next((other.given for other in callbacks if isinstance(other, SampleRecorder)), {})
            remedy = "Pass the data module to the trainer."
            pair = (
                (given["users"], given["items"]) if "users" in given else training_interactions(trainer, self, remedy)
            )
            self._users, self._items = pair
        self._built = None  # a model of this package has just built its whole graph
        fresh = stage == "fit" and not self.recorder.goes_on
        if fresh or len(self._out) != len(self._users):  # evaluation after fit goes on with its edges
            self._dropped = torch.zeros(len(self._users), dtype=torch.uint8)
            self._out = torch.zeros(len(self._users), dtype=torch.bool)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let checkpoints hold the edges of this epoch from here on."""
        self._out = self._dropped >= self.patience

    def at_epoch_end(self, trainer: Trainer, pl_module: LightningModule, epoch: Epoch) -> None:
        """Count, and rebuild the graph if its edges change."""
        dropped = epoch.reduce((observed(epoch.weights) == 0).int()).bool().cpu()
        self._dropped = torch.where(dropped, self._dropped.clamp(max=254) + 1, 0).to(torch.uint8)
        out = self._dropped >= self.patience
        self._rebuild(pl_module, out)
        pl_module.log("denoise/edges_removed", float(out.sum()))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the graph for the next epoch of a resumed run."""
        self._rebuild(pl_module, self._dropped >= self.patience)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the graph of the checkpoint; within a fit the graph is as it was trained with."""
        if trainer.state.fn != "fit":
            self._rebuild(pl_module, self._out)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the graph of the checkpoint."""
        self._rebuild(pl_module, self._out)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the graph of the checkpoint."""
        self._rebuild(pl_module, self._out)

    def _rebuild(self, pl_module: Any, out: Tensor) -> None:
        if self._built is None or not torch.equal(out, self._built):
            pl_module.set_graph(self._users[~out], self._items[~out])
            self._built = out.clone()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts and the edges."""
        return {"dropped": self._dropped.clone(), "out": self._out.clone()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Take over a checkpoint.

        Raises:
            ValueError: If it is of other data.
        """
        if len(state_dict["dropped"]) != len(self._dropped):
            raise ValueError(
                f"The checkpoint's graph has {len(state_dict['dropped'])} edges; this data has {len(self._dropped)}. "
                "Use the same data and the same noise."
            )
        self._dropped, self._out = state_dict["dropped"], state_dict["out"]
