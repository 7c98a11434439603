"""SampleRecorder: keeps predictions and losses of every training sample, and applies the weights of the next epoch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from llmhd_pl.callbacks.step_checks import (
    WatchedWeights,
    check_batch,
    check_losses,
    check_weights_used,
    checked_outputs,
    whole_numbers,
)
from llmhd_pl.denoising.epoch import Epoch
from llmhd_pl.denoising.store import SampleStore
from llmhd_pl.fingerprint import digest_of
from llmhd_pl.finite import FiniteCheck
from llmhd_pl.processes import reduced
from llmhd_pl.sample_weights import SampleWeights
from llmhd_pl.training_data import training_interactions

if TYPE_CHECKING:
    from llmhd_pl.callbacks.epoch_end import EpochEndCallback


class SampleRecorder(Callback):
    """Owns the state of every training sample, which the callbacks that act at an epoch's end read and write.

    It records what each training step returned. The weights that were decided reach the loss in one of two ways: the
    module inherits from ``llmhd_pl.SampleWeights`` and multiplies by ``self.sample_weights(batch, losses)``, or it
    multiplies by ``batch[weight_key]``, which this callback writes before each step.

    The batches of a module of your own must be dicts with ``sample`` (the number of the training interaction) and
    ``negative``, both int64 [B], and its ``training_step`` must return a dict with ``loss``, ``losses``,
    ``positive_score`` and ``negative_score``. ``batch[weight_key]`` is one weight per row, [B]. A module whose
    ``hparams.objective`` is "bce" gets [B, 2] there, for the observed and the sampled item, and must return such
    losses. Under DDP a sample must stay with its process, as it does with the data modules of this package.

    Args:
        window: The number of epochs of predictions that are kept; m in the paper.
        weight_key: The name of the weights in the batch, for a module without ``SampleWeights``.
        users: The user of each training sample, [n] (a tensor, array or list); None takes ``train_users`` of the
            trainer's data module.
        items: The observed item of each training sample, [n]; None takes ``train_items``.

    Raises:
        ValueError: If the window is shorter than 2 epochs, or if users are given without items.
        TypeError: If users or items are not whole numbers, or if the module does not inherit from ``SampleWeights`` and
            no ``weight_key`` is given.
        RuntimeError: If the interactions are not known, or if a batch or a step lacks something; the message names it.
    """

    store: SampleStore
    users: Tensor
    items: Tensor

    def __init__(
        self,
        window: int = 5,
        weight_key: str | None = None,
        users: Sequence[int] | np.ndarray | Tensor | None = None,
        items: Sequence[int] | np.ndarray | Tensor | None = None,
    ) -> None:
        if window < 2:
            raise ValueError(f"window is {window}; a variance needs the predictions of at least 2 epochs.")
        if (users is None) != (items is None) or (users is not None and items is not None and len(users) != len(items)):
            raise ValueError("users and items belong together: give both, of the same length, or neither.")
        self.window, self.weight_key = window, weight_key
        self._given: tuple[Tensor, Tensor] | None = None
        if users is not None and items is not None:
            self._given = (whole_numbers("users", users), whole_numbers("items", items))
        self._trainer: Trainer | None = None
        self._finite = FiniteCheck("losses or predictions that training_step returned")
        self._registered: list[EpochEndCallback] = []
        self._epoch: Epoch | None = None

    @property
    def epoch(self) -> Epoch:
        """What is known about the samples of the epoch that is ending.

        Raises:
            RuntimeError: If it is read outside of ``on_train_epoch_end``, or by a callback before this one.
        """
        if self._epoch is None:
            raise RuntimeError("SampleRecorder.epoch exists at an epoch's end, for callbacks after SampleRecorder.")
        return self._epoch

    def register(self, callback: "EpochEndCallback") -> None:
        """Register a callback that acts at the epoch's end; ``EpochEndCallback`` does it in ``setup``.

        Raises:
            RuntimeError: If it decides and a callback that only looks at decisions comes before it.
        """
        for other in self._registered:
            if callback.decides and not other.decides:
                raise RuntimeError(
                    f"{type(other).__name__} must come after {type(callback).__name__} in the trainer's callbacks: it "
                    "looks at what that one has decided."
                )
        self._registered.append(callback)

    def decides_last(self, callback: "EpochEndCallback") -> bool:
        """Return whether a registered callback decides and no other decides after it."""
        return [other for other in self._registered if other.decides][-1:] == [callback]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make room for the samples and find the way to the loss."""
        if stage != "fit":
            return
        remedy = "Use a data module of llmhd_pl, or SampleRecorder(users=..., items=...), one entry per sample."
        self.users, self.items = self._given or training_interactions(trainer, self, remedy)
        self._data = digest_of(self.users, self.items)
        self._trainer, self._registered = trainer, []
        pointwise = getattr(getattr(pl_module, "hparams", None), "objective", None) == "bce"
        self._new_store(pointwise, trainer.strategy.root_device)
        self._decided = -1  # the last epoch whose end was reached
        self._weighted = False  # whether a step has used batch[weight_key]
        if self.weight_key is None:
            if not isinstance(pl_module, SampleWeights):
                raise TypeError(
                    f"{type(pl_module).__name__} cannot be denoised yet. Either let it inherit "
                    "llmhd_pl.SampleWeights and multiply its un-reduced losses by "
                    "self.sample_weights(batch, losses), or multiply them by a weight in the batch and name it with "
                    "SampleRecorder(weight_key=...)."
                )
            pl_module.attach_denoiser(self._weights)

    def _new_store(self, pointwise: bool, device: torch.device) -> None:
        self.store = SampleStore(len(self.users), self.window, pointwise, device)
        # What this process has recorded itself since it started; the rest of the store is as the checkpoint had it.
        self._mine = torch.zeros(len(self.users), dtype=torch.uint8, device=device)

    def _match(self, losses: Tensor) -> None:
        """Make room for two losses per sample when a module of the user's own turns out to be pointwise."""
        if losses.dim() == 2 and not self.store.pointwise:
            if bool((self.store.negative_item >= 0).any()):
                raise RuntimeError("training_step returned losses of shape [B, 2] after losses of shape [B].")
            epoch = self.store.epoch
            self._new_store(True, losses.device)
            self.store.begin_epoch(epoch)

    def _weights(self, batch: dict[str, Tensor], losses: Tensor) -> Tensor:
        check_losses(batch["sample"], losses)
        self._match(losses)
        return self.store.weights_of(batch["sample"], batch["negative"]).to(losses.dtype)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the samples of this process from those of the others in a run that resumes within an epoch."""
        owned = getattr(trainer.train_dataloader, "owned", None)
        undecided = self._decided < self.store.epoch  # resumed from the last step of an epoch, before its end
        if owned is not None and (undecided or self.store.epoch == trainer.current_epoch):
            owned = owned.to(self._mine.device)
            self._mine.copy_(owned)
            self.store.losses[~owned] = torch.nan
            for scores in (self.store.positive, self.store.negative):
                scores[self.store.epoch % self.window, ~owned] = torch.nan

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make room for this epoch's predictions."""
        self._epoch = None  # it holds copies
        self.store.begin_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the epoch: from here on a checkpoint holds what the callbacks after this one decide.

        Raises:
            FloatingPointError: If a loss or a prediction was not finite.
            RuntimeError: If several processes trained on the same sample.
        """
        self._finite.verify(trainer.current_epoch)
        self._close_epoch()
        if trainer.world_size > 1 and int((owners := self.reduce(self._mine.int())).max()) > 1:
            raise RuntimeError(
                f"Sample {int(owners.argmax())} was trained on by {int(owners.max())} processes. What is known of a "
                "sample stays with its process: let each process have samples (better: users) of its own for the whole "
                "run, as the data modules of llmhd_pl do; a sampler that shuffles over all processes cannot be used."
            )

    def _close_epoch(self) -> None:
        self._decided = self.store.epoch
        self._epoch = Epoch(self.store, self.users, self.items, self.reduce)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the weights into the batch of a module without ``SampleWeights``."""
        if self.store.epoch < trainer.current_epoch:
            self._catch_up(trainer, pl_module)
        check_batch(batch)
        if self.weight_key is not None:
            weights = self.store.weights_of(batch["sample"], batch["negative"])
            # Watched until a step is known to use them; whatever is computed with such a tensor is a plain one.
            batch[self.weight_key] = weights if self._weighted else weights.as_subclass(WatchedWeights)
            WatchedWeights.used = False

    def _catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for what Lightning leaves out when a run is resumed between an epoch's last step and its end."""
        if self._decided < self.store.epoch:
            self._close_epoch()
            for callback in self._registered:
                callback.on_train_epoch_end(trainer, pl_module)
        for starting in (self, *self._registered):
            starting.on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Record the step. One that was skipped, because ``training_step`` returned None, leaves nothing."""
        if not outputs:
            return
        samples = batch["sample"]
        values = checked_outputs(pl_module, outputs, samples, self.weight_key, self.store.pointwise)
        losses, positive, negative = values
        for value in values:
            self._finite.see(value, trainer.current_epoch, trainer.global_step - 1)
        if self.weight_key is None:
            assert isinstance(pl_module, SampleWeights)
            pl_module.require_asked()
        elif not self._weighted:
            check_weights_used(pl_module, self.weight_key)
            self._weighted = True
        self._match(losses)
        self.store.record(samples, positive, negative, losses, batch["negative"])
        self._mine[samples] = 1

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes; with one process the tensor itself."""
        assert self._trainer is not None
        return reduced(self._trainer, tensor)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all samples, of whichever process. Lightning calls it on every process at once."""
        if self._trainer is None:
            return {}  # nothing was trained
        state = self.store.state_dict() | {"decided": self._decided, "data": self._data}
        if self._trainer.world_size == 1:
            return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
        # A sample that nobody has seen since a resume is the same everywhere: the first process speaks for it.
        nobody = (self.reduce(self._mine.int()) == 0) & (self._trainer.global_rank == 0)
        mine = self._mine.bool() | nobody
        for name, value in state.items():
            if isinstance(value, Tensor):
                # Samples are the first dimension, except in the predictions, whose first dimension is the window.
                chosen = mine if name in ("positive", "negative") else mine.view(-1, *[1] * (value.dim() - 1))
                state[name] = self.reduce(torch.where(chosen, value, torch.zeros_like(value)))
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the samples of a checkpoint, whatever the number of processes that wrote it."""
        if self._trainer is None:
            return  # evaluation needs none of it
        if state_dict.get("data") != self._data:
            raise ValueError(
                "What the checkpoint knows about training samples belongs to other interactions: sample numbers would "
                "be taken for those of others. Resume with the data, split, noise and seed that it was trained with."
            )
        if state_dict["losses"].dim() == 2 and not self.store.pointwise:
            self._new_store(True, self.store.losses.device)
        self.store.load_state_dict(state_dict)
        self._decided = state_dict["decided"]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach from the module, so that another recorder can denoise another fit of it."""
        if stage == "fit" and isinstance(pl_module, SampleWeights):
            pl_module.detach_denoiser(self._weights)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Detach from the module when a fit fails, because Lightning does not call ``teardown`` then."""
        self.teardown(trainer, pl_module, "fit")
