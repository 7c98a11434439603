"""EarlyStopping that a resumed run obeys."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping as LightningEarlyStopping


class EarlyStopping(LightningEarlyStopping):
    """Lightning's ``EarlyStopping``, except that a run that was stopped and is resumed later takes no further epoch.

    Lightning restores how long it has waited, but not that the waiting was over. A run that is killed during the test
    after the fit would train on and end elsewhere. The patience is the one that is given, not that of the checkpoint,
    and a fit of another trainer counts from the start.
    """

    _resumed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier fit, unless this trainer goes on with it. A checkpoint is loaded after this."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._resumed = False
            if trainer.current_epoch == 0:
                self.wait_count = 0
                self.best_score = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over how long a run has waited, but not its patience."""
        super().load_state_dict(state_dict | {"patience": self.patience})
        self._resumed = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop again a run that is resumed. With a patience of 0, too, it takes one wait to stop."""
        if self._resumed and self.wait_count >= max(self.patience, 1):
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check, unless ``max_steps`` cut the epoch off: it was not validated, and there is nothing left to stop."""
        if trainer.is_last_batch or not 0 <= trainer.max_steps <= trainer.global_step:
            super().on_train_epoch_end(trainer, pl_module)
