"""What decides which epoch of a fit of the command line is the best, and when it stops."""

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from llmhd_pl.backbones import Backbone
from llmhd_pl.callbacks import EarlyStopping
from llmhd_pl.datamodules import InteractionDataModule

BEST = {"monitor": "val/ndcg@10", "mode": "max"}


def watch_what_there_is(trainer: Trainer, model: Backbone, data: InteractionDataModule) -> None:
    """Let checkpoints and early stopping watch a metric that exists, where nobody has chosen one.

    Without validation, training takes all its epochs, and the best checkpoint is the last one. Where validation comes
    within an epoch, a checkpoint that is chosen by it is written right after it.

    Args:
        trainer: The trainer, before the fit.
        model: The model, whose ``ks`` say which metrics exist.
        data: The data module.
    """
    data.setup("fit")
    validates = trainer.limit_val_batches > 0 and len(data.interactions.valid) > 0
    # Each epoch, or each step. Lightning's trainer has no such attribute if the interval is a time.
    ends_epochs = getattr(trainer, "val_check_interval", None) == 1
    best = f"val/ndcg@{10 if 10 in model.ks else model.ks[-1]}"
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in list(callbacks):
        monitor = getattr(callback, "monitor", None)
        if not isinstance(callback, (EarlyStopping, ModelCheckpoint)) or monitor is None:
            continue
        if validates and monitor == BEST["monitor"]:
            callback.monitor = best
        elif not validates and monitor.startswith("val/") and isinstance(callback, EarlyStopping):
            callbacks.remove(callback)
        elif not validates and monitor.startswith("val/"):
            callback.monitor = None
        if validates and not ends_epochs and monitor.startswith("val/") and isinstance(callback, ModelCheckpoint):
            # At the epoch's end the model is no longer the one that was validated. What denoisers decide there, a fit
            # that is resumed from this checkpoint makes up for.
            callback._save_on_train_epoch_end = False
    if not validates:
        why = "limit_val_batches is 0" if len(data.interactions.valid) else "the data has no validation interactions"
        rank_zero_warn(
            f"There is no validation ({why}): training takes all {trainer.max_epochs} epochs, and best.ckpt is the "
            "last epoch."
        )
    elif best != BEST["monitor"]:
        rank_zero_info(f"Early stopping and best.ckpt watch {best}, because the model's ks have no 10.")
