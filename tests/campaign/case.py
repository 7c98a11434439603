"""What a fault campaign consists of."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """One fault, tried once."""

    kind: str
    """What was tried, in words that a row of docs/reliability.md can begin with: "a truncated .inter file"."""
    name: str
    """Which of its kind this one is: "cut at byte 117"."""
    check: Callable[[Path], str]
    """Tries it in an empty folder and returns what happened, in the words of docs/reliability.md: "refused, naming file
    and line". It raises (AssertionError or anything else) if that is not what should happen."""
