"""Is this judge worth it? ``llmhd judge --data Yelp --data.data_dir data/yelp --scorer EncoderScorer``.

Asks a judge about a few hundred pairs of your data, and prints how well it tells noise from interactions, beside what
the popularity of the items tells, what it wrote, how fast it is, and what a whole run would ask. It trains no
recommender. A configuration of ``llmhd fit`` can be given as it is: the judge is then that of its method, and the cost
that of its run. ``docs/judge.md`` says how to read each line.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser

from llmhd_pl import terminal
from llmhd_pl.backbones import Backbone
from llmhd_pl.cli import data_parser, instantiated, with_bundled_configs
from llmhd_pl.judge.measure import measure
from llmhd_pl.judge.tables import show, write
from llmhd_pl.llm.scorer import Scorer
from llmhd_pl.methods import Denoising

__all__ = ["main", "measure"]

EPOCHS = 200
"""The epochs of the run whose cost is estimated, if no configuration says; those of the bundled ``lightgcn``."""


def parser() -> LightningArgumentParser:
    """Return the parser: the arguments of ``llmhd fit`` that concern data and judge, and the size of the sample."""
    found = data_parser("llmhd judge", __doc__ or "", unused=())
    found.add_subclass_arguments(Scorer, "scorer", required=False, help="the judge; by default that of --denoising")
    found.add_argument("--pairs", type=int, default=200, help="how many planted pairs to judge, and as many of others")
    found.add_argument("--out", type=str | None, default=None, help="also write everything to this file, as JSON")
    found.add_subclass_arguments(Denoising, "denoising", required=False, help="LLMHD, for the cost of its run")
    found.add_subclass_arguments(Backbone, "model", required=False, instantiate=False)
    found.add_argument("--trainer", type=dict[str, Any], default={}, help="max_epochs counts, for the cost")
    for size in ("num_users", "num_items"):
        found.link_arguments(f"data.{size}", f"model.init_args.{size}", apply_on="instantiate")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a judge, and print what was found.

    Args:
        arguments: The arguments; None takes those of the process.

    Raises:
        SystemExit: If the arguments name no judge, or are wrong.
    """
    reading = parser()
    config = reading.parse_args(with_bundled_configs(sys.argv[1:] if arguments is None else arguments))
    if config.pairs < 1:
        reading.error(f"--pairs is {config.pairs}; it must be at least 1.")
    if config.get("denoising.init_args.scorer") is None:
        if config.scorer is None:
            reading.error(
                "there is no judge: give --scorer EncoderScorer or another one, or --denoising LLMHD with it."
            )
        method = {"class_path": "llmhd_pl.methods.LLMHD", "init_args": Namespace(scorer=config.scorer)}  # type: ignore[no-untyped-call]
        config.denoising = Namespace(**method)  # type: ignore[no-untyped-call]
    elif config.scorer is not None:
        config["denoising.init_args.scorer"] = config.scorer  # the other settings of the method stay, for the cost
    config.scorer = None
    made = instantiated(reading, config)
    epochs = made.trainer.get("max_epochs") or EPOCHS
    pointwise = made.model is not None and made.model.init_args.objective == "bce"
    found = measure(made.data, made.denoising, config.pairs, config.seed_everything, epochs, pointwise)
    show(terminal.console(), found)
    if config.out is not None:
        write(Path(config.out), found)
