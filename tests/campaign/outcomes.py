"""What a case with data files asserts."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak() -> int:
    """Return the largest resident memory so far, in KiB."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def refused(load: Callable[[], Any], kind: type[Exception], file: Path, *words: str, line: int | None = None) -> str:
    """Assert that something is refused with an error of this very kind that names the file, the line and the remedy.

    Args:
        load: Loads the data.
        kind: The type of the error.
        file: The file that the message must begin with, or name.
        words: Regular expressions that the message must contain: what is wrong, and the remedy last.
        line: The line that the message must name.

    Returns:
        What happened, for the table.
    """
    started = time.monotonic()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = peak()
    try:
        load()
    except Exception as error:
        if type(error) is not kind:
            raise
        message = str(error)
        assert str(file) in message, message
        assert len(message) < 1500, "a message that nobody reads"
        assert line is None or re.search(rf"line {line}\b", message), message
        for word in words:
            assert re.search(word, message), f"{word!r} is not in: {message}"
        assert time.monotonic() - started < 10
        grown = (peak() - before) / 1024
        assert grown < 100, f"{grown:.0f} MB for a small file"
        return (
            "refused, naming the file, the line and the remedy" if line else "refused, naming the file and the remedy"
        )
    raise AssertionError("it was accepted")
