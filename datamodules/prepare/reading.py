"""The reviews and the items of a dump, read line by line. What is kept of a review takes 17 bytes."""

import multiprocessing
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from llmhd_pl.datamodules.prepare.sources import Format, Part, Source, is_literal, recognised
from llmhd_pl.datamodules.prepare.stream import Block, Stream
from llmhd_pl.datamodules.table import Table
from llmhd_pl.dump_lines import SHOWN, Fields, Reviews, end_with_parent, identifier, parse_line, parse_reviews

_MOST_PROCESSES = 16
"""With more of them, unpacking takes longer than parsing."""
_SMALL = 1 << 20
"""The bytes of a file that is parsed before a process has begun."""
_MANY = 1000
"""The broken lines from which a file that is mostly broken is refused before its end."""


@dataclass
class Faults:
    """The broken lines of a file, which may be few.

    Attributes:
        part: The file.
        most: The largest share of its lines that may be broken.
        lines: The lines so far that are not blank.
        broken: The broken ones among them.
        shown: The first broken ones, in words.
    """

    part: Part
    most: float
    lines: int = 0
    broken: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, number: int, reason: str) -> None:
        """Remember a broken line.

        Args:
            number: The number of the line, counted from 1.
            reason: What is wrong with it.
        """
        if len(self.shown) < SHOWN:
            self.shown.append(f"line {number}: {reason}")

    def check(self, at_the_end: bool) -> None:
        """Refuse a file with too many broken lines.

        Args:
            at_the_end: Whether all lines were read; before, only a file that is mostly broken is refused.

        Raises:
            ValueError: If there are too many.
        """
        hopeless = self.broken >= _MANY and self.broken > max(self.most, 0.5) * self.lines
        if hopeless or (at_the_end and self.broken > self.most * self.lines):
            so_far = "" if at_the_end else "the first "
            raise ValueError(
                f"{self.part}: {self.broken:,} of {so_far}{self.lines:,} lines are broken, more than the share of "
                f"{self.most:g} that may be left out. {'; '.join(self.shown)}. Download the file again, or raise "
                "broken_share."
            )

    def __str__(self) -> str:
        first = "; ".join(self.shown)
        return f"{self.part.name}: {self.broken:,} of {self.lines:,} lines were broken and left out: {first}."


