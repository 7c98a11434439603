"""Columns of a source of interactions, taken block by block: identifiers become numbers, and times keep their order."""

from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_CEILING, Decimal
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhd_pl.datamodules.table import Table, replace
from llmhd_pl.memory import return_freed_memory

DECIMAL = pa.decimal128(38, 18)
"""The type of numbers that are not whole and are compared exactly."""
_BLOCK = 1 << 20
"""The bytes of a file that are looked at at once."""


class Identifiers:
    """Numbers the identifiers of a column in the order of their appearance.

    Args:
        most_rows: A number of rows that the column does not exceed.
        kind: The type of the identifiers: strings or int64.
    """

    def __init__(self, most_rows: int, kind: pa.DataType | None = None) -> None:
        self._codes = np.empty(most_rows, dtype=np.int32)
        self._kind = kind or pa.string()
        self._names = pa.nulls(0, self._kind)
        self._rows = 0
        self._blocks: list[pa.DictionaryArray] = []
        self._waiting = 0  # the rows in the blocks

    def add(self, block: pa.DictionaryArray) -> None:
        """Take the next block of the column, a dictionary with int32 numbers."""
        self._blocks.append(block)
        self._waiting += len(block)
        if self._waiting > max(1 << 16, 2 * len(self._names)):  # each time, Arrow hashes all names that are known
            self._flush()

    def sorted(self, fault: Callable[[int, str], Exception]) -> tuple[np.ndarray, list[str]]:
        """Return the number of each row's identifier, in the order of the identifiers as sorted text, and these.

        Args:
            fault: Makes the error about a row, counted from 0, from what is wrong with its identifier.

        Returns:
            The numbers, int32 [n], and the identifiers as text.

        Raises:
            Exception: What ``fault`` has made, if an identifier is empty or holds a NUL.
        """
        self._flush()
        codes, names = self._codes[: self._rows], self._names.cast(pa.string())
        wrong = pc.or_(pc.equal(names, ""), pc.match_substring(names, "\0")).to_numpy(zero_copy_only=False)
        if wrong.any():
            row = int(np.isin(codes, np.flatnonzero(wrong)).argmax())
            raise fault(row, "is empty" if names[int(codes[row])].as_py() == "" else "holds a NUL character")
        order = pc.array_sort_indices(names)  # by bytes of UTF-8, which is the order of Python's strings
        ranks = np.empty(len(names), dtype=np.int32)
        ranks[order.to_numpy()] = np.arange(len(names), dtype=np.int32)
        replace(codes, ranks)
        return codes, names.take(order).to_numpy(zero_copy_only=False).tolist()

    def _flush(self) -> None:
        """Number what was taken; the identifiers that are known keep their numbers."""
        known = pa.DictionaryArray.from_arrays(pa.nulls(0, pa.int32()), self._names)
        kind = pa.dictionary(pa.int32(), self._kind)
        joined = pa.chunked_array([known, *self._blocks], kind).unify_dictionaries(pa.system_memory_pool())
        self._blocks.clear()
        self._waiting = 0
        for chunk in joined.chunks:
            self._codes[self._rows : self._rows + len(chunk)] = chunk.indices.to_numpy()
            self._rows += len(chunk)
        self._names = joined.chunk(0).dictionary
        del joined
        return_freed_memory()


class Times:
    """The times of a column, of which only the order matters, and that is kept exactly.

    Args:
        most_rows: A number of rows that the column does not exceed.
    """

    def __init__(self, most_rows: int) -> None:
        self._whole = np.empty(most_rows, dtype=np.int64)
        self._rows = 0
        self._parts: list[pa.Array] = []  # all times, once one of them is not whole

    def add(self, values: pa.Array) -> None:
        """Take the next block of the column: int64, ``DECIMAL`` or float64, without nulls and NaN."""
        if values.type != pa.int64() and not self._parts:
            self._parts.append(pa.array(self._whole[: self._rows]).cast(values.type))
        if self._parts:
            self._parts.append(values.cast(self._parts[0].type))
        else:
            self._whole[self._rows : self._rows + len(values)] = values.to_numpy()
        self._rows += len(values)

    def numbers(self, cuts: Sequence[Decimal] = ()) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return numbers in the order of the times, and what separates them in the same places as these times.

        Args:
            cuts: Further times.

        Returns:
            Integers [n], and one integer for each of ``cuts``: a time is at or after it if its number is.
        """
        if self._parts:
            more = pa.array(cuts, DECIMAL).cast(self._parts[0].type)
            ranks = pc.rank(pa.chunked_array([*self._parts, more]), tiebreaker="dense").to_numpy().astype(np.int64)
            times, first = _narrow(ranks[: self._rows])
            return times, tuple(int(rank) - first for rank in ranks[self._rows :])
        times, first = _narrow(self._whole[: self._rows])
        return times, tuple(int(cut.to_integral_value(ROUND_CEILING)) - first for cut in cuts)


class Block(NamedTuple):
    """Some consecutive rows of a source of interactions."""

    users: pa.DictionaryArray
    """The identifier of each row's user."""
    items: pa.DictionaryArray
    """The identifier of each row's item."""
    ratings: pa.Array | None
    """Finite float64; None if they are not needed."""
    times: pa.Array | None
    """What ``Times.add`` takes; None if they are not needed."""


