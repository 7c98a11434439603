"""Train, validate, test and predict: ``python train.py fit --config configs/quickstart.yaml``."""

import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

from llmhd_pl.backbones import Backbone
from llmhd_pl.callbacks import EarlyStopping, TopKWriter
from llmhd_pl.datamodules import InteractionDataModule
from llmhd_pl.memory import keep_freed_memory

warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning 2.6 calls what torch 2.13 deprecates
BEST = {"monitor": "val/ndcg@10", "mode": "max"}
SAVE = {"save_on_train_epoch_end": True, "enable_version_counter": False}  # with what callbacks did at the epoch's end
CALLBACKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "checkpoint": (ModelCheckpoint, BEST | SAVE | {"filename": "best"}),
    "last_checkpoint": (ModelCheckpoint, SAVE | {"filename": "last"}),  # save_last leaves epochs out that are no better
    "early_stopping": (EarlyStopping, BEST | {"patience": 10}),
    "predictions": (TopKWriter, {}),
}
LOGGER = {"class_path": "CSVLogger", "init_args": {"save_dir": "", "name": "runs"}}


class CLI(LightningCLI):
    """LightningCLI that keeps the best checkpoint by val/ndcg@10 and the last, stops early, and tests after fit."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the sizes and the seed, and add checkpoint, early stopping and the writer of predictions."""
        for size in ("num_users", "num_items"):
            parser.link_arguments(f"data.{size}", f"model.init_args.{size}", apply_on="instantiate")
        for part in ("data", "model"):  # of models that have one
            parser.link_arguments("seed_everything", f"{part}.init_args.seed")
        for name, (callback, defaults) in CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
            parser.set_defaults({f"{name}.{key}": value for key, value in defaults.items()})
        parser.set_defaults({"trainer.logger": LOGGER})

    def before_fit(self) -> None:
        """Keep the checkpoints of a resumed run in its own folder; Lightning tells it by its absolute path."""
        last = Path(self.config.fit.ckpt_path or "")
        for checkpoint in self.trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath is None and self.trainer.log_dir:
                folder = last.parent if last.is_file() else Path(self.trainer.log_dir, "checkpoints")
                checkpoint.dirpath = str(folder.resolve())

    def after_fit(self) -> None:
        """Print the test table of the best checkpoint."""
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", None)
        self.trainer.test(self.model, self.datamodule, best or None)


def main(args: ArgsType = None) -> CLI:
    """Run the command line, or ``args`` in its place."""
    modes: dict[str, Any] = {"subclass_mode_model": True, "subclass_mode_data": True, "seed_everything_default": 0}
    return CLI(Backbone, InteractionDataModule, save_config_kwargs={"overwrite": True}, args=args, **modes)


if __name__ == "__main__":
    keep_freed_memory()
    main()
