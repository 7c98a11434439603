"""SampleRecorder: keeps predictions and losses of every training sample, and applies the weights of the next epoch."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from llmhd_pl.denoising.store import SampleStore
from llmhd_pl.sample_weights import SampleWeights

Before = TypeVar("Before", bound=Callback)
_OUTPUTS = ("losses", "positive_score", "negative_score")


class _Watched(Tensor):
    """A tensor that notes that something was computed with it, beyond a look at its shape."""

    used = False

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _Watched.used |= getattr(function, "__name__", "") not in ("__get__", "__len__", "size", "dim")
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


class SampleRecorder(Callback):
    """Owns the per-sample state that all other callbacks of the method read and write at ``on_train_epoch_end``.

    In every ``on_train_batch_end`` it writes what the step returned. Its weights reach the loss in one of two ways: the
    module inherits ``llmhd_pl.SampleWeights`` and multiplies by ``self.sample_weights(batch, losses)``, or it
    multiplies by ``batch[weight_key]``, which this callback writes in ``on_train_batch_start``.

    A foreign module's batches must be dicts with ``sample`` (the number of the training interaction) and ``negative``,
    both int64 [B], and its ``training_step`` must return a dict with ``loss``, ``losses``, ``positive_score`` and
    ``negative_score``. ``weight_key`` is one weight per row, [B]; a module whose ``hparams.objective`` is "bce" gets
    [B, 2] there, for the observed and the sampled item, and must return such losses. Under DDP a sample must stay with
    its process, as it does with our data modules.

    Args:
        window: m, the epochs of predictions that are kept.
        weight_key: name of the weights in the batch, for a module without the mixin.
        users: [n], the number of each sample's user (a tensor, array or list); None takes
            ``train_users`` of the trainer's data module.
        items: [n], the number of each sample's observed item; None takes ``train_items``.

    Raises:
        ValueError: a window of fewer than 2 epochs, or users without items.
        TypeError: the module has neither the mixin nor, with ``weight_key`` not given, any other way to be weighted.
        RuntimeError: no interactions are known; or what a batch or a step gave lacks something, which is named.
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
            self._given = (torch.as_tensor(users).long(), torch.as_tensor(items).long())
        self._trainer: Trainer | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make room for the samples and find the way to the loss."""
        if stage != "fit":
            return
        data: Any = getattr(trainer, "datamodule", None)
        if self._given is not None:
            self.users, self.items = self._given
        elif hasattr(data, "train_users"):
            self.users, self.items = data.train_users, data.train_items
        else:
            raise RuntimeError(
                "SampleRecorder does not know the training interactions: the trainer's data module has no train_users. "
                "Use a data module of llmhd_pl, or SampleRecorder(users=..., items=...), one entry per sample."
            )
        self._trainer = trainer
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
        """A foreign pointwise module says that it is one by its first losses."""
        if losses.dim() == 2 and not self.store.pointwise:
            if bool((self.store.negative_item >= 0).any()):
                raise RuntimeError("training_step returned losses of shape [B, 2] after losses of shape [B].")
            epoch = self.store.epoch
            self._new_store(True, losses.device)
            self.store.begin_epoch(epoch)

    def _weights(self, batch: dict[str, Tensor], losses: Tensor) -> Tensor:
        samples = batch["sample"]
        if losses.shape not in (samples.shape, (*samples.shape, 2)):
            raise RuntimeError(
                f"sample_weights was given losses of shape {list(losses.shape)} for a batch of {len(samples)}. It "
                "needs them before they are reduced: [B], or [B, 2] for the observed and the sampled item."
            )
        self._match(losses)
        return self.store.weights_of(samples, batch["negative"]).to(losses.dtype)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In a run that resumes within an epoch, tell the samples of this process from those of the others."""
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
        self.store.begin_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a checkpoint holds what the callbacks after this one decide."""
        self._decided = self.store.epoch
        if trainer.world_size > 1 and int((owners := self.reduce(self._mine.int())).max()) > 1:
            raise RuntimeError(
                f"Sample {int(owners.argmax())} was trained on by {int(owners.max())} processes. What is known of a "
                "sample stays with its process: let each process have samples (better: users) of its own for the whole "
                "run, as the data modules of llmhd_pl do; a sampler that shuffles over all processes cannot be used."
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the weights into the batch of a module that has no mixin."""
        if self.store.epoch < trainer.current_epoch:
            self._catch_up(trainer, pl_module)
        missing = [key for key in ("sample", "negative") if not isinstance(batch, dict) or key not in batch]
        if missing:
            raise RuntimeError(
                f"The training batch has no {' and no '.join(missing)}. SampleRecorder needs a dict with the number of "
                "each row's training interaction ('sample') and the sampled item ('negative'), int64 [B]."
            )
        sample, negative = batch["sample"], batch["negative"]
        if sample.dim() != 1 or negative.shape != sample.shape:
            raise RuntimeError(
                f"The training batch has 'sample' of shape {list(sample.shape)} and 'negative' of shape "
                f"{list(negative.shape)}; both must be [B]. With several sampled items per row, take the mean of their "
                "losses, [B], and give the first of them as 'negative'."
            )
        if self.weight_key is not None:
            weights = self.store.weights_of(batch["sample"], batch["negative"])
            # Until it is known that the module uses them; whatever is computed with such a tensor is a plain one.
            batch[self.weight_key] = weights if self._weighted else weights.as_subclass(_Watched)
            _Watched.used = False

    def _catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resumed between the last step of an epoch and its end, Lightning leaves out that end and the next start."""
        others = [other for other in trainer.callbacks if getattr(other, "_recorder", None) is self]  # type: ignore[attr-defined]
        if self._decided < self.store.epoch:
            self._decided = self.store.epoch
            for callback in others:
                callback.on_train_epoch_end(trainer, pl_module)
        for callback in (self, *others):
            callback.on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Record the step; one that was skipped (``training_step`` returned None) leaves nothing."""
        if not outputs:
            return
        missing = [key for key in _OUTPUTS if not isinstance(outputs, dict) or key not in outputs]
        if missing:
            raise RuntimeError(
                f"{type(pl_module).__name__}.training_step returned no {', '.join(missing)}. Let it return a dict with "
                "'loss' and, detached, 'losses' [B] or [B, 2], 'positive_score' and 'negative_score' [B]."
            )
        if self.weight_key is None:
            assert isinstance(pl_module, SampleWeights)
            pl_module.require_asked()
        elif not self._weighted:
            if not _Watched.used:
                raise RuntimeError(
                    f"{type(pl_module).__name__}.training_step did not use batch[{self.weight_key!r}], so that nothing "
                    "that is decided would have an effect. Multiply the un-reduced losses by it, or give the name of "
                    "the weight that it multiplies by: SampleRecorder(weight_key=...)."
                )
            self._weighted = True
        losses, positive, negative = (outputs[key].detach() for key in _OUTPUTS)
        size = batch["sample"].shape
        for key, value in zip(_OUTPUTS, (losses, positive, negative), strict=True):
            if value.shape not in ((size, (*size, 2)) if key == "losses" else (size,)):
                raise RuntimeError(
                    f"{type(pl_module).__name__}.training_step returned {key!r} of shape {list(value.shape)} for a "
                    f"batch of {len(batch['sample'])}. It must be [B]" + (" or [B, 2]." if key == "losses" else ".")
                )
        if self.weight_key is not None and losses.dim() == 2 and not self.store.pointwise:
            raise RuntimeError(
                f"{type(pl_module).__name__}.training_step returned losses of shape [B, 2], but "
                f"batch[{self.weight_key!r}] is one weight per row, [B]. Return their mean, losses.mean(dim=1), so "
                "that both columns are weighted alike; or inherit llmhd_pl.SampleWeights; or set "
                "hparams.objective = 'bce' and multiply by weights of shape [B, 2]."
            )
        self._match(losses)
        self.store.record(batch["sample"], positive, negative, losses, batch["negative"])
        self._mine[batch["sample"]] = 1

    def reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes; with one process the tensor itself."""
        assert self._trainer is not None
        if self._trainer.world_size == 1:
            return tensor
        reduced: Tensor = self._trainer.strategy.reduce(tensor.clone(), reduce_op="sum")
        return reduced

    def state_dict(self) -> dict[str, Any]:
        """The state of all samples, of whichever process; called on every process at once."""
        if self._trainer is None:
            return {}  # nothing was trained
        state = self.store.state_dict() | {"decided": self._decided}
        if self._trainer.world_size == 1:
            return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
        # A sample that nobody has seen since a resume is the same everywhere: the first process speaks for it.
        nobody = (self.reduce(self._mine.int()) == 0) & (self._trainer.global_rank == 0)
        mine = self._mine.bool() | nobody
        for name, value in state.items():
            if isinstance(value, Tensor):
                # Samples are the first dimension, but for the predictions, whose first is the window.
                chosen = mine if name in ("positive", "negative") else mine.view(-1, *[1] * (value.dim() - 1))
                state[name] = self.reduce(torch.where(chosen, value, torch.zeros_like(value)))
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the samples of a checkpoint, whatever the number of processes that wrote it."""
        if self._trainer is None:
            return  # evaluation needs none of it
        if state_dict["losses"].dim() == 2 and not self.store.pointwise:
            self._new_store(True, self.store.losses.device)
        self.store.load_state_dict(state_dict)
        self._decided = state_dict["decided"]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the module, so that another fit of it can be denoised by another recorder."""
        if stage == "fit" and isinstance(pl_module, SampleWeights):
            pl_module.detach_denoiser(self._weights)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the module when a fit fails, where Lightning leaves out the teardown."""
        self.teardown(trainer, pl_module, "fit")


