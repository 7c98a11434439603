"""Columns of Arrow tables, whose types are the owner's choice, as identifiers, ratings, times and text."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhd_pl.datamodules.columns import DECIMAL, cuts_in_numbers, exact, finite, parsed

Fault = Callable[[int, str], ValueError]
"""Makes the error about a place in a column, from the place and what is wrong there."""
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
"""The decimal digits of a second that a unit of Arrow's timestamps holds."""


def is_text(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is one of text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_readable(kind: pa.DataType) -> bool:
    """Return whether ``as_text`` can show values of an Arrow type."""
    if pa.types.is_dictionary(kind):
        return is_readable(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return is_text(kind.value_type)
    return is_text(kind) or bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind))


def as_text(column: pa.Array) -> pa.Array:
    """Return the values of a column as strings: "" where there is none, and of a list its texts with commas.

    Args:
        column: A column of a type for which ``is_readable`` is true.
    """
    column = _plain(column)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return pa.array([", ".join(part for part in row or [] if part) for row in column.to_pylist()], pa.string())
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return pc.fill_null(column.cast(pa.string()), "")


def identifiers(column: pa.Array, kind: pa.DataType, fault: Fault) -> pa.DictionaryArray:
    """Return identifiers as a dictionary.

    Args:
        column: Text or whole numbers.
        kind: The type of the dictionary's values: strings or int64.
        fault: Makes the error about a value.

    Raises:
        ValueError: If one is missing, or is more than int64 holds.
    """
    column = _plain(column)
    if column.null_count:
        raise fault(_first(column.is_null()), "is missing")
    try:
        return column.cast(kind).dictionary_encode()
    except pa.ArrowInvalid as error:  # uint64
        place = int((column.to_numpy() >= np.uint64(2**63)).argmax())
        raise fault(
            place, f"is {column[place].as_py()}, which is more than 2**63 - 1; make all of them text"
        ) from error


def ratings_of(column: pa.Array, fault: Fault) -> pa.Array:
    """Return ratings as finite float64.

    Args:
        column: Numbers, or texts of numbers.
        fault: Makes the error about a value.

    Raises:
        ValueError: If one is missing or not finite, or the column holds something else.
    """
    return _numbers(column, finite, fault)


class Clock:
    """Reads a column of times: numbers, dates, timestamps, or texts of numbers or of dates in the form of ISO 8601.

    Args:
        field: The name and the type of the column.
        source: Where it is, for messages.

    Raises:
        ValueError: If the type is none of these.
    """

    def __init__(self, field: pa.Field, source: str) -> None:
        kind = field.type
        self._source = source
        self._dates: pa.TimestampType | None = None  # the type of times that are dates
        self._texts_known = not is_text(kind)  # whether the texts are numbers or dates
        if pa.types.is_timestamp(kind):
            self._dates = kind
        elif pa.types.is_date(kind):
            self._dates = pa.timestamp("s" if kind == pa.date32() else "ms")
        elif not (
            is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        ):
            raise ValueError(
                f"{source}: column {field.name!r} holds times, but its type is {kind}. Make it numbers, dates or "
                "timestamps."
            )

    def read(self, column: pa.Array, fault: Fault) -> pa.Array:
        """Return the next block of the column as ``Times`` takes it.

        Args:
            column: The block.
            fault: Makes the error about a value.

        Raises:
            ValueError: If a value is missing, not finite, or neither a number nor a date.
        """
        if is_text(column.type):
            if not self._texts_known and len(column):
                self._look_at(column[:1].cast(pa.string()), fault)
            if self._dates is not None:
                return _numbers(column, self._instants, fault, "a date in the form of the first row's")
            return _numbers(column, exact, fault, "a number with at most 19 digits before and 18 after the point")
        if column.null_count:
            raise fault(_first(column.is_null()), "is missing")
        if self._dates is not None:
            return column.cast(self._dates).cast(pa.int64())
        if pa.types.is_integer(column.type):
            return column.cast(pa.int64())
        return _numbers(column, finite if pa.types.is_floating(column.type) else _decimals, fault)

    def _look_at(self, first: pa.Array, fault: Fault) -> None:
        """See what the texts are by the first one."""
        self._texts_known = True
        for kind in (None, pa.timestamp("us"), pa.timestamp("us", "UTC")):
            try:
                exact(first) if kind is None else first.cast(kind)
                self._dates = kind
                return
            except pa.ArrowInvalid:
                continue
        raise fault(
            0, f"is {first[0].as_py()!r}, neither a number nor a date such as 2026-01-31 or 2026-01-31T12:00:00"
        )

    def _instants(self, texts: pa.Array) -> pa.Array:
        assert self._dates is not None
        return texts.cast(self._dates).cast(pa.int64())

    def cuts(self, times: Sequence[float | str]) -> list[Decimal]:
        """Return cut-off times in the unit of the column. Of dates without a zone, UTC is taken if the column has one.

        Args:
            times: Numbers for a column of numbers, and dates in the form of ISO 8601 for one of dates.

        Raises:
            ValueError: If one of them cannot be compared with the column.
        """
        if self._dates is None:
            return cuts_in_numbers(times, self._source)
        found = []
        for time in times:
            try:
                date = datetime.fromisoformat(str(time))
            except ValueError as error:
                raise ValueError(
                    f"split_times names {time!r}, but the times of {self._source} are dates. Give dates such as "
                    "2026-01-31 or 2026-01-31T12:00:00."
                ) from error
            if date.tzinfo is not None and self._dates.tz is None:
                raise ValueError(
                    f"split_times names {time!r} with a time zone, but the times of {self._source} have none. Leave it "
                    "out."
                )
            date = date.replace(tzinfo=date.tzinfo or UTC)
            microseconds = pa.scalar(date, pa.timestamp("us", "UTC")).value
            found.append(Decimal(microseconds).scaleb(_DIGITS[self._dates.unit] - 6))
        return found


def _plain(column: pa.Array) -> pa.Array:
    """Return a column without its dictionary."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _first(mask: pa.Array) -> int:
    return int(mask.to_numpy(zero_copy_only=False).argmax())


def _decimals(values: pa.Array) -> pa.Array:
    return values.cast(DECIMAL)


def _numbers(
    column: pa.Array, parse: Callable[[pa.Array], pa.Array], fault: Fault, what: str = "a finite number"
) -> pa.Array:
    """Return what a function makes of numbers or their texts, or say which value is the first that it refuses."""
    if column.null_count:
        raise fault(_first(column.is_null()), "is missing")
    if is_text(column.type):
        return parsed(parse, column.cast(pa.string()), lambda place, text: fault(place, f"is {text!r}, not {what}"))
    try:
        return parse(column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        for place in range(len(column)):
            try:
                parse(column[place : place + 1])
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                raise fault(place, f"is {column[place].as_py()!r}, not {what}") from error
        raise
