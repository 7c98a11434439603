"""Pages that a browser shows without a server or a network: one file each, drawn by ``page.js`` from the data in it.

A page has a headline, perhaps a picture, small tables, and explorers, which are large tables to search, filter, sort
and export. ``page.py`` fills it with an audit, ``llmhd_pl/report_page.py`` with the report of a run.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from llmhd_pl.files import storable, whole_file

NO_BREAK = "\N{NO-BREAK SPACE}"
"""Stands before a percent sign."""
MOST_ROWS = 200_000
"""The rows of an explorer; a browser searches that many while one types."""
_MOST_TEXT = 40_000_000  # characters of texts on one page


def write_html(path: Path, content: Mapping[str, Any]) -> None:
    """Write a page from what ``page.js`` is to draw.

    Args:
        path: The file; it is whole or as it was.
        content: Plain data without NaN. ``main`` in ``page.js`` reads its keys.

    Raises:
        OSError: If the file cannot be written. The message names it and what can be done.
        ValueError: If a number is NaN or infinite.
    """
    folder = Path(__file__).parent
    template, script, style = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.html", "page.js", "page.css")
    )
    html = Template(template).substitute(
        data=script_json(content), script=script, style=style, script_hash=_hash(script), style_hash=_hash(style)
    )
    with whole_file(path) as part:
        part.write_bytes(html.encode())  # not as text: on some systems that changes the line breaks, and so the hashes


def script_json(value: object) -> str:
    """Return a value as JSON that may stand in a ``script`` element.

    No text in it can close the element or open a comment, no character ends a line, and half a character (a lone
    surrogate), which no file can hold, is escaped.

    Args:
        value: Anything that JSON can say.

    Raises:
        ValueError: If a number is NaN or infinite.
    """
    text = storable(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    """What a Content-Security-Policy calls a script or a style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def percent(share: float) -> str:
    """Return a share, 0 to 1, as a percentage: with a decimal near 0 and near 1; a dash for NaN."""
    if np.isnan(share):
        return "\N{EN DASH}"
    return f"{100 * share:.{1 if 0 < share < 0.0095 or 0.9905 < share < 1 else 0}f}{NO_BREAK}%"


def coded(name: str, label: str, table: str, codes: Sequence[int] | np.ndarray, **more: Any) -> dict[str, Any]:
    """Return a column of an explorer whose cells are entries of a table.

    Args:
        name: What the page calls the column.
        label: Its heading.
        table: The name of the table in the explorer's ``tables``.
        codes: The place of each row's entry in the table.
        more: Further keys that ``page.js`` knows.
    """
    return {
        "kind": "coded",
        "name": name,
        "label": label,
        "table": table,
        "codes": [int(code) for code in codes],
        **more,
    }


def number(name: str, label: str, values: Any, digits: int = 0, places: int = 2, **more: Any) -> dict[str, Any]:
    """Return a column of an explorer whose cells are numbers.

    Args:
        name: What the page calls the column, and its heading in the exported file.
        label: Its heading.
        values: The number of each row; NaN and infinity are shown as nothing.
        digits: The decimals that are shown.
        places: The decimals that are kept for sorting and for the exported file.
        more: Further keys that ``page.js`` knows.
    """
    exact = np.asarray(values).astype(np.float64)
    whole = np.asarray(values).dtype.kind in "iu"
    rounded = np.round(exact, places).tolist()
    kept = [(int(value) if whole else value) if np.isfinite(value) else None for value in rounded]
    return {
        "kind": "number",
        "name": name,
        "label": label,
        "values": kept,
        "digits": digits,
        "csv": [(name, "values")],
        **more,
    }


def cut_fields(texts: Sequence[Mapping[str, str]]) -> list[list[tuple[str, str]]]:
    """Return the fields of each item or user, long ones cut so that a browser can hold all of them."""
    most = max(200, _MOST_TEXT // max(1, sum(map(len, texts))))

    def cut(text: str) -> str:
        return text if len(text) <= most else f"{text[:most]} \N{HORIZONTAL ELLIPSIS} ({len(text):,} characters)"

    return [[(name, cut(text)) for name, text in fields.items()] for fields in texts]
