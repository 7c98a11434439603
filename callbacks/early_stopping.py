"""EarlyStopping that a resumed run obeys."""

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping as LightningEarlyStopping


class EarlyStopping(LightningEarlyStopping):
    """Lightning's ``EarlyStopping``, except that a run that was stopped and is resumed later takes no further epoch.

    Lightning restores how long it has waited, but not that the waiting was over. A run that is killed during the test
    after the fit would train on and end elsewhere.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop again."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
