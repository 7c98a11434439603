"""Train, validate, test and predict: ``python train.py fit --config configs/quickstart.yaml``."""

import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

from llmhd_pl.backbones import Backbone
from llmhd_pl.callbacks import TopKWriter
from llmhd_pl.datamodules import InteractionDataModule

warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning 2.6 calls what torch 2.13 deprecates
BEST = {"monitor": "val/ndcg@10", "mode": "max"}
# Saved at the end of the training epoch, so that a checkpoint holds what the callbacks did there.
CHECKPOINT = BEST | {"filename": "best", "save_last": True, "save_on_train_epoch_end": True}
LOGGER = {"class_path": "CSVLogger", "init_args": {"save_dir": "", "name": "runs"}}


class CLI(LightningCLI):
    """LightningCLI that keeps the best checkpoint by val/ndcg@10, stops early, and tests after fit."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the sizes and the seed, and add checkpoint, early stopping and the writer of predictions."""
        for size in ("num_users", "num_items"):
            parser.link_arguments(f"data.{size}", f"model.init_args.{size}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments("seed_everything", "model.init_args.seed")  # of models that have one
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(TopKWriter, "predictions")
        parser.set_defaults({f"checkpoint.{key}": value for key, value in CHECKPOINT.items()})
        parser.set_defaults({f"early_stopping.{key}": value for key, value in (BEST | {"patience": 10}).items()})
        parser.set_defaults({"trainer.logger": LOGGER})

    def before_fit(self) -> None:
        """Keep the checkpoints of a resumed run in its own folder; Lightning tells it by its absolute path."""
        loaded, checkpoint = self.config.fit.ckpt_path, self.trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath is None and self.trainer.log_dir:
            resumed = loaded is not None and Path(loaded).is_file()
            folder = Path(loaded).parent if resumed else Path(self.trainer.log_dir, "checkpoints")
            checkpoint.dirpath = str(folder.resolve())

    def after_fit(self) -> None:
        """Print the test table of the best checkpoint."""
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best or None)


def main(args: ArgsType = None) -> CLI:
    """Run the command line, or ``args`` in its place."""
    modes: dict[str, Any] = {"subclass_mode_model": True, "subclass_mode_data": True, "seed_everything_default": 0}
    return CLI(Backbone, InteractionDataModule, save_config_kwargs={"overwrite": True}, args=args, **modes)


if __name__ == "__main__":
    main()
