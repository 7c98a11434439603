"""Titles that every run, every file and every report must survive."""

import json

from source_tree import REPOSITORY

TITLES = [
    "Plain",
    "Half \ud800 a character",
    "\udfff",
    "Line\u2028separator",
    "Paragraph\u2029separator",
    "Next\u0085line",
    "Form\x0cfeed, \x1cfile, \x1d group and \x1e record separators",
    "Sale [/off] now",
    "[bold]Bold[/bold] [link=https://example.com]link[/link]",
    "ends in a backslash \\",
    ":heart: of $x_1$ {braces} %s",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 bell",
    "\u202eright to left\u202c and \u2066isolated\u2069",
    "zero\u200bwidth \ufeff and \x00 nothing",
    "tab\there",
    "two\r\nlines",
    'a "quoted" one',
    "*",
    "   ",
    "",
    "👩\u200d🚀 Köln 東京",
    "long " * 500,
]
_FILE = REPOSITORY.parent / "shared" / "cases" / "titles" / "items.jsonl"


def shared_titles() -> list[str]:
    """The titles of the shared case; none where it is not."""
    if not _FILE.is_file():
        return []
    return [json.loads(line)["title"] for line in _FILE.read_bytes().split(b"\n") if line]
