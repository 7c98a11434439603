"""Reading one of RecBole's atomic files: a header of ``name:type``, then one row per line, tabs between the fields.

Only the columns that are asked for are decoded, block by block, so that a file never stands in memory as text. If
something is wrong, the file is read a second time, line by line, to find out where.
"""

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas  # noqa: F401 -- pyarrow imports it when it first converts to NumPy: 25 MB, better not while loading
import pyarrow as pa
import pyarrow.csv
from rich.progress import wrap_file

from llmhd_pl.datamodules.columns import Block, collect, cuts_in_numbers, exact, finite, most_rows, parsed
from llmhd_pl.datamodules.table import Table

_TYPES = ("token", "token_seq", "float", "float_seq")
_BLOCK = 1 << 19
"""The bytes that are decoded at once. No line can be longer."""
_SHOWN_FROM = 64 << 20
"""The bytes from which reading takes so long, about a second, that a bar is shown."""
_ID = pa.dictionary(pa.int32(), pa.string())


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
        self,
        user: str,
        item: str,
        rating: str | None,
        bounds: Sequence[float],
        time: str | None,
        cuts: Sequence[float | str] = (),
    ) -> tuple[Table, list[str], list[str]]:
        """Read interactions. Users and items are numbered in the order of their identifiers, sorted as text.

        Args:
            user: The column of the users.
            item: The column of the items.
            rating: The column of the ratings; None if they are not needed.
            bounds: The ratings that matter, increasing; see ``Table.grades``.
            time: The column of the times, whose order is kept exactly for numbers of up to 19 digits before the point
                and 18 after it; None if they are not needed.
            cuts: Times to compare those of the column with; see ``Table.cuts``.

        Returns:
            The interactions, in the order of the file, and the identifiers of the users and of the items.

        Raises:
            ValueError: If a row has the wrong number of fields, a value is not UTF-8, an identifier is empty or holds a
                NUL, a rating or a time is not a finite number, or a cut is no number. The message names the line.
        """
        decimals = cuts_in_numbers(cuts, str(self.path))
        types = dict.fromkeys((user, item), _ID) | {name: pa.string() for name in (rating, time) if name is not None}

        def blocks() -> Iterator[Block]:
            row = 0
            limit = " with at most 19 digits before and 18 after the point"
            for batch in self.batches(types):
                ratings = times = None
                if rating is not None:
                    ratings = parsed(finite, batch.column(rating), partial(self._no_number, rating, row, ""))
                if time is not None:
                    times = parsed(exact, batch.column(time), partial(self._no_number, time, row, limit))
                yield Block(batch.column(user), batch.column(item), ratings, times)
                row += len(batch)

        def wrong_identifier(what: str, row: int, wrong: str) -> ValueError:
            name = user if what == "user" else item
            return ValueError(f"{self.path}, line {self.line_of(row)}: {name} {wrong}. Remove the row.")

        return collect(blocks(), most_rows(self.path), bounds, lambda: decimals, wrong_identifier)

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

    def _no_number(self, name: str, row: int, limit: str, place: int, text: str) -> ValueError:
        """Return the error about a text in a block that begins at this row."""
        return ValueError(
            f"{self.path}, line {self.line_of(row + place)}: {name} is {text!r}, not a number{limit}. "
            "Correct it or remove the row."
        )
