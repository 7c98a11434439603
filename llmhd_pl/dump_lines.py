"""What the lines of a published dump say: JSON, or Python literals as older dumps have them.

Nothing is evaluated. Worker processes import this module, so it imports nothing that takes long.
"""

import ast
import json
import math
import multiprocessing
import os
import signal
import threading
import warnings
from array import array
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

LONGEST = 4 << 20
"""The bytes from which a line is no review and no item, but a fault; a parsed literal takes a hundred times as much."""
SHOWN = 5
"""How many broken lines are shown."""
_EPOCH = datetime(1970, 1, 1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Fields:
    """The names of what is needed of a review.

    Attributes:
        user: Who wrote it.
        item: What it is about.
        rating: A number; None if the dump has no ratings.
        time: A whole number, or a date such as ``2017-12-17`` or ``2017-12-17 23:05:59``.
    """

    user: str
    item: str
    rating: str | None
    time: str


@dataclass
class Reviews:
    """The reviews of a block of lines, in their order, and what was left out.

    Attributes:
        users: Who wrote each, [n].
        items: What each is about, [n].
        ratings: The ratings, float64 [n]; empty if the dump has none.
        times: The times, int64 [n]: numbers as they are, dates in seconds since 1970.
        lines: The number of lines that are not blank.
        broken: The number of broken lines.
        faults: The first broken lines: the place in the block, from 0, and what is wrong.
    """

    users: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    ratings: "array[float]" = field(default_factory=lambda: array("d"))
    times: "array[int]" = field(default_factory=lambda: array("q"))
    lines: int = 0
    broken: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)


def parse_line(line: bytes, literal: bool) -> dict[Any, Any]:
    """Parse a line that holds an object.

    Args:
        line: The line.
        literal: Whether it is a Python literal, which is parsed and never evaluated, and not JSON.

    Returns:
        The fields.

    Raises:
        ValueError: If it is something else, longer than 4 MiB or nested too deeply.
    """
    if len(line) > LONGEST:
        raise ValueError(f"longer than {LONGEST >> 20} MiB")
    kind = "a Python literal" if literal else "JSON"
    try:
        text = line.decode()
        value = ast.literal_eval(text.strip()) if literal else json.loads(text)
    # A parser that is asked to nest too deeply runs out of stack, which Python calls a lack of memory or recursion.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        reason = str(error).partition(" on line 1: <")[0].partition(" (<unknown>")[0]  # no addresses, no file names
        raise ValueError(f"not {kind} ({reason[:120] or type(error).__name__})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{kind}, but not an object with fields")
    return value


def parse_reviews(block: bytes, literal: bool, fields: Fields) -> Reviews:
    """Parse a block of lines with a review each.

    Args:
        block: Whole lines; blank ones count for nothing.
        literal: Whether they are Python literals, and not JSON.
        fields: The names of what is needed.

    Returns:
        What is needed of the reviews, without those of broken lines.
    """
    found = Reviews()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a backslash in a literal that is no escape
        for place, line in enumerate(block.split(b"\n")):
            if not line or line.isspace():
                continue
            found.lines += 1
            try:
                review = parse_line(line, literal)
                user, item = identifier(review, fields.user), identifier(review, fields.item)
                time = _time(_value(review, fields.time), fields.time)
                rating = 0.0 if fields.rating is None else _rating(_value(review, fields.rating), fields.rating)
            except ValueError as error:
                found.broken += 1
                if len(found.faults) < SHOWN:
                    found.faults.append((place, str(error)))
                continue
            found.users.append(user)
            found.items.append(item)
            found.times.append(time)
            if fields.rating is not None:
                found.ratings.append(rating)
    return found


def identifier(values: dict[Any, Any], name: str) -> str:
    """Return an identifier as text.

    Args:
        values: The fields of a line.
        name: The name of the field: text that is not empty, or a whole number.

    Raises:
        ValueError: If it is missing or something else.
    """
    value = _value(values, name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {_brief(value)}, not an identifier")
    if not value.isascii():
        try:  # Python 2 wrote some characters as two halves
            value = value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} holds half a character") from error
    return value


def _value(values: dict[Any, Any], name: str) -> Any:
    if values.get(name) is None:
        raise ValueError(f"{name} is missing")
    return values[name]


def _rating(value: Any, name: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            rating = float(value)
        except OverflowError:
            rating = math.inf
        if math.isfinite(rating):
            return rating
    raise ValueError(f"{name} is {_brief(value)}, not a finite number")


def _time(value: Any, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, str):
        try:
            return (datetime.fromisoformat(value) - _EPOCH) // _SECOND
        except (ValueError, TypeError):  # TypeError: a date with a time zone
            pass
    raise ValueError(f"{name} is {_brief(value)}, not a time")


def _brief(value: Any) -> str:
    """Return what a message calls a value: short, whatever it is."""
    if isinstance(value, str):
        return repr(value[:80])
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 64):
        return repr(value)
    return f"<{type(value).__name__}>"


def end_with_parent() -> None:
    """Let a worker process end when the process that began it is killed, and leave Ctrl+C to that process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
