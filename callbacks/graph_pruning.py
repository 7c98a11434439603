"""GraphPruning: edges of samples that are dropped again and again leave the graph. Not in the paper."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from llmhd_pl.callbacks.sample_recorder import SampleRecorder, require_last, required
from llmhd_pl.denoising.store import observed


class GraphPruning(Callback):
    """Takes the edges of samples that have been dropped in several epochs in a row out of a graph model's adjacency.

    An edge whose sample is kept again comes back. A checkpoint holds the edges that its validation metric was computed
    with, and ``test`` and ``predict`` use the same.

    Place it after the callbacks that decide.

    Args:
        patience: epochs in a row.

    Raises:
        ValueError: ``patience`` is not 1 to 255.
        TypeError: the model has no ``set_graph(users, items)``.
        RuntimeError: there is no ``SampleRecorder`` before it, a callback that decides stands after it, or the data
            module has no training interactions.
    """

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
        if stage == "fit":
            self._recorder = required(trainer, self, SampleRecorder)
            require_last(trainer, self)
            self._users, self._items = self._recorder.users, self._recorder.items
        else:
            data: Any = getattr(trainer, "datamodule", None)
            if not hasattr(data, "train_users"):
                raise RuntimeError("GraphPruning needs the training interactions: pass the data module to the trainer.")
            self._users, self._items = data.train_users, data.train_items
        self._built = None  # a model of ours has just built its whole graph
        if stage == "fit" or len(self._out) != len(self._users):  # evaluation after fit goes on with its edges
            self._dropped = torch.zeros(len(self._users), dtype=torch.uint8)
            self._out = torch.zeros(len(self._users), dtype=torch.bool)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, checkpoints are about the edges of this epoch."""
        self._out = self._dropped >= self.patience

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count, and rebuild the graph if its edges change."""
        dropped = observed(self._recorder.store.weights) == 0
        dropped = self._recorder.reduce(dropped.int()).bool().cpu()
        self._dropped = torch.where(dropped, self._dropped.clamp(max=254) + 1, 0).to(torch.uint8)
        out = self._dropped >= self.patience
        self._rebuild(pl_module, out)
        pl_module.log("denoise/edges_removed", float(out.sum()))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the graph for the next epoch of a resumed run."""
        self._rebuild(pl_module, self._dropped >= self.patience)

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":  # within fit the graph is as it was trained with
            self._rebuild(pl_module, self._out)

    on_validation_start = on_test_start = on_predict_start = _evaluate

    def _rebuild(self, pl_module: Any, out: Tensor) -> None:
        if self._built is None or not torch.equal(out, self._built):
            pl_module.set_graph(self._users[~out], self._items[~out])
            self._built = out.clone()

    def state_dict(self) -> dict[str, Tensor]:
        """Counts and edges."""
        return {"dropped": self._dropped.clone(), "out": self._out.clone()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Take them over.

        Raises:
            ValueError: they are of other data.
        """
        if len(state_dict["dropped"]) != len(self._dropped):
            raise ValueError(
                f"The checkpoint's graph has {len(state_dict['dropped'])} edges; this data has {len(self._dropped)}. "
                "Use the same data and the same noise."
            )
        self._dropped, self._out = state_dict["dropped"], state_dict["out"]
