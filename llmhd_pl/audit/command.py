"""The command ``llmhd audit``: arguments, tables, the page and the clean copy."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.cli import LightningArgumentParser
from rich.console import Console
from rich.table import Table

import llmhd_pl.audit
from llmhd_pl import terminal
from llmhd_pl.audit.clean_copy import check_folder, write_clean_copy
from llmhd_pl.audit.findings import UNRELIABLE, Audit, Share
from llmhd_pl.audit.measure import FEWEST_REFERENCES, audit, suspicious
from llmhd_pl.audit.page import write_page
from llmhd_pl.cli import data_parser, instantiated, with_bundled_configs
from llmhd_pl.llm.scorer import Scorer
from llmhd_pl.terminal import shown


def parser() -> LightningArgumentParser:
    """Return the parser: the data and the judge of ``llmhd fit``, and what to write."""
    found = data_parser("llmhd audit", llmhd_pl.audit.__doc__ or "", unused=("model", "denoising", "trainer"))
    found.add_subclass_arguments(Scorer, "scorer", required=True, help="the judge")
    found.add_argument("--sample", type=int | None, default=None, help="ask about so many interactions only")
    found.add_argument("--references", type=int | None, default=None, help="the other users for each interaction")
    found.add_argument("--page", type=str | None, default="audit.html", help="write the page to this file")
    found.add_argument("--out", type=str | None, default=None, help="write a clean copy of the data to this new folder")
    found.add_argument(
        "--drop",
        type=float | None,
        default=None,
        help="in the copy, leave out the most suspicious interactions: as many as possible while at most this share of "
        "them is expected to fit its user; by default everything stays, with weights",
    )
    return found


def run(arguments: Sequence[str] | None = None) -> None:
    """Audit interactions, and show what was found.

    Args:
        arguments: The arguments; None takes those of the process.

    Raises:
        SystemExit: If the arguments are wrong, the data or the folder cannot serve, or a clean copy is wanted by a
            judge that cannot tell.
    """
    reading = parser()
    config = reading.parse_args(with_bundled_configs(sys.argv[1:] if arguments is None else arguments))
    for name, fewest in (("sample", 1), ("references", FEWEST_REFERENCES)):
        if config[name] is not None and config[name] < fewest:
            reading.error(f"--{name} is {config[name]}; it must be at least {fewest}.")
    if config.drop is not None and not 0 <= config.drop <= 1:
        reading.error(f"--drop is {config.drop}; it is a share, from 0 to 1.")
    if config.drop is not None and config.out is None:
        reading.error("--drop is about the clean copy: give --out too, the folder to write it to.")
    made = instantiated(reading, config)
    data, console = made.data, terminal.console()
    try:
        if config.out is not None:
            check_folder(Path(config.out), data, weights=config.drop is None)
        data.setup("fit")
        inter = data.interactions
        users, items = data.train_users.numpy(), data.train_items.numpy()
        seed = config.seed_everything
        found = audit(made.scorer, inter.items, users, items, inter.name, config.sample, config.references, seed)
    except (ValueError, OSError) as error:
        reading.error(str(error))
    show(console, found)
    if config.page is not None:
        write_page(Path(config.page), found, inter)
        console.print(shown(f"Page: {config.page}"))
    if config.out is not None:
        if not found.can_tell:
            reading.error(
                f"this judge cannot tell, so {config.out} was not written: its weights would take genuine interactions "
                "for chance. Give another --scorer, or the items more text. To have one all the same, call "
                "llmhd_pl.audit.clean_copy.write_clean_copy in Python."
            )
        try:
            written = write_clean_copy(
                Path(config.out), found, data, None if config.drop is None else suspicious(found, config.drop)
            )
        except (ValueError, OSError) as error:
            reading.error(str(error))
        console.print(shown(f"Clean copy: {', '.join(map(str, written))}"))


def show(console: Console, found: Audit) -> None:
    """Print what was found.

    Args:
        console: Where to print.
        found: The audit.
    """
    share = found.share
    console.print(
        shown(
            f"{found.data}: {share.size:,} of {len(found.users):,} interactions judged by {found.scorer}. By chance: "
            f"{_percent(share)}. It prefers their users to others {found.auc:.1%} of the time."
        )
    )
    for sentence in found.advice:
        console.print(shown(sentence))
    table = Table("group", "interactions", "by chance (95 % interval)", title="By popularity and activity")
    for group in found.groups:
        table.add_row(group.name, f"{group.size:,}", _percent(group))
    console.print(table)
    title = "What dropping would do" + ("" if found.can_tell else UNRELIABLE)
    table = Table("p-value above", "drops", "of which fit their user after all", title=title)
    for cut in found.cuts:
        table.add_row(f"{cut.above:.3f}", f"{cut.dropped:,}", f"{cut.right:.0%}")
    console.print(table)


def _percent(share: Share) -> str:
    return f"{share.share:.1%} ({share.low:.1%} to {share.high:.1%})"
