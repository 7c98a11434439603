"""Other people's texts made fit for a terminal."""

import sys

from rich.console import Console
from rich.text import Text


def console() -> Console:
    """Return a console on the standard output that shows titles even if the terminal knows fewer characters."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console()


def printable(text: object) -> str:
    """Return a text on one line of characters that can be seen.

    White space of any kind becomes a space. Other characters that print nothing of their own (control characters, among
    them those that begin a terminal's commands, marks that change the direction of writing, and halves of characters)
    are shown as Python writes them, such as ``\\x1b``.

    Args:
        text: A text, or anything that can be made one.
    """
    line = " ".join(str(text).split())
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def shown(text: object) -> Text:
    """Return a text for rich to print as it is: brackets and colons in it are no markup.

    Args:
        text: A text, or anything that can be made one.
    """
    return Text(printable(text))