def require_last(trainer: Trainer, callback: Callback) -> None:
    """Check that no callback that decides what is dropped stands after ``callback``.

    Raises:
        RuntimeError: one does.
    """
    callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
    for other in callbacks[callbacks.index(callback) :]:
        if getattr(other, "decides_weights", False):
            raise RuntimeError(
                f"{type(callback).__name__} must come after {type(other).__name__} in the trainer's callbacks: it "
                "looks at what that one has decided."
            )


def required(trainer: Trainer, callback: Callback, kind: type[Before]) -> Before:
    """The callback of this kind that stands before ``callback`` in the trainer.

    Raises:
        RuntimeError: there is none, it comes later, or there are several.
    """
    callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
    found = [other for other in callbacks if isinstance(other, kind)]
    if not found:
        raise RuntimeError(
            f"{type(callback).__name__} needs {kind.__name__}: add it to the trainer's callbacks, before it."
        )
    if len(found) > 1:
        raise RuntimeError(f"The trainer has {len(found)} callbacks of the kind {kind.__name__}: leave one.")
    if callbacks.index(found[0]) > callbacks.index(callback):
        raise RuntimeError(
            f"{kind.__name__} must come before {type(callback).__name__} in the trainer's callbacks: they act in the "
            "order of the list."
        )
    return found[0]