def collect(
    blocks: Iterable[Block],
    most_rows: int,
    bounds: Sequence[float],
    cuts: Callable[[], list[Decimal]],
    fault: Callable[[str, int, str], Exception],
    kinds: tuple[pa.DataType, pa.DataType] = (pa.string(), pa.string()),
) -> tuple[Table, list[str], list[str]]:
    """Collect interactions. Users and items are numbered in the order of their identifiers, sorted as text.

    Args:
        blocks: The rows.
        most_rows: A number of rows that they do not exceed.
        bounds: The ratings that matter, increasing; see ``Table.grades``.
        cuts: Called when all rows have been read; returns the times for ``Table.cuts``.
        fault: Makes the error about an identifier, from "user" or "item", the row, counted from 0, and what is wrong.
        kinds: The types of the identifiers of users and of items.

    Returns:
        The interactions, in their order, and the identifiers of the users and of the items as text.

    Raises:
        Exception: What ``fault`` has made, if an identifier is empty or holds a NUL.
    """
    users, items = (Identifiers(most_rows, kind) for kind in kinds)
    grades: list[np.ndarray] = []
    times = Times(most_rows)
    timed = False
    for block in blocks:
        users.add(block.users)
        items.add(block.items)
        if block.ratings is not None:
            grades.append(np.searchsorted(bounds, block.ratings.to_numpy(), side="right").astype(np.uint8))
        if block.times is not None:
            timed = True
            times.add(block.times)
    user_codes, user_names = users.sorted(partial(fault, "user"))
    del users
    item_codes, item_names = items.sorted(partial(fault, "item"))
    del items
    table = Table(user_codes, item_codes, np.concatenate(grades) if grades else None)
    if timed:
        table.times, table.cuts = times.numbers(cuts())
    return table, user_names, item_names


def most_rows(path: Path) -> int:
    """Return a number of rows that a file of lines does not exceed: the ends of lines, whichever they are, and one.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        return 1 + sum(block.count(b"\n") + block.count(b"\r") for block in iter(lambda: file.read(_BLOCK), b""))


def _narrow(times: np.ndarray) -> tuple[np.ndarray, int]:
    """Count times from the first, in place, if they then fit into int32; return also from what they are counted."""
    if len(times) == 0:
        return times, 0
    first, last = int(times.min()), int(times.max())
    if last - first >= 2**31:
        return times, 0
    times -= first
    return times.astype(np.int32), first


def finite(values: pa.Array) -> pa.Array:
    """Return finite numbers as float64. A shorter float becomes the shortest decimal number that is stored like it.

    Args:
        values: Numbers, or texts of numbers.

    Raises:
        pa.ArrowInvalid: If one of them is no finite number.
    """
    if pa.types.is_float32(values.type) or pa.types.is_float16(values.type):
        # 4.2 as float32 is below 4.2, and would not reach a threshold of 4.2.
        once, place = np.unique(values.to_numpy(zero_copy_only=False), return_inverse=True)
        values = pa.array(once.astype(str).astype(np.float64)[place])
    numbers = values.cast(pa.float64())
    if not pc.all(pc.is_finite(numbers), skip_nulls=False, min_count=0).as_py():
        raise pa.ArrowInvalid("not finite")
    return numbers


def exact(texts: pa.Array) -> pa.Array:
    """Return what numbers say exactly: int64 if all of them are whole, else ``DECIMAL``.

    Args:
        texts: Texts of numbers.

    Raises:
        pa.ArrowInvalid: If one of them is no number, or one with more digits than ``DECIMAL`` holds.
    """
    try:
        if pc.any(pc.match_substring(texts, "x", ignore_case=True), min_count=0).as_py():
            raise pa.ArrowInvalid("hexadecimal")
        return texts.cast(pa.int64())
    except pa.ArrowInvalid:
        decimals = texts.cast(DECIMAL)
    try:
        return decimals.cast(pa.int64())
    except pa.ArrowInvalid:
        return decimals


def parsed(parse: Callable[[pa.Array], pa.Array], texts: pa.Array, fault: Callable[[int, str], Exception]) -> pa.Array:
    """Turn texts into numbers as Python reads them: with spaces around them, or a plus sign.

    Args:
        parse: ``finite``, ``exact`` or another that raises ``pa.ArrowInvalid``.
        texts: The texts.
        fault: Makes the error about a place in ``texts``, from the place and its text.

    Returns:
        What ``parse`` returns.

    Raises:
        Exception: What ``fault`` has made for the first text that is no number.
    """
    try:
        return parse(texts)
    except pa.ArrowInvalid:
        texts = pc.replace_substring_regex(pc.utf8_trim_whitespace(texts), r"^\+([0-9.])", r"\1")
    for place in range(len(texts)):
        try:
            parse(texts[place : place + 1])
        except pa.ArrowInvalid as error:
            raise fault(place, texts[place].as_py()[:80]) from error
    return parse(texts)


def cuts_in_numbers(times: Sequence[float | str], name: str) -> list[Decimal]:
    """Return cut-off times for a column of numbers.

    Args:
        times: The times, numbers or texts of numbers.
        name: The source, for the message.

    Raises:
        ValueError: If one of them is no number that can be compared exactly.
    """
    found = []
    for time in times:
        try:
            found.append(exact(pa.array([str(time)])).cast(DECIMAL)[0].as_py())
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"split_times names {time!r}, but the times of {name} are numbers. Give numbers of their unit."
            ) from error
    return found
