"""Which epoch of a fit of the command line is the best, what decides that, and when it stops."""

from pathlib import Path

from jsonargparse import Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser
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


def own_best(trainer: Trainer, checkpoint: ModelCheckpoint, began: float, begun_from: str) -> str:
    """Return the path of the best checkpoint of a fit that went on from another run's; empty if it has written none.

    Lightning takes over the other run's best checkpoint, and what it was best by.

    Args:
        trainer: The trainer, after the fit.
        checkpoint: The callback that keeps the best one.
        began: When the fit began, in seconds since 1970.
        begun_from: The checkpoint that the fit went on from.

    Raises:
        RuntimeError: If the fit has not trained at all, so that its figures would be those of another run.
    """
    if "train/loss" not in trainer.callback_metrics:
        raise RuntimeError(
            f"Nothing was trained: {begun_from}, which is of another run, has all that --trainer.max_epochs and "
            "--trainer.max_steps allow. Raise them to go on from it, or give that run's settings to test its model."
        )
    best = Path(checkpoint.best_model_path)
    return str(best) if best.is_file() and best.stat().st_mtime >= began else ""


def refuse_one_file_for_several(parser: LightningArgumentParser, config: Namespace) -> None:
    """End with an error if several checkpoints are to be kept, but all would be written to one file.

    Args:
        parser: The parser.
        config: The configuration of a fit.
    """
    for name in ("checkpoint", "last_checkpoint"):
        keep = config[name]
        named_apart = keep.enable_version_counter or "{" in (keep.filename or "{epoch}-{step}")
        if keep.save_top_k not in (0, 1) and not named_apart:
            parser.error(
                f"--{name}.save_top_k is {keep.save_top_k}, but each of these checkpoints would replace the one before "
                f"it, because all are called {keep.filename}.ckpt. Add --{name}.filename '{{epoch}}-{{step}}', or set "
                "save_top_k to 1."
            )
