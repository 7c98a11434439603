"""EarlyStopping that a resumed run obeys."""

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping as LightningEarlyStopping


class EarlyStopping(LightningEarlyStopping):
    """Lightning's ``EarlyStopping``; a run that had been stopped, and is resumed after that, takes no further epoch.

    Lightning restores how long was waited, but not that the waiting was over: a run that is killed in the test after
    the fit would train on, and end elsewhere.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop again."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
