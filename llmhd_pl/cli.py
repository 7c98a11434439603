"""The command line: ``llmhd fit --config quickstart``. ``train.py`` and ``python -m llmhd_pl`` are the same."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

import llmhd_pl.llm.encoder
import llmhd_pl.llm.endpoint
import llmhd_pl.llm.judge
import llmhd_pl.llm.lexical  # so that the scorers are known by their class names
import llmhd_pl.llm.quantized  # noqa: F401
from llmhd_pl import bundled
from llmhd_pl.backbones import Backbone
from llmhd_pl.callbacks import EarlyStopping, TopKWriter
from llmhd_pl.datamodules import InteractionDataModule
from llmhd_pl.memory import keep_freed_memory
from llmhd_pl.methods import Denoising

BEST = {"monitor": "val/ndcg@10", "mode": "max"}
SAVE = {"save_on_train_epoch_end": True, "enable_version_counter": False}  # with what callbacks did at the epoch's end
CALLBACKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "checkpoint": (ModelCheckpoint, BEST | SAVE | {"filename": "best"}),
    "last_checkpoint": (ModelCheckpoint, SAVE | {"filename": "last"}),  # save_last leaves epochs out that are no better
    "early_stopping": (EarlyStopping, BEST | {"patience": 10}),
    "predictions": (TopKWriter, {}),
}
LOGGER = {"class_path": "CSVLogger", "init_args": {"save_dir": "", "name": "runs"}}
_OTHERS = (
    "Further commands: 'llmhd quickstart' (a demonstration of one to three minutes), 'llmhd compare' (a grid of runs), "
    "'llmhd report' (what denoising did), 'llmhd --version'."
)


class CLI(LightningCLI):
    """LightningCLI with ``--denoising``, checkpoints of the best and the last epoch, early stopping, and a final test.

    The best epoch is the one with the highest ``val/ndcg@10``.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--denoising``, link sizes and seed, and add checkpoints, early stopping and the prediction writer."""
        parser.add_subclass_arguments(Denoising, "denoising", required=False)
        for size in ("num_users", "num_items"):
            parser.link_arguments(f"data.{size}", f"model.init_args.{size}", apply_on="instantiate")
        for part in ("data", "model"):  # of models that have one
            parser.link_arguments("seed_everything", f"{part}.init_args.seed")
        for name, (callback, defaults) in CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
            parser.set_defaults({f"{name}.{key}": value for key, value in defaults.items()})
        parser.set_defaults({"trainer.logger": LOGGER})

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Put the callbacks of ``--denoising`` before those of the trainer, some of which look at their decisions."""
        config = self.config_init[self.subcommand]
        callbacks = config["trainer"]["callbacks"] or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        return super().instantiate_trainer(callbacks=[*(config["denoising"] or ()), *callbacks], **kwargs)

    def before_fit(self) -> None:
        """Keep the checkpoints of a resumed run in its own folder, which Lightning knows by its absolute path."""
        last = Path(self.config.fit.ckpt_path or "")
        for checkpoint in self.trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath is None and self.trainer.log_dir:
                folder = last.parent if last.is_file() else Path(self.trainer.log_dir, "checkpoints")
                checkpoint.dirpath = str(folder.resolve())

    def after_fit(self) -> None:
        """Print the test table of the best checkpoint."""
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", None)
        self.trainer.test(self.model, self.datamodule, best or None)


def with_bundled_configs(arguments: Sequence[str]) -> list[str]:
    """Replace the name of a bundled configuration after ``--config`` by its path.

    Args:
        arguments: Arguments of the command line.

    Raises:
        FileNotFoundError: If a ``--config`` is neither a file nor a bundled configuration.
    """
    found = list(arguments)
    for place, argument in enumerate(found):
        if argument.startswith("--config="):
            found[place] = f"--config={bundled.find(argument.removeprefix('--config='))}"
        elif place and found[place - 1] in ("--config", "-c"):
            found[place] = str(bundled.find(argument))
    return found


def main(args: ArgsType = None) -> CLI:
    """Parse the arguments of the process, or ``args`` in their place, and run the command."""
    modes: dict[str, Any] = {"subclass_mode_model": True, "subclass_mode_data": True, "seed_everything_default": 0}
    texts = {"prog": "llmhd", "epilog": _OTHERS}
    if isinstance(args, list):
        args = with_bundled_configs(args)
    save = {"overwrite": True}
    return CLI(Backbone, InteractionDataModule, save_config_kwargs=save, args=args, parser_kwargs=texts, **modes)


def run(arguments: Sequence[str]) -> None:
    """Run the command line as the owner of the process, whose memory and warnings it may configure."""
    keep_freed_memory()
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning 2.6 calls what torch 2.13 deprecates
    sys.argv[1:] = with_bundled_configs(arguments)  # also for the processes that a DDP strategy starts
    main()
