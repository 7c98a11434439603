"""CheckedCheckpoints: what is checked before a backbone takes over a checkpoint, or data."""

import warnings
from typing import Any, Self

from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn

from llmhd_pl.checkpoint_io import SafeCheckpointIO, refuse_web_address
from llmhd_pl.fingerprint import Purpose, check_data
from llmhd_pl.metrics import MeanLoss

_PURPOSES: dict[Any, Purpose] = {
    TrainerFn.FITTING: "resume",
    TrainerFn.VALIDATING: "evaluate",
    TrainerFn.TESTING: "evaluate",
    TrainerFn.PREDICTING: "predict",
}


class CheckedCheckpoints(LightningModule):
    """A LightningModule whose checkpoints run no code, and know what data they belong to.

    A checkpoint holds the ``fingerprint`` of the trainer's data module. When it is loaded, also by
    ``load_from_checkpoint``, the data that it is used with is compared with it. The numbers of users and items are
    compared with those of the data in any case.
    """

    num_users: int
    num_items: int
    learning_rate: float
    _mean_loss: MeanLoss
    _trained_on: dict[str, list[Any]] | None = None  # the fingerprint in the checkpoint that was loaded

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load a model from a file, as Lightning does, which would run code from a web address.

        Args:
            checkpoint_path: The path of the checkpoint.
            *args: Further arguments of Lightning's method.
            **kwargs: Further arguments of Lightning's method and of the model.

        Raises:
            ValueError: If the checkpoint is a web address.
        """
        refuse_web_address(checkpoint_path)
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def setup(self, stage: str) -> None:
        """Let the trainer's checkpoints be loaded and written by ``SafeCheckpointIO``, unless it has another plugin.

        Raises:
            ValueError: If the trainer's data module has other numbers of users or items than the model.
        """
        strategy = self.trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = SafeCheckpointIO()
        self._check_sizes()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what the numbers of users, items and samples stand for, and the mean loss of the epoch so far."""
        checkpoint["mean_loss"] = self._mean_loss.state_dict()
        if (data := self._data()) is not None:
            checkpoint["data_fingerprint"] = data

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the trainer's data with what the checkpoint was trained on, and keep this run's learning rate.

        The mean loss goes on where the checkpoint's has stopped.

        Raises:
            ValueError: If it does not fit; see ``check_data``.
        """
        if not checkpoint.get("lr_schedulers"):  # the optimiser would restore the rate of the checkpoint
            for optimizer in checkpoint.get("optimizer_states", ()):
                for group in optimizer["param_groups"]:
                    group["lr"] = self.learning_rate
        if "mean_loss" in checkpoint:  # older ones have none
            self._mean_loss.load_state_dict(checkpoint["mean_loss"])
        self._trained_on = checkpoint.get("data_fingerprint")
        data = self._data()
        if data is None:
            return
        if self._trained_on is None:
            warnings.warn(
                "The checkpoint does not say what data it was trained on, so that nobody can check whether the numbers "
                "of users and items mean the same in this data.",
                stacklevel=2,
            )
        else:
            check_data(self._trained_on, data, _PURPOSES[self.trainer.state.fn])

    def on_fit_start(self) -> None:
        """Compare the data with that of a model loaded before; from here on, the model is trained on this data."""
        self._check_loaded("warm start")
        self._trained_on = None

    def on_validation_start(self) -> None:
        """Compare the data with that of a model loaded before."""
        self._check_loaded("evaluate")  # in a fit, there is nothing to compare

    def on_test_start(self) -> None:
        """Compare the data with that of a model loaded before."""
        self._check_loaded("evaluate")

    def on_predict_start(self) -> None:
        """Compare the data with that of a model loaded before."""
        self._check_loaded("predict")

    def _check_sizes(self) -> None:
        """Compare the sizes with the data's. With others, the rows of some users would be taken for those of items."""
        data = getattr(self._trainer, "datamodule", None)
        for name in ("num_users", "num_items"):
            ours, theirs = getattr(self, name), getattr(data, name, None)
            if theirs is not None and theirs != ours:
                self._check_loaded("predict")  # which says more about a model that was loaded
                raise ValueError(
                    f"{type(self).__name__} was made with {name}={ours!r}, and the data module has "
                    f"{name}={theirs!r}. Take the model's sizes from the data module, after its setup: "
                    f"{type(self).__name__}(data.num_users, data.num_items)."
                )

    def _check_loaded(self, purpose: Purpose) -> None:
        if self._trained_on is not None and (data := self._data()) is not None:
            check_data(self._trained_on, data, purpose)

    def _data(self) -> dict[str, list[Any]] | None:
        """Return the fingerprint of the trainer's data; None without a trainer, or if its data has none."""
        data: dict[str, list[Any]] | None = getattr(getattr(self._trainer, "datamodule", None), "fingerprint", None)
        return data
