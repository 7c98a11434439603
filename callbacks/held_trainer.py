"""HeldTrainer: what callbacks that keep a reference to their trainer have in common."""

import copy
from typing import Any, Self

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback


class HeldTrainer(Callback):
    """A callback that keeps its trainer, and can be copied without it, as libraries do that train with copies."""

    _trainer: Trainer | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        # A trainer that is being copied itself is found in the memo; another one is shared.
        memo.setdefault(id(self._trainer), self._trainer)
        for name, value in vars(self).items():
            setattr(copied, name, copy.deepcopy(value, memo))
        return copied
