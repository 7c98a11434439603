"""From a dump as its owner publishes it to a folder for Yelp, AmazonBooks or Steam: ``llmhd prepare yelp RAW OUT``.

RAW is the folder of the downloaded files, packed as they are; OUT is written. ``docs/data.md`` says where to get
each dump.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from llmhd_pl import terminal
from llmhd_pl.datamodules.arguments import check_finite, check_split, check_whole
from llmhd_pl.datamodules.prepare.reading import Faults, read_items, read_reviews
from llmhd_pl.datamodules.prepare.report import Report
from llmhd_pl.datamodules.prepare.selection import RATIOS, select
from llmhd_pl.datamodules.prepare.sources import Source, find
from llmhd_pl.datamodules.prepare.stream import Stream
from llmhd_pl.datamodules.prepare.writing import write
from llmhd_pl.files import PART, check_new_folder
from llmhd_pl.terminal import shown

__all__ = ["Report", "main", "prepare"]

Split = Literal["random", "temporal"]


def prepare(
    source: Source,
    raw: str,
    out: str,
    rating_threshold: float = 3.0,
    k_core: int = 10,
    users: int | None = None,
    split: Split = "random",
    seed: int = 0,
    broken_share: float = 0.01,
) -> Report:
    """Make a folder that the data modules read of a dump as its owner publishes it.

    The folder holds what ``RLMRecDataModule`` reads: ``trn_mat.pkl``, ``val_mat.pkl`` and ``tst_mat.pkl`` (3:1:1 of
    each user's interactions), ``low_mat.pkl`` with the ratings below the threshold of the same users and items,
    ``items.jsonl``, ``user_ids.jsonl`` and ``item_ids.jsonl``, and a ``README.md`` with settings and counts. It appears
    when all of it is written. A run that is killed starts anew; what it has left beside ``out`` is then removed.

    If a user reviews an item several times, the latest review counts, and of equally late ones the best. Steam has no
    ratings: every review says that somebody has played a game, so that each is an interaction, and there is no
    ``low_mat.pkl``.

    The dump is read as a stream, line by line, in as many processes as there are processors. Memory grows with the
    number of reviews (17 bytes each, and some 50 while they are sorted) and of different users and items (about 150
    bytes each), not with the size of the dump. Python literals are parsed and never evaluated.

    Args:
        source: Whose dump it is: "amazon" for any category of Amazon Reviews 2014, 2018 or 2023 ("amazon-books" is the
            same), "yelp" for the Yelp Open Dataset, "steam" for the reviews of Steam.
        raw: The folder that holds the files under the names that they are published by.
        out: The folder to write, new or empty.
        rating_threshold: The lowest rating of a positive.
        k_core: The smallest number of positives of a user and of an item; 0 keeps all.
        users: How many users to draw from those with enough positives. The k-core is taken again afterwards, so that a
            few less can be left. All by default.
        split: "random", or "temporal" to take each user's latest interactions as the test split and those before them
            as the validation split.
        seed: The seed of the sample of users and of the random split.
        broken_share: The largest share of the lines of a file that may be broken. They are left out, counted and shown.

    Returns:
        The counts.

    Raises:
        FileNotFoundError: If a file of the dump is missing; the message says which names were looked for.
        ValueError: If an argument is out of range, ``out`` is not empty, a file is cut off, damaged or no such dump,
            too many lines are broken, or no interaction is left.
        RuntimeError: If a process that parses lines has ended.
        OSError: If the folder cannot be written.
    """
    check_finite("rating_threshold", rating_threshold)
    check_whole("k_core", k_core, 0)
    if users is not None:
        check_whole("users", users, 1)
    check_split(split, RATIOS, Split)
    if not 0 <= broken_share < 1:
        raise ValueError(f"broken_share is {broken_share}; it must be a share, from 0 to less than 1.")
    folder = Path(out)
    reviews, items = find(source, Path(raw))
    check_new_folder(folder)
    _remove_leftovers(folder.resolve())
    faults = [Faults(part, broken_share) for part in (reviews, items)]
    with Stream(reviews) as stream:
        known, table, user_names, item_names = read_reviews(stream, source, rating_threshold, faults[0])
    selection = select(table, user_names, item_names, k_core, users, split == "temporal", seed)
    with Stream(items) as stream:
        texts = read_items(stream, known, selection.items, faults[1])
    settings = {"k_core": k_core, "users": users, "split": split, "seed": seed, "broken_share": broken_share}
    if selection.low is not None:
        settings = {"rating_threshold": rating_threshold, **settings}
    report = Report.of(source, settings, faults, selection, texts)
    write(folder, selection, texts, report.readme())
    return report


def _remove_leftovers(target: Path) -> None:
    """Remove what killed runs have left beside a folder that they were writing."""
    leftover = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}{re.escape(PART)}")
    if target.parent.is_dir():
        for path in target.parent.iterdir():
            if leftover.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def parser() -> ArgumentParser:
    """Return the parser: the arguments of ``prepare``."""
    found = ArgumentParser("llmhd prepare", description=__doc__)
    found.add_function_arguments(prepare, as_positional=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare a dump, and show the counts.

    Args:
        arguments: The arguments; None takes those of the process.

    Raises:
        SystemExit: If the arguments are wrong, or the dump cannot be prepared.
    """
    reading = parser()
    config = reading.parse_args(sys.argv[1:] if arguments is None else list(arguments))
    try:
        report = prepare(**config.as_dict())
    except (ValueError, OSError, RuntimeError) as error:
        reading.error(str(error))
    console = terminal.console()
    for sentence in report.sentences():
        console.print(shown(sentence))
    console.print(shown(f"Prepared: {config.out}"))
