"""Train, validate, test and predict: ``python train.py fit --config configs/quickstart.yaml``."""

import os
from pathlib import Path

from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

from llmhd_pl.backbones import Backbone
from llmhd_pl.datamodules import InteractionDataModule


class CLI(LightningCLI):
    """LightningCLI that keeps the best checkpoint by val/ndcg@10, stops early, and tests after fit."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the sizes and the seed, and set up checkpoint and early stopping."""
        for size in ("num_users", "num_items"):
            parser.link_arguments(f"data.{size}", f"model.init_args.{size}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        monitor = {"monitor": "val/ndcg@10", "mode": "max"}
        # Saved at the end of the training epoch, so that it holds what the callbacks did there.
        checkpoint = {"filename": "best", "save_last": True, "save_on_train_epoch_end": True}
        parser.set_defaults({f"checkpoint.{key}": value for key, value in (monitor | checkpoint).items()})
        parser.set_defaults({f"early_stopping.{key}": value for key, value in (monitor | {"patience": 10}).items()})
        parser.set_defaults({"trainer.logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs"}}})

    def before_instantiate_classes(self) -> None:
        """Continue in the folder of the run that is resumed, and log offline where wandb has no key."""
        config = self.config[self.subcommand]
        if self.subcommand == "fit" and config.ckpt_path and Path(config.ckpt_path).is_file():
            config.checkpoint.dirpath = config.checkpoint.dirpath or str(Path(config.ckpt_path).parent)
        if "WandbLogger" in str(config.trainer.logger):
            import wandb

            if wandb.api.api_key is None:
                os.environ.setdefault("WANDB_MODE", "offline")

    def after_fit(self) -> None:
        """Print the test table of the best checkpoint."""
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best or None)


def main(args: ArgsType = None) -> CLI:
    """Run the command line, or ``args`` in its place."""
    return CLI(
        Backbone,
        InteractionDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        args=args,
    )


if __name__ == "__main__":
    main()
