"""JSON lines of which line k, counted from 0, is about item k or user k."""

import codecs
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Number(str):
    """A number of a JSON file as it is written there: 1995.0 is not 1995, and 1e400 not infinite."""

    def __repr__(self) -> str:
        return str(self)  # in a list, it looks as in the file


def numbered_lines(path: Path, what: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Read such a file. A byte-order mark and blank last lines are passed over.

    Args:
        path: The file.
        what: What the lines are about, "item" or "user", which is also the field that holds the number.

    Yields:
        The number of each line, counted from 0, and its object, whose numbers are ``Number``; None if the line is no
        object with that number.

    Raises:
        ValueError: If it is no file, a line is blank but not the last, or a line is not JSON.
    """
    if not path.is_file():
        raise ValueError(f"{path} is a folder or a link that leads nowhere, not a file. Put the file in its place.")
    blank = 0  # the number of the first blank line; nothing may follow it
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                blank = blank or number
                continue
            if blank:
                raise ValueError(f"{path}, line {blank}: not JSON, but blank. Remove it, or write its {what}.")
            try:
                entry = json.loads(
                    line.decode(),
                    parse_int=Number,
                    parse_float=Number,
                    parse_constant=_no_number,
                    object_pairs_hook=_object,
                )
            except (ValueError, RecursionError) as error:  # ValueError includes text that is not UTF-8
                raise ValueError(
                    f"{path}, line {number}: not JSON ({error}). Write one JSON object per line, in UTF-8."
                ) from error
            place = entry.get(what) if isinstance(entry, dict) else None
            yield number - 1, entry if isinstance(place, Number) and place == str(number - 1) else None


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is none of JSON's values; write null, or leave the field out")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of the fields of a JSON object, none of which may occur twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the field {name[:80]!r} occurs twice; keep one of them")
    return fields
