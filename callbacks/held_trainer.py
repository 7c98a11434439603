"""HeldTrainer: what callbacks that keep a reference to their trainer and its module have in common."""

import copy
from typing import Any, Self

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback


class HeldTrainer(Callback):
    """A callback that can be copied without its trainer and module, as libraries do that train with copies."""

    _trainer: Trainer | None = None
    _module: LightningModule | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        for name, value in vars(self).items():
            # Shared, unless it is being copied itself. Lightning adds the methods of the module.
            owner = getattr(value, "__self__", value)
            held = name in ("_trainer", "_module", "log", "log_dict") and id(owner) not in memo
            setattr(copied, name, value if held else copy.deepcopy(value, memo))
        return copied

    def hold(self, trainer: Trainer, module: LightningModule) -> bool:
        """Keep the trainer and the module of a fit; return whether the last fit was of the same module."""
        same = self._module is module
        self._trainer, self._module = trainer, module
        return same