class _Numbers:
    """Numbers identifiers in the order of their appearance."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, names: list[str]) -> np.ndarray:
        """Return the number of each name, int32 [n]."""
        numbers = self._numbers
        return np.fromiter((numbers.setdefault(name, len(numbers)) for name in names), np.int32, len(names))

    def names(self) -> list[str]:
        """Return all names in the order of their numbers, and forget the numbers."""
        names = list(self._numbers)
        self._numbers = {}
        return names


def read_reviews(
    stream: Stream, source: Source, threshold: float, faults: Faults
) -> tuple[Format, Table, list[str], list[str]]:
    """Read the reviews of a dump.

    Args:
        stream: The file.
        source: Whose dump it is.
        threshold: The lowest rating of a positive.
        faults: Takes the broken lines.

    Returns:
        The format of the dump, the interactions with their times, in the order of the file, and the identifiers of the
        users and of the items by their numbers. The grade of an interaction is 1 if its rating reaches the threshold,
        else 0; there are no grades if the dump has no ratings.

    Raises:
        ValueError: If the lines are no reviews of this source, the file is cut off or damaged, or too many of its
            lines are broken.
    """
    blocks = stream.blocks()
    first = next(blocks, Block(1, b""))
    known, literal = recognised(source, stream.part, first.lines)
    users, items = _Numbers(), _Numbers()
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for number, reviews in _parsed(chain([first], blocks), stream.part, literal, known.reviews):
        faults.lines += reviews.lines
        faults.broken += reviews.broken
        for place, reason in reviews.faults:
            faults.add(number + place, reason)
        faults.check(at_the_end=False)
        grades = (np.array(reviews.ratings) >= threshold).astype(np.uint8)
        found = (users.of(reviews.users), items.of(reviews.items), grades, np.array(reviews.times))
        for column, values in zip(columns, found, strict=True):
            column.append(values)
        stream.count(faults.lines, "reviews")
    faults.check(at_the_end=True)
    # One column after the other, so that no second copy of all is needed.
    user, item, grade, time = (np.concatenate(columns.pop(0)) for _ in range(4))
    table = Table(user, item, None if known.reviews.rating is None else grade, time)
    return known, table, users.names(), items.names()


def _parsed(blocks: Iterable[Block], part: Part, literal: bool, fields: Fields) -> Iterator[tuple[int, Reviews]]:
    """Parse the reviews of a file block by block: in processes of their own, unless the file is small.

    pyarrow's reader of JSON lines is two to three times as fast as Python's, but a line that is only ``null`` ends the
    process with a segmentation fault (pyarrow 26), and a single broken line spoils its block.

    Yields:
        The number of the first line of each block, and its reviews.
    """
    if part.path.stat().st_size < _SMALL:
        for block in blocks:
            yield block.number, parse_reviews(block.lines, literal, fields)
        return
    processes = min(_processors(), _MOST_PROCESSES)
    # Processes that begin anew: a copy of this one would carry the locks of its threads.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), end_with_parent)
    waiting: deque[tuple[int, Future[Reviews]]] = deque()
    try:
        for block in blocks:
            waiting.append((block.number, pool.submit(parse_reviews, block.lines, literal, fields)))
            if len(waiting) > 2 * processes:
                number, future = waiting.popleft()
                yield number, future.result()
        while waiting:
            number, future = waiting.popleft()
            yield number, future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"{part}: a process that parsed its lines has ended. In a script, call prepare under "
            "`if __name__ == '__main__':`; otherwise, the memory may have run out."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_items(stream: Stream, known: Format, names: list[str], faults: Faults) -> list[dict[str, str]]:
    """Read the text of the items that are kept.

    Lines about other items are passed over without being parsed. If an item has several lines, the first counts.

    Args:
        stream: The file.
        known: Its format.
        names: The identifiers of the items that are kept.
        faults: Takes the broken lines.

    Returns:
        The text fields of each item; an empty dict for an item without text.

    Raises:
        ValueError: If the file is cut off or damaged, too many of its lines are broken, or none is about an item that
            is kept.
    """
    places = {name: place for place, name in enumerate(names)}
    wanted = {name.encode() for name in names}
    texts: list[dict[str, str] | None] = [None] * len(names)
    # An identifier that is written with a backslash is not found here, and its line is parsed.
    mention = re.compile(rb"""["']%s["']\s*:\s*(?:u?"([^"\\]*)"|u?'([^'\\]*)'|(\d+))""" % known.item.encode())
    literal: bool | None = None
    found = 0
    for block in stream.blocks():
        if literal is None:
            literal = is_literal(stream.part, block.lines)
        for place, line in enumerate(block.lines.split(b"\n")):
            if not line or line.isspace():
                continue
            faults.lines += 1
            mentioned = [b"".join(ways) for ways in mention.findall(line)]
            if mentioned and wanted.isdisjoint(mentioned):
                continue  # about another item
            try:
                item = parse_line(line, literal)
                number = places.get(identifier(item, known.item))
            except ValueError as error:
                faults.broken += 1
                faults.add(block.number + place, str(error))
                continue
            if number is not None and texts[number] is None:
                texts[number] = known.texts(item)
                found += 1
        faults.check(at_the_end=False)
        stream.count(found, f"of {len(names):,} items")
    faults.check(at_the_end=True)
    if found == 0:
        raise ValueError(
            f"{stream.part}: none of its {faults.lines:,} lines is about an item of the reviews, which name items such "
            f"as {names[0]!r}. Take the file of the items that belongs to the reviews."
        )
    return [text or {} for text in texts]
