"""EpochEndCallback: the base of the callbacks that act on the training samples when an epoch ends."""

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from llmhd_pl.callbacks.held_trainer import HeldTrainer
from llmhd_pl.callbacks.sample_recorder import SampleRecorder
from llmhd_pl.denoising.epoch import Epoch

Kind = TypeVar("Kind", bound=Callback)


class EpochEndCallback(HeldTrainer, ABC):
    """Acts on the samples of an epoch: decides what is kept in the next one, or looks at what others have decided.

    A child implements ``at_epoch_end``. It is called at the end of every training epoch, in the order of the trainer's
    callbacks, with the ``Epoch`` that all of them share: losses, variances, drop rate, status and weights. A child that
    overrides ``setup`` calls ``super().setup`` first. The base class

    * finds the ``SampleRecorder``, which must come before, as ``recorder``;
    * registers the callback with it, so that a run that is resumed between the last step of an epoch and its end makes
      up for that end;
    * checks that callbacks that only look (``decides = False``) come after all that decide;
    * logs what was decided, ``denoise/hard`` and ``denoise/dropped``, after the last callback that decides.

    Raises:
        RuntimeError: If there is no ``SampleRecorder`` before it, or if it decides and a callback that looks at
            decisions comes before it.
    """

    decides: ClassVar[bool] = True
    """Whether it may call ``epoch.decide``. A callback that only looks sets it to False."""
    recorder: SampleRecorder
    """The recorder of the samples, once the fit has been set up."""

    @abstractmethod
    def at_epoch_end(self, trainer: Trainer, pl_module: LightningModule, epoch: Epoch) -> None:
        """Decide about the samples with ``epoch.decide``, or look at what was decided.

        With several processes, each is called with its own samples. ``epoch.reduce`` sums over the processes; all of
        them must call it alike.

        Args:
            trainer: The trainer.
            pl_module: The module that is being trained; ``pl_module.log`` works here.
            epoch: What is known about the samples.
        """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the recorder and register with it."""
        if stage == "fit":
            self.recorder = required(trainer, self, SampleRecorder)
            self.recorder.register(self)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act, unless the recorder lets it act after a number of steps."""
        if self.recorder.decide_every is None:
            self.act(trainer, pl_module)

    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act, and log the decision if nobody decides after this callback."""
        epoch = self.recorder.epoch
        self.at_epoch_end(trainer, pl_module, epoch)
        if self.recorder.decides_last(self):
            hard, dropped = epoch.counts()
            pl_module.log("denoise/hard", float(hard))
            pl_module.log("denoise/dropped", float(dropped))


def required(trainer: Trainer, callback: Callback, kind: type[Kind]) -> Kind:
    """Return the callback of this kind that comes before ``callback`` in the trainer.

    Raises:
        RuntimeError: If there is none, if it comes later, or if there are several.
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
