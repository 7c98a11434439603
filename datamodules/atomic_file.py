"""Reading one of RecBole's atomic files: a header of ``name:type``, then one row per line, tabs between the fields.

Only the columns that are asked for are decoded, block by block, so that a file never stands in memory as text. If
something is wrong, the file is read a second time, line by line, to find out where.
"""

import codecs
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas  # noqa: F401 -- pyarrow imports it when it first converts to NumPy: 25 MB, better not while loading
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from rich.progress import wrap_file

from llmhd_pl.datamodules.table import Table, replace
from llmhd_pl.memory import return_freed_memory

_TYPES = ("token", "token_seq", "float", "float_seq")
_BLOCK = 1 << 19
"""The bytes that are decoded at once. No line can be longer."""
_SHOWN_FROM = 64 << 20
"""The bytes from which reading takes so long, about a second, that a bar is shown."""
_ID = pa.dictionary(pa.int32(), pa.string())
_EXACT = pa.decimal128(38, 18)


class AtomicFile:
    """An atomic file whose header has been read.

    Args:
        path: The file: UTF-8, with or without a byte-order mark. Blank lines count for nothing.

    Attributes:
        path: The file.
        types: The type of each column, by name, in the order of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the header is malformed, not UTF-8 or names a column twice.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing.")
        self.path = path
        self.types: dict[str, str] = {}
        with path.open("rb") as file:
            block = file.read(_BLOCK)
        marked = block.removeprefix(codecs.BOM_UTF8)
        line, *_ = re.split(rb"\r\n|\n|\r", marked, maxsplit=1)
        ending = re.match(rb"\r\n|\n|\r|", marked[len(line) :])
        assert ending is not None
        self._start = len(block) - len(marked) + len(line) + len(ending[0])
        try:
            header = line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line 1 is not UTF-8 text ({error.reason} at byte {error.start}). Convert the file to UTF-8, "
                "and unpack it if it is compressed."
            ) from error
        for column in header.split("\t"):
            name, _, kind = column.partition(":")
            if not name or kind not in _TYPES:
                raise ValueError(
                    f"{path}, line 1: column {column[:80]!r} is not 'name:type' with a type of {', '.join(_TYPES)}. "
                    "Put a header on top whose columns are separated by tabs."
                )
            if name in self.types:
                raise ValueError(f"{path}, line 1: column {name!r} is named twice. Rename one of the two.")
            self.types[name] = kind

    def interactions(
        self, user: str, item: str, rating: str | None, bounds: Sequence[float], time: str | None
    ) -> tuple[Table, list[str], list[str]]:
        """Read interactions. Users and items are numbered in the order of their identifiers, sorted as text.

        Args:
            user: The column of the users.
            item: The column of the items.
            rating: The column of the ratings; None if they are not needed.
            bounds: The ratings that matter, increasing; see ``Table.grades``.
            time: The column of the times, whose order is kept exactly for numbers of up to 19 digits before the point
                and 18 after it; None if they are not needed.

        Returns:
            The interactions, in the order of the file, and the identifiers of the users and of the items.

        Raises:
            ValueError: If a row has the wrong number of fields, a value is not UTF-8, an identifier is empty or holds a
                NUL, or a rating or a time is not a finite number. The message names the line.
        """
        rows = self._most_rows()
        ids = {name: _Numbering(rows) for name in (user, item)}
        grades = np.empty(rows if rating is not None else 0, dtype=np.uint8)
        times = np.empty(rows if time is not None else 0, dtype=np.int64)
        fractions: list[pa.Array] = []  # all times, once one of them is not whole
        row = 0
        types = dict.fromkeys(ids, _ID) | {name: pa.string() for name in (rating, time) if name is not None}
        for batch in self.batches(types):
            block = slice(row, row + len(batch))
            for name, numbering in ids.items():
                numbering.add(batch.column(name))
            if rating is not None:
                values = self._parse(_finite, batch.column(rating), rating, row)
                grades[block] = np.searchsorted(bounds, values.to_numpy(), side="right")
            if time is not None:
                instants = self._parse(_exact, batch.column(time), time, row)
                if instants.type == _EXACT and not fractions:
                    fractions.append(pa.array(times[:row]).cast(_EXACT))
                if fractions:
                    fractions.append(instants.cast(_EXACT))
                else:
                    times[block] = instants.to_numpy()
            row = block.stop
        if fractions:
            times = pc.rank(pa.chunked_array(fractions), tiebreaker="dense").to_numpy().astype(np.int64)
        users, user_names = self._sorted(user, ids.pop(user))
        items, item_names = self._sorted(item, ids.pop(item))
        table = Table(
            users,
            items,
            None if rating is None else grades[:row],
            None if time is None else _narrow(times[:row]),
        )
        return table, user_names, item_names

    def batches(self, columns: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Decode some columns, a block of rows at a time, with a bar if the file is large.

        Args:
            columns: The Arrow type of each column that is wanted: a string or a dictionary of strings.

        Yields:
            The columns, by name, of the next rows.

        Raises:
            ValueError: If a row has the wrong number of fields or a value is not UTF-8. The message names the line.
        """
        size = self.path.stat().st_size - self._start
        if size == 0:
            return
        with (
            self.path.open("rb") as file,
            wrap_file(
                file, size, description=f"reading {self.path.name}", transient=True, disable=size < _SHOWN_FROM
            ) as shown,
        ):
            file.seek(self._start)
            try:
                yield from pa.csv.open_csv(
                    shown,
                    pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=list(self.types)),
                    pa.csv.ParseOptions(delimiter="\t", quote_char=False, double_quote=False, escape_char=False),
                    pa.csv.ConvertOptions(column_types=columns, include_columns=list(columns)),
                    pa.system_memory_pool(),  # Arrow's own keeps some 20 MB of the blocks
                )
            except pa.ArrowInvalid as error:
                self._find_fault(list(columns))
                raise ValueError(f"{self.path} cannot be read ({error}). Repair that row.") from error

    def line_of(self, row: int) -> int:
        """Return the number of the line, counted from 1, on which a row stands. It reads the file up to there."""
        for index, (number, _) in enumerate(self._lines()):
            if index == row:
                return number
        raise IndexError(f"{self.path} has no row {row}.")

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Walk through the lines below the header that are not blank; bytes that are not UTF-8 are surrogates."""
        with self.path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if number > 1 and line != "\n":
                    yield number, line.removesuffix("\n")

    def _find_fault(self, columns: list[str]) -> None:
        """Raise the error of the first line that Arrow cannot read."""
        names = list(self.types)
        for number, line in self._lines():
            where = f"{self.path}, line {number}"
            fields = line.split("\t")
            if len(fields) != len(names):
                raise ValueError(
                    f"{where}: {len(fields)} fields, but the header names {len(names)}. Separate the fields by single "
                    "tabs, and leave those without a value empty."
                )
            for name in columns:
                try:
                    fields[names.index(name)].encode()
                except UnicodeEncodeError as error:
                    raise ValueError(f"{where}: {name} is not UTF-8 text. Convert the file to UTF-8.") from error
            if len(line.encode(errors="surrogateescape")) > _BLOCK:
                raise ValueError(f"{where} is longer than {_BLOCK} bytes. Shorten it.")

    def _parse(self, parse: Callable[[pa.Array], pa.Array], texts: pa.Array, name: str, row: int) -> pa.Array:
        """Turn a block of texts, which begins at this row, into numbers."""
        try:
            return parse(texts)
        except pa.ArrowInvalid:  # as Python reads numbers: spaces around them, and a plus sign
            texts = pc.replace_substring_regex(pc.utf8_trim_whitespace(texts), r"^\+([0-9.])", r"\1")
        for place in range(len(texts)):
            try:
                parse(texts[place : place + 1])
            except pa.ArrowInvalid as error:
                raise ValueError(
                    f"{self.path}, line {self.line_of(row + place)}: {name} is {texts[place].as_py()[:80]!r}, not a "
                    f"number{' with at most 19 digits before and 18 after the point' if parse is _exact else ''}. "
                    "Correct it or remove the row."
                ) from error
        return parse(texts)

    def _sorted(self, name: str, numbering: "_Numbering") -> tuple[np.ndarray, list[str]]:
        """Return the codes of a column in the order of its sorted identifiers, and these."""
        numbering.flush()
        codes, names = numbering.codes[: numbering.rows], numbering.names
        wrong = pc.or_(pc.equal(names, ""), pc.match_substring(names, "\0")).to_numpy(zero_copy_only=False)
        if wrong.any():
            row = int(np.isin(codes, np.flatnonzero(wrong)).argmax())
            what = "is empty" if names[int(codes[row])].as_py() == "" else "holds a NUL character"
            raise ValueError(f"{self.path}, line {self.line_of(row)}: {name} {what}. Remove the row.")
        order = pc.array_sort_indices(names)  # by bytes of UTF-8, which is the order of Python's strings
        ranks = np.empty(len(names), dtype=np.int32)
        ranks[order.to_numpy()] = np.arange(len(names), dtype=np.int32)
        replace(codes, ranks)
        return codes, names.take(order).to_numpy(zero_copy_only=False).tolist()

    def _most_rows(self) -> int:
        """Return a number of rows that the file does not exceed."""
        with self.path.open("rb") as file:
            return 1 + sum(block.count(b"\n") + block.count(b"\r") for block in iter(lambda: file.read(_BLOCK), b""))


class _Numbering:
    """Numbers the identifiers of a column in the order of their appearance, several blocks of the file at a time."""

    def __init__(self, most_rows: int) -> None:
        self.codes = np.empty(most_rows, dtype=np.int32)
        self.names = pa.nulls(0, pa.string())
        self.rows = 0
        self._blocks: list[pa.DictionaryArray] = []
        self._waiting = 0  # the rows in the blocks

    def add(self, block: pa.DictionaryArray) -> None:
        """Take the next block of the column."""
        self._blocks.append(block)
        self._waiting += len(block)
        if self._waiting > max(1 << 16, 2 * len(self.names)):  # each time, Arrow hashes all names that are known
            self.flush()

    def flush(self) -> None:
        """Number what was taken; the identifiers that are known keep their numbers."""
        known = pa.DictionaryArray.from_arrays(pa.nulls(0, pa.int32()), self.names)
        joined = pa.chunked_array([known, *self._blocks], _ID).unify_dictionaries(pa.system_memory_pool())
        self._blocks.clear()
        self._waiting = 0
        for chunk in joined.chunks:
            self.codes[self.rows : self.rows + len(chunk)] = chunk.indices.to_numpy()
            self.rows += len(chunk)
        self.names = joined.chunk(0).dictionary
        del joined
        return_freed_memory()


def _finite(texts: pa.Array) -> pa.Array:
    """Parse finite numbers as float64."""
    values = texts.cast(pa.float64())
    if not pc.all(pc.is_finite(values), min_count=0).as_py():
        raise pa.ArrowInvalid("not finite")
    return values


def _exact(texts: pa.Array) -> pa.Array:
    """Parse numbers exactly: as int64 if all are whole, else as decimals."""
    try:
        if pc.any(pc.match_substring(texts, "x", ignore_case=True), min_count=0).as_py():
            raise pa.ArrowInvalid("hexadecimal")
        return texts.cast(pa.int64())
    except pa.ArrowInvalid:
        decimals = texts.cast(_EXACT)
    try:
        return decimals.cast(pa.int64())
    except pa.ArrowInvalid:
        return decimals


def _narrow(times: np.ndarray) -> np.ndarray:
    """Count times from the first, in place, if they then fit into int32; only their order matters."""
    if len(times) == 0:
        return times
    first, last = int(times.min()), int(times.max())
    if last - first >= 2**31:
        return times
    times -= first
    return times.astype(np.int32)
