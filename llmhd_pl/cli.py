"""The command line: ``llmhd fit --config quickstart``. ``train.py`` and ``python -m llmhd_pl`` are the same."""

import sys
import time
import warnings
from argparse import SUPPRESS
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_warn

import llmhd_pl.llm.cascade
import llmhd_pl.llm.encoder
import llmhd_pl.llm.endpoint
import llmhd_pl.llm.judge
import llmhd_pl.llm.lexical  # so that the scorers are known by their class names
import llmhd_pl.llm.quantized  # noqa: F401
from llmhd_pl import bundled
from llmhd_pl.backbones import Backbone
from llmhd_pl.callbacks import EarlyStopping, TopKWriter
from llmhd_pl.checkpoint_io import read_checkpoint
from llmhd_pl.datamodules import InteractionDataModule
from llmhd_pl.memory import keep_freed_memory
from llmhd_pl.methods import Denoising
from llmhd_pl.parser import Parser
from llmhd_pl.run_files import settings
from llmhd_pl.watched import BEST, own_best, refuse_one_file_for_several, watch_what_there_is

SAVE = {"save_on_train_epoch_end": True, "enable_version_counter": False}  # with what callbacks did at the epoch's end
CALLBACKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "checkpoint": (ModelCheckpoint, BEST | SAVE | {"filename": "best"}),
    "last_checkpoint": (ModelCheckpoint, SAVE | {"filename": "last"}),  # save_last leaves epochs out that are no better
    "early_stopping": (EarlyStopping, BEST | {"patience": 10}),
    "predictions": (TopKWriter, {}),
}
LOGGER: dict[str, Any] = {"class_path": "CSVLogger", "init_args": {"save_dir": "", "name": "runs"}}
_CHOSEN_LATER = ("best", "last", "hpc")  # checkpoints that Lightning finds itself
_OTHERS = (
    "Further commands: 'llmhd quickstart' (a demonstration of one to three minutes), 'llmhd prepare' (data from an "
    "owner's dump), 'llmhd compare' (a grid of runs), 'llmhd audit' (how noisy is the data), 'llmhd judge' (is a judge "
    "worth it), 'llmhd report' (what denoising did), 'llmhd --version'."
)


