"""Reading interactions and items from Parquet, CSV or a data frame, a block of rows at a time."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich.progress import track

from llmhd_pl.datamodules.columns import Block, collect, most_rows
from llmhd_pl.datamodules.item_rows import matched_texts
from llmhd_pl.datamodules.table import Table
from llmhd_pl.datamodules.typed_columns import Clock, as_text, identifiers, is_readable, is_text, ratings_of

_ROWS = 1 << 16
"""The rows of Parquet and data frames that are taken at once."""
_BLOCK = 1 << 22
"""The bytes of CSV that are taken at once; no row can be longer."""
_SHOWN_FROM = 2_000_000
"""The rows from which reading takes so long, about a second, that a bar is shown."""


class Tabular:
    """A Parquet file, a CSV file or a data frame, with the names and types of its columns.

    Args:
        given: The path of a file that ends in ``.parquet`` or ``.csv``; or a data frame of pandas, polars, Arrow or
            another library whose frames have ``to_arrow`` or ``to_pandas``. CSV is UTF-8 with a header and commas;
            quotes are as in RFC 4180. All its values are text.
        what: What the rows are, "interactions" or "items", for messages.

    Attributes:
        name: The path, or what kind of frame it is.
        path: The file; None for a data frame.
        schema: The names and types of the columns.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind or broken, a column is named twice, or a column of a data frame has
            values of several types.
        TypeError: If it is neither a path nor a data frame.
    """

    def __init__(self, given: Any, what: str) -> None:
        self.path: Path | None = None
        self._frame: pa.Table | None = None
        if not isinstance(given, (str, Path)):
            self.name = f"The {type(given).__name__} of {what}"
            self._frame = _arrow(given, self.name, what)
            self.schema = self._frame.schema
        else:
            self.path, self.name = Path(given), str(given)
            if not self.path.is_file():
                wrong = "is no file" if self.path.exists() else "does not exist"
                raise FileNotFoundError(f"{self.path.absolute()} {wrong}. Set {what} to a .parquet or .csv file.")
            self.schema = self._header(what)
        for name in self.schema.names:
            if self.schema.names.count(name) > 1:
                raise ValueError(f"{self.name}: column {name!r} is there twice. Rename one of the two.")

    @property
    def is_csv(self) -> bool:
        """Whether it is a CSV file."""
        return self.path is not None and self.path.suffix.lower() == ".csv"

    def _header(self, what: str) -> pa.Schema:
        assert self.path is not None
        if self.is_csv:
            with self._readable():
                names = _open_csv(self.path).schema.names
            return pa.schema([(name, pa.string()) for name in names])
        if self.path.suffix.lower() not in (".parquet", ".pq"):
            raise ValueError(f"{self.path} ends neither in .parquet nor in .csv. Set {what} to such a file.")
        with self._readable():
            return pq.read_schema(self.path)

    def need(self, column: str, what: str) -> None:
        """Check that there is a column.

        Args:
            column: The name of the column.
            what: What it holds, which is also the argument that names it: "user".

        Raises:
            ValueError: If there is no such column.
        """
        if column not in self.schema.names:
            raise ValueError(
                f"{self.name} has no column {column!r} for the {what}; it has {', '.join(self.schema.names)}. "
                f"Set {what} to the name of the column."
            )

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read some columns, a block of rows at a time, with a bar if there are many rows.

        Args:
            columns: Their names.

        Yields:
            The columns of the next rows.

        Raises:
            ValueError: If the file is broken.
        """
        most = self.most_rows()
        blocks = track(
            self._blocks(list(columns)),
            f"reading {self.path.name if self.path else 'the data frame'}",
            total=None if self.is_csv else -(-most // _ROWS),
            transient=True,
            disable=most < _SHOWN_FROM,
        )
        with self._readable():
            yield from blocks

    def _blocks(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        if self._frame is not None:
            yield from self._frame.select(columns).to_batches(_ROWS)
        elif self.is_csv:
            assert self.path is not None
            texts = pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), include_columns=columns)
            yield from _open_csv(self.path, texts)
        else:
            with pq.ParquetFile(self.path) as file:
                yield from file.iter_batches(_ROWS, columns=columns)

    def most_rows(self) -> int:
        """Return the number of rows; for CSV, a number that they do not exceed."""
        if self._frame is not None:
            return len(self._frame)
        assert self.path is not None
        return most_rows(self.path) if self.is_csv else int(pq.read_metadata(self.path).num_rows)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Let the errors of Arrow name the file, and the row as other errors here count it."""
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            said = re.sub(r"Row #(\d+)", lambda found: f"row {int(found[1]) - 1}", str(error)).strip()
            raise ValueError(f"{self.name} cannot be read ({said}). Repair it, or write it anew.") from error

    # Interactions

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
            user: The column of the users: text or whole numbers.
            item: The column of the items, likewise.
            rating: The column of the ratings; None if they are not needed.
            bounds: The ratings that matter, increasing; see ``Table.grades``.
            time: The column of the times: numbers, dates or timestamps; None if they are not needed.
            cuts: Times to compare those of the column with; see ``Table.cuts``.

        Returns:
            The interactions, in the order of the rows, and the identifiers of the users and of the items.

        Raises:
            ValueError: If a column has a type that its values cannot have, a value is missing, an identifier is empty
                or holds a NUL, a rating or a time is not finite, or a cut cannot be compared with the times. The
                message names the row, counted from 1 below the header.
        """
        kinds = (self._kind_of_ids(user), self._kind_of_ids(item))
        columns = list(dict.fromkeys(name for name in (user, item, rating, time) if name is not None))
        clock = None if time is None else Clock(self.schema.field(time), self.name)

        def blocks() -> Iterator[Block]:
            row = 0
            for batch in self.batches(columns):
                at = partial(self._fault, first=row)
                users, items = (
                    identifiers(batch.column(name), kind, partial(at, name))
                    for name, kind in zip((user, item), kinds, strict=True)
                )
                ratings = None if rating is None else ratings_of(batch.column(rating), partial(at, rating))
                times = None
                if clock is not None and time is not None:
                    times = clock.read(batch.column(time), partial(at, time))
                yield Block(users, items, ratings, times)
                row += len(batch)

        def wrong_identifier(what: str, row: int, wrong: str) -> ValueError:
            return self._fault(user if what == "user" else item, row, wrong)

        return collect(
            blocks(), self.most_rows(), bounds, lambda: clock.cuts(cuts) if clock else [], wrong_identifier, kinds
        )

    def _fault(self, column: str, place: int, wrong: str, first: int = 0) -> ValueError:
        """Return the error about a row of a block that begins with the row ``first``."""
        return ValueError(f"{self.name}, row {first + place + 1}: {column} {wrong}. Correct it or remove the row.")

    def _kind_of_ids(self, column: str) -> pa.DataType:
        """Return the type in which the identifiers of a column are numbered."""
        kind = self.schema.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if pa.types.is_integer(kind):
            return pa.int64()
        if is_text(kind) or pa.types.is_null(kind):  # null is the type of no values, or of missing ones alone
            return pa.string()
        raise ValueError(
            f"{self.name}: column {column!r} holds identifiers, but its type is {kind}"
            f"{', in which long identifiers become equal' if pa.types.is_floating(kind) else ''}. Make it whole "
            "numbers or text; a column of pandas with missing values becomes float, so remove those rows first."
        )

    # Items

    def texts(self, item: str, names: list[str]) -> list[dict[str, str]]:
        """Return the fields of each item that are not empty. Columns that hold no text are left out with a warning.

        Args:
            item: The column of the items.
            names: The identifiers of the items of the interactions.

        Raises:
            ValueError: If the identifiers are neither text nor whole numbers, or the rows name none of the items.
        """
        self._kind_of_ids(item)
        readable = [field.name for field in self.schema if is_readable(field.type)]
        left_out = [name for name in self.schema.names if name not in readable and name != item]
        if left_out:
            warnings.warn(
                f"{self.name}: {', '.join(left_out)} hold neither text, nor numbers, nor lists of text, and are not "
                "shown to a judge.",
                stacklevel=2,
            )
        batches = (
            pa.RecordBatch.from_arrays([as_text(column) for column in batch.columns], batch.schema.names)
            for batch in self.batches([item, *(name for name in readable if name != item)])
        )
        return matched_texts(batches, self.name, item, names)


def _open_csv(path: Path, convert: pa.csv.ConvertOptions | None = None) -> pa.csv.CSVStreamingReader:
    # Without newlines_in_values, a block may end at a line break within quotes, and the rest of the text is read as
    # rows that nobody wrote.
    return pa.csv.open_csv(
        path,
        pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK),
        pa.csv.ParseOptions(newlines_in_values=True),
        convert,
    )


def _arrow(frame: Any, name: str, what: str) -> pa.Table:
    """Return a data frame as an Arrow table."""
    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, pd.DataFrame):
        try:
            return pa.Table.from_pandas(frame, preserve_index=False)
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(
                f"{name} cannot be read ({'; '.join(map(str, error.args))}). Give each column values of one type, such "
                "as frame['user_id'].astype(str), and remove columns that are not needed."
            ) from error
    for convert in ("to_arrow", "to_pandas"):
        if hasattr(frame, convert):
            return _arrow(getattr(frame, convert)(), name, what)
    raise TypeError(f"{what} is a {type(frame).__name__}. Give the path of a .parquet or .csv file, or a data frame.")
