"""SampleRecorder: keeps predictions and losses of every training sample, and applies the weights of the next epoch."""

from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from llmhd_pl.batches import Key, look_up
from llmhd_pl.callbacks.held_trainer import HeldTrainer
from llmhd_pl.callbacks.sample_state import SampleState
from llmhd_pl.callbacks.step_checks import (
    check_batch,
    check_ends,
    check_negatives,
    check_recorded,
)
from llmhd_pl.callbacks.step_records import StepRecords
from llmhd_pl.callbacks.weight_in_batch import WeightInBatch
from llmhd_pl.denoising.epoch import Epoch
from llmhd_pl.denoising.store import SampleStore
from llmhd_pl.processes import reduced
from llmhd_pl.sample_weights import SCORE, SampleWeights
from llmhd_pl.training_data import Ids, given_samples, training_samples

if TYPE_CHECKING:
    from llmhd_pl.callbacks.epoch_end import EpochEndCallback


class SampleRecorder(HeldTrainer):
    """Owns the state of every training sample, which the callbacks that act at an epoch's end read and write.

    The weights that were decided reach the loss in one of two ways: the module inherits ``llmhd_pl.SampleWeights`` and
    multiplies its un-reduced losses by ``self.sample_weights(batch, losses)``, or it multiplies them by a weight in the
    batch, which this callback multiplies for the time of each step.

    The batches of a module of your own hold ``sample``, the number of the training interaction of each loss, int64 of
    the shape of the losses; -1 is padding. A module that compares an observed with a sampled item may have ``negative``
    in the batch and return a dict with ``loss``, ``losses``, ``positive_score`` and ``negative_score``; then the
    sampled items are judged too. docs/denoising.md has the whole contract. Under DDP a sample must stay with its
    process, as it does with the data modules of this package.

    A second fit of the same module with the same interactions goes on where the first one ended.

    Args:
        window: The number of epochs of predictions that are kept; m in the paper.
        weight_key: Where the batch has the weight that the module multiplies its losses by, for a module without
            ``SampleWeights``: a name, or a path such as ("features", "weight").
        users: The user of each training sample, [n] (a tensor, an array, a list or a column of a data frame); None
            takes ``train_users`` of the trainer's data module.
        items: The observed item of each training sample, [n]; None takes ``train_items``.
        labels: Whether the user liked the item of each training sample, 0 or 1, [n]; None takes ``train_labels`` of the
            data module if it has them, and otherwise every sample is a like.
        noise: Which training samples are known to be noise, [n], for ``NoiseAudit``; None takes ``noise_mask`` of the
            data module if it has one.
        sample_key: Where the batch has the samples: a name, or a path.
        keep: The number of epochs that a loss, and so a decision, stays valid for a sample that is not seen again, up
            to the window; None is the window.
        decide_every: The number of optimiser steps after which a decision is made, in place of an epoch: for streams
            without an end. What is counted in epochs elsewhere (``window``, ``keep``, patience) counts decisions then.

    Raises:
        ValueError: If a number is out of its range, or if users, items, labels and noise do not belong together.
        TypeError: If users or items are not whole numbers, labels or noise not 0 and 1, or if the module does not
            inherit from ``SampleWeights`` and no ``weight_key`` is given.
        FloatingPointError: If a loss or a prediction is not finite.
        RuntimeError: If the interactions are not known, if a batch or a step lacks something, if an epoch has recorded
            nothing, or if several processes trained on the same sample; the message names the remedy.
        IndexError: If a batch names a sample that there is not.
    """

    users: Tensor
    items: Tensor
    labels: Tensor | None
    noise: Tensor | None
    goes_on: bool
    """Whether this fit goes on where the last one of the same module ended, once it has been set up."""
    _state: SampleState | None = None

    def __init__(
        self,
        window: int = 5,
        weight_key: Key | None = None,
        users: Ids | None = None,
        items: Ids | None = None,
        labels: Ids | None = None,
        noise: Ids | None = None,
        sample_key: Key = "sample",
        keep: int | None = None,
        decide_every: int | None = None,
    ) -> None:
        if window < 2:
            raise ValueError(f"window is {window}; a variance needs the predictions of at least 2 epochs.")
        if keep is not None and not 1 <= keep <= window:
            raise ValueError(f"keep is {keep}; it counts epochs, from 1 to the window, {window}.")
        if decide_every is not None and decide_every < 1:
            raise ValueError(f"decide_every is {decide_every}; it counts optimiser steps, from 1.")
        self.window, self.keep, self.decide_every = window, window if keep is None else keep, decide_every
        self.weight_key, self.sample_key = weight_key, sample_key
        self.given = given_samples(users, items, labels, noise)  # by name
        self._in_batch = None if weight_key is None else WeightInBatch(weight_key)
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

    @property
    def store(self) -> SampleStore:
        """What is kept about every sample, once a fit has been set up."""
        return self._known.store

    @property
    def steps(self) -> int:
        """The optimiser steps taken so far, those of earlier fits that this one goes on from included."""
        assert self._trainer is not None
        return self._trainer.global_step + self._known.steps_before

    @property
    def _known(self) -> SampleState:
        assert self._state is not None, "SampleRecorder has not been set up for a fit."
        return self._state

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
        self.users, self.items, self.labels, self.noise = training_samples(trainer, self, self.given)
        state = SampleState(self.users, self.items, self.labels, self.window, self.keep)
        self.goes_on = self.hold(trainer, pl_module) and self._state is not None and self._state.data == state.data
        self._registered = []
        if not self.goes_on:
            self._state = state
            pointwise = getattr(getattr(pl_module, "hparams", None), "objective", None) == "bce"
            state.begin(pointwise, trainer.strategy.root_device)
        self._known.restored = False
        self._recorded = 0  # records since the last decision
        self._records = StepRecords(self.users, self.items, self.labels, self.weight_key, pl_module)
        if self.weight_key is None:
            if not isinstance(pl_module, SampleWeights):
                raise TypeError(
                    f"{type(pl_module).__name__} cannot be denoised yet. Either let it inherit "
                    "llmhd_pl.SampleWeights and multiply its un-reduced losses by "
                    "self.sample_weights(batch, losses), or multiply them by a weight in the batch and name it by "
                    "weight_key=... of SampleRecorder or of the method."
                )
            if self.sample_key != "sample":
                pl_module.sample_key = self.sample_key
            pl_module.attach_denoiser(self._weights)

    def _weights(self, batch: dict[str, Tensor], losses: Tensor) -> Tensor:
        sample, negative = check_batch(batch, "sample")
        self._records.check(batch, sample)
        self._records.add(sample, losses, batch.get(SCORE), negative)
        self._known.match(losses)
        return self._records.weights_of(self.store, sample, negative).to(losses.dtype)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on counting from an earlier fit, and tell the samples of this process from those of the others."""
        if self.decide_every is None:
            check_ends(trainer)
        if self._known.restored and trainer.world_size > 1:
            owned = getattr(trainer.train_dataloader, "owned", None)
            self._known.disown(owned, trainer.current_epoch)
        elif self.goes_on and not self._known.restored:  # a checkpoint has brought what it counts on from
            self._known.go_on(trainer.current_epoch, trainer.global_step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make room for this epoch's predictions."""
        self._epoch = None  # it holds copies
        if self.decide_every is None:
            self.store.begin_epoch(self._known.number(trainer.current_epoch))
        elif self.store.epoch < 0:
            self.store.begin_epoch(0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the epoch: from here on a checkpoint holds what the callbacks after this one decide."""
        if self.decide_every is None:
            self._close_epoch(pl_module)

    def _close_epoch(self, pl_module: LightningModule) -> None:
        self._records.verify(self.store.epoch)
        if not self._known.restored and not self._skips:
            recorded = self.reduce(torch.tensor(self._recorded, device=self.store.losses.device))
            check_recorded(pl_module, recorded, self.store.epoch)
        check_negatives(self.store.negative_item)
        self._known.decided, self._known.restored, self._recorded = self.store.epoch, False, 0
        self._known.check_owners(self._trainer)
        self._epoch = Epoch(self.store, self.users, self.items, self.reduce, self.labels)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Multiply the weight in the batch of a module without ``SampleWeights``."""
        if self.decide_every is None and self.store.epoch < self._known.number(trainer.current_epoch):
            self._catch_up(trainer, pl_module)
        self._records.begin()
        if self._in_batch is None:
            if look_up(batch, self.sample_key) is not None:
                check_batch(batch, self.sample_key)
            return
        sample, negative = check_batch(batch, self.sample_key)
        self._records.check(batch, sample)
        if negative is None:  # whatever the objective is called, there is one loss per sample
            self._known.match(sample.flatten())
        self._in_batch.write(batch, self._records.padded_weights(self.store, sample, negative))

    @property
    def _skips(self) -> bool:
        """Whether there is no backward pass in this epoch, in which Lightning's averaging of weights fits BatchNorm."""
        return self._in_batch is not None and getattr(self._trainer.fit_loop, "_skip_backward", False)  # type: ignore

    def _catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for what Lightning leaves out when a run is resumed between an epoch's last step and its end."""
        if self._known.decided < self.store.epoch:
            self._act(trainer, pl_module)
        for starting in (self, *self._registered):
            starting.on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the step. One that was skipped, because ``training_step`` returned None, leaves nothing."""
        if self._in_batch is not None:
            self._in_batch.restore()
        if (outputs or not pl_module.automatic_optimization) and not self._skips:
            self._record(trainer, pl_module, outputs, batch)
        self._known.last_step = self.steps
        if self.decide_every is not None and self.steps - self._known.decided_at >= self.decide_every:
            self._known.decided_at = self.steps
            self._act(trainer, pl_module)
            self._epoch = None
            self.store.begin_epoch(self.store.epoch + 1)
            for callback in self._registered:
                callback.on_train_epoch_start(trainer, pl_module)

    def _act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close_epoch(pl_module)
        for callback in self._registered:
            callback.act(trainer, pl_module)

    def _record(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        if self._in_batch is None:
            pl_module.require_asked()  # type: ignore[operator]
        else:
            losses = self._in_batch.losses(pl_module)
            sample, negative = check_batch(batch, self.sample_key)
            found = ~losses.isnan().view(*sample.shape, -1).any(dim=-1) & (sample >= 0)
            self._records.add(sample[found], losses[found], None, None if negative is None else negative[found])
        self._recorded += self._records.write(self._known, trainer, pl_module, outputs, batch, self.sample_key)

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes; with one process the tensor itself."""
        assert self._trainer is not None
        return reduced(self._trainer, tensor)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all samples, of whichever process. Lightning calls it on every process at once."""
        return {} if self._trainer is None else self._known.state_dict(self._trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the samples of a checkpoint, whatever the number of processes that wrote it."""
        if self._trainer is not None and state_dict:
            self._known.load_state_dict(state_dict)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach from the module, so that another recorder can denoise another fit of it."""
        if stage == "fit" and isinstance(pl_module, SampleWeights):
            pl_module.detach_denoiser(self._weights)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Detach from the module when a fit fails, because Lightning does not call ``teardown`` then."""
        if self._in_batch is not None:
            self._in_batch.restore()
            self._in_batch.explain(exception)
        self.teardown(trainer, pl_module, "fit")