class CLI(LightningCLI):
    """LightningCLI with ``--denoising``, checkpoints of the best and the last epoch, early stopping, and a final test.

    The best epoch is the one with the highest ``val/ndcg@10``.
    """

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser that says what is wrong in a few lines."""
        parser = Parser(**{"dump_header": [f"pytorch_lightning=={version('pytorch-lightning')}"]} | kwargs)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="a file, or the name of a bundled one")
        return parser

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
        # One device, unless several are asked for: Lightning would start DDP on all GPUs of the machine.
        parser.set_defaults({"trainer.logger": LOGGER, "trainer.devices": 1})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Check the checkpoints, and keep Lightning from replacing the settings of a fit by those in one."""
        super().parse_arguments(parser, args)
        command, config = self.config.subcommand, self.config[self.config.subcommand]
        self._arguments, self._checkpoint = args, config.ckpt_path
        if command != "fit" and self._checkpoint is None:
            parser.error(
                f"There is no model to {command}: give the checkpoint of a fit, such as --ckpt_path "
                "runs/version_0/checkpoints/best.ckpt."
            )
        if self._checkpoint is not None and self._checkpoint not in _CHOSEN_LATER:
            try:
                read_checkpoint(self._checkpoint)
            except (ValueError, OSError) as error:
                parser.error(str(error))
        if command == "fit":
            refuse_one_file_for_several(parser, config)
            config.ckpt_path = None

    def before_instantiate_classes(self) -> None:
        """Put the checkpoint of a fit back in its place; look after the settings that Lightning takes from others."""
        self.config[self.config.subcommand].ckpt_path = self._checkpoint
        if self.config.subcommand != "fit":
            self._take_cutoffs()

    def _take_cutoffs(self) -> None:
        """Let the command's ``ks`` hold in an evaluation, and say which of its settings the checkpoint has replaced."""
        loaded, command = self.config, self.config.subcommand
        model = loaded[command].model
        # With those in the checkpoint as defaults, the command differs from them where it was given others.
        self._parser(command).set_defaults({"model": model.as_dict()})
        super().parse_arguments(self.parser, self._arguments)
        given, self.config = self.config[command].model, loaded
        # No weight depends on the cutoffs. A seed comes from seed_everything, which nobody need have given.
        if "ks" in given.init_args and "ks" in model.init_args:
            model.init_args.ks = given.init_args.ks
        before, now = settings({"model": model.as_dict()}), settings({"model": given.as_dict()})
        for names in (before, now):  # llmhd_pl.MF is llmhd_pl.backbones.MF
            names["model.class_path"] = names["model.class_path"].rpartition(".")[2]
        replaced = [
            f"{name} is {before.get(name)}, not {now.get(name)}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and name != "model.init_args.seed"
        ]
        if replaced:
            rank_zero_warn(
                f"The settings of the model are those in {self._checkpoint}, not those of the command, except for ks: "
                f"{'; '.join(replaced)}."
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Put the callbacks of ``--denoising`` first, and give the run a folder whatever the logger."""
        config = self.config_init[self.subcommand]
        callbacks = config["trainer"]["callbacks"] or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        callbacks = [*(config["denoising"] or ()), *callbacks]  # some of the trainer's look at the method's decisions
        logger = with_run_folder(config["trainer"]["logger"])
        return super().instantiate_trainer(callbacks=callbacks, logger=logger, **kwargs)

    def before_fit(self) -> None:
        """Choose the folder of the checkpoints and what decides which of them is best."""
        last = Path(self._checkpoint or "")
        resumed = last.is_file() and self._is_run_of(last.parent.parent / "config.yaml")
        self._of_another_run, self._began = last.is_file() and not resumed, time.time()
        for checkpoint in self.trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath is None and self.trainer.log_dir:
                folder = last.parent if resumed else Path(self.trainer.log_dir, "checkpoints")
                # Lightning knows the folder of a resumed run by its absolute path.
                checkpoint.dirpath = str(folder.resolve())
        watch_what_there_is(self.trainer, self.model, self.datamodule)

    def _is_run_of(self, path: Path) -> bool:
        """Return whether the settings are those of a saved configuration; say so if they are not."""
        if not path.is_file():
            return False
        before, now = (
            settings(yaml.safe_load(text))
            for text in (path.read_text(encoding="utf-8"), self.parser.dump(self.config, skip_none=False))
        )
        different = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if different:
            rank_zero_warn(
                f"The settings are not those of {path}: {', '.join(different)} differ. This is a run of its own, which "
                f"starts from that checkpoint and writes to {self.trainer.log_dir}."
            )
        return not different

    def after_fit(self) -> None:
        """Print the test table of the best checkpoint."""
        if not len(self.datamodule.interactions.test):
            rank_zero_warn("The data has no test interactions, so that there is no test.")
            return
        # The trainer's checkpoint_callback is the first of all; one of trainer.callbacks would come before it.
        checkpoint = self.config_init[self.subcommand].checkpoint
        best = checkpoint.best_model_path
        if self._of_another_run:
            best = own_best(self.trainer, checkpoint, self._began, str(self._checkpoint))
        if not best:
            rank_zero_warn(
                "There is no best checkpoint, because training ended before a validation or none was to be saved: the "
                "model is tested as training has left it."
            )
        self.trainer.test(self.model, self.datamodule, best or None)


def with_run_folder(logger: Any) -> Any:
    """Make sure that a run has a folder of its own, which Lightning takes from the first logger.

    Args:
        logger: The trainer's logger or loggers. None and True are Lightning's own choice, which has such a folder.

    Returns:
        The loggers, first one that gives every run a folder: the ``CSVLogger`` of ``runs/`` if there is no other.
    """
    if logger is None or logger is True:
        return logger
    loggers = [] if logger is False else logger if isinstance(logger, list) else [logger]
    local = [each for each in loggers if isinstance(each, (CSVLogger, TensorBoardLogger))]
    return [*(local[:1] or [CSVLogger(**LOGGER["init_args"])]), *(each for each in loggers if each not in local[:1])]


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


def data_parser(prog: str, description: str, unused: Sequence[str]) -> LightningArgumentParser:
    """Return a parser for a command that looks at data without training, with ``--config``, a seed and ``--data``.

    Args:
        prog: The command.
        description: What it does.
        unused: Further arguments that the configuration of a fit may have, and that say nothing to this command.
    """
    parser = Parser(prog=prog, description=description)
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="a file, or a bundled one; also one of a fit")
    parser.add_argument("--seed_everything", type=int, default=0, help="the seed of the data and of the sample")
    parser.add_subclass_arguments(InteractionDataModule, "data", required=True)
    for name in (*CALLBACKS, "optimizer", "lr_scheduler", "ckpt_path", "weights_only", *unused):
        parser.add_argument(f"--{name}", type=Any, default=None, help=SUPPRESS)
    parser.link_arguments("seed_everything", "data.init_args.seed")
    return parser


def instantiated(parser: LightningArgumentParser, config: Namespace) -> Any:
    """Seed everything, and return the objects that a configuration describes.

    Args:
        parser: A parser of ``data_parser``.
        config: What it has read.
    """
    seed_everything(config.seed_everything, verbose=False)
    # jsonargparse calls it so from 4.49 on.
    return (getattr(parser, "instantiate", None) or parser.instantiate_classes)(config)


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
