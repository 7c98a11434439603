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
        # What is being copied itself is found in the memo; everything else is shared.
        for held in (self._trainer, self._module):
            memo.setdefault(id(held), held)
        for name, value in vars(self).items():
            setattr(copied, name, copy.deepcopy(value, memo))
        return copied
