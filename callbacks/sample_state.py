"""SampleState: what a recorder knows of the samples, from fit to fit, from process to process and in checkpoints."""

from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from llmhd_pl.callbacks.step_checks import check_owners
from llmhd_pl.denoising.store import SampleStore
from llmhd_pl.fingerprint import digest_of
from llmhd_pl.processes import reduced

_COUNTS = ("decided", "epochs_before", "steps_before", "last_step", "decided_at")


class SampleState:
    """The store of the samples, who owns them, and how far the training has come.

    Args:
        users: The user of each training sample, int64 [n].
        items: The observed item of each training sample, int64 [n].
        labels: The label of each training sample, int64 [n], or None.
        window: The number of epochs of predictions that are kept.
        keep: The number of epochs that a loss stays valid.
    """

    store: SampleStore

    def __init__(self, users: Tensor, items: Tensor, labels: Tensor | None, window: int, keep: int) -> None:
        self.num_samples, self.window, self.keep = len(users), window, keep
        self.data = digest_of(users, items, *([] if labels is None else [labels]))
        self.decided = -1
        """The last epoch whose end was reached."""
        self.epochs_before = self.steps_before = 0
        """By how much the numbers of the trainer's epochs and steps are too small, after earlier fits."""
        self.last_step = self.decided_at = 0
        """The steps taken, and those until the last decision; all fits together."""
        self.restored = False
        """Whether the samples are those of a checkpoint, and no epoch has ended since."""

    def begin(self, pointwise: bool, device: torch.device) -> None:
        """Make room for the samples, with one or two losses each."""
        self.store = SampleStore(self.num_samples, self.window, pointwise, device, self.keep)
        # What belongs to this process; the rest of the store is as the checkpoint had it.
        self._mine = torch.zeros(self.num_samples, dtype=torch.uint8, device=device)
        self._all_mine = False  # whether nothing is left to note

    def go_on(self, epoch: int, step: int) -> None:
        """Count on from the last fit, whatever the trainer's epoch and step are."""
        self.epochs_before = max(self.epochs_before, self.store.epoch + 1 - epoch)
        self.steps_before = max(self.steps_before, self.last_step - step)

    def number(self, epoch: int) -> int:
        """Return the number, over all fits, of an epoch of the trainer."""
        return epoch + self.epochs_before

    def match(self, losses: Tensor) -> None:
        """Make room for one or two losses per sample, as the first losses of a module of the user's own turn out.

        Raises:
            RuntimeError: If they were others before.
        """
        if (pointwise := losses.dim() == 2) != self.store.pointwise:
            if not bool(self.store.positive.isnan().all()):
                shapes = ("[B, 2]", "[B]") if pointwise else ("[B]", "[B, 2]")
                raise RuntimeError(
                    f"training_step returned losses of shape {shapes[0]} after losses of shape {shapes[1]}."
                )
            epoch = self.store.epoch
            self.begin(pointwise, losses.device)
            self.store.begin_epoch(epoch)

    def own(self, sample: Tensor) -> None:
        """Note that this process has trained on some samples, int64 [B]."""
        if not self._all_mine:
            self._mine.index_fill_(0, sample, 1)  # which does not wait for a GPU, as an assignment would

    def disown(self, owned: Tensor | None, epoch: int) -> None:
        """Forget the losses of other processes' samples, which a checkpoint of all processes has brought.

        Args:
            owned: The samples of this process, bool [n]; None if the data loader does not say.
            epoch: The trainer's epoch.
        """
        if owned is None:
            self.store.losses.fill_(torch.nan)
            return
        owned = owned.to(self._mine.device)
        self._mine.copy_(owned)
        self._all_mine = False
        self.store.losses[~owned] = torch.nan
        # A run that goes on within an epoch, or from the last step of one, before its end.
        if self.decided < self.store.epoch or self.store.epoch == self.number(epoch):
            for scores in (self.store.positive, self.store.negative):
                scores[self.store.epoch % self.window, ~owned] = torch.nan

    def check_owners(self, trainer: Any) -> None:
        """Check, at an epoch's end, that no sample is trained on by several processes. Every process must call it.

        Raises:
            RuntimeError: If one is.
        """
        self._all_mine = bool(self._mine.all())
        check_owners(trainer, self._mine)

    def state_dict(self, trainer: Trainer) -> dict[str, Any]:
        """Return the state of all samples, of whichever process. Every process must call it."""
        state = self.store.state_dict() | {"data": self.data, **{name: getattr(self, name) for name in _COUNTS}}
        if trainer.world_size == 1:
            return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
        # A sample that nobody has seen since a resume is the same everywhere: the first process speaks for it.
        nobody = (reduced(trainer, self._mine.int()) == 0) & (trainer.global_rank == 0)
        mine = self._mine.bool() | nobody
        for name, value in state.items():
            if isinstance(value, Tensor):
                # Samples are the first dimension, except in the predictions, whose first dimension is the window.
                chosen = mine if name in ("positive", "negative") else mine.view(-1, *[1] * (value.dim() - 1))
                state[name] = reduced(trainer, torch.where(chosen, value, torch.zeros_like(value)))
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned, whatever the number of processes.

        Raises:
            ValueError: If it is of other interactions.
        """
        if state.get("data") != self.data:
            raise ValueError(
                "What the checkpoint knows about training samples belongs to other interactions: sample numbers would "
                "be taken for those of others. Resume with the data, split, noise and seed that it was trained with."
            )
        if (pointwise := state["losses"].dim() == 2) != self.store.pointwise:
            self.begin(pointwise, self.store.losses.device)
        self.store.load_state_dict(state)
        for name in _COUNTS:
            setattr(self, name, state.get(name, 0))  # checkpoints of 0.2 have "decided" alone
        self.restored = True
