"""Files and folders that are either whole or as they were, and the texts in them."""

import contextlib
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

PART = ".part"
"""Ending of a file that is still being written."""

_JSON = json.JSONEncoder(ensure_ascii=False)

# Python, and others, take these for the end of a line, although JSON does not.
_LINE_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
# To look for what must be escaped takes a tenth of the time of escaping.
_ESCAPED = re.compile("[\x85\u2028\u2029\ud800-\udfff]")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; the file takes its name when the block ends without an error.

    The content is on the disk before the name is, so that neither a killed process nor a power failure leaves half a
    file under the name. Several processes may write the same file at once: each has a temporary file of its own, and
    the last one stays. If ``path`` is a symbolic link, the link is replaced; what it points to is not touched. A
    process that is killed with SIGKILL leaves its temporary file, which ends in ``.part``, is read by nobody and can be
    removed.

    Args:
        path: The final path. Its folder is created.

    Yields:
        The temporary path. If the block raises, it is removed and ``path`` stays as it was.

    Raises:
        OSError: If the file cannot be written. The message names the path and what can be done.
    """
    with named_error(path):
        part = new_part(path)
        try:
            yield part
            finish(part, path)
        finally:
            with contextlib.suppress(OSError):  # if the disk is broken, the first error says more
                part.unlink(missing_ok=True)


def new_part(path: Path) -> Path:
    """Create the temporary file of a ``whole_file`` that is written in several calls.

    Args:
        path: The final path. Its folder is created.

    Returns:
        The path of a new, empty file beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")
    # Exclusively: a link that somebody has put there is not followed. Unlike tempfile's, its mode is the usual one.
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return part


def finish(part: Path, path: Path) -> None:
    """Give a complete temporary file its name.

    Args:
        part: The temporary file, closed.
        path: The final path.
    """
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``folder`` to write files to; it takes its name when the block ends without error.

    A process that is killed with SIGKILL leaves the temporary folder, whose name begins with a dot and ends in
    ``.part``; it can be removed.

    Args:
        folder: The final folder: new, or empty.

    Yields:
        The temporary folder. If the block raises, it is removed.

    Raises:
        OSError: If the folder cannot be written. The message names it and what can be done.
    """
    target = folder.resolve()
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PART}")
    with named_error(folder):
        part.mkdir(parents=True)
        try:
            yield part
            for path in part.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def check_new_folder(folder: Path) -> None:
    """Check, before long work begins, what would keep ``whole_folder`` from writing a folder.

    Args:
        folder: The folder that is to be written.

    Raises:
        ValueError: If it is neither new nor empty, or a disk is mounted on it.
        OSError: If nothing may be written where it is to be.
    """
    target = folder.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        what = "is not empty" if target.is_dir() else "is a file"
        raise ValueError(f"{folder} {what}. Name a folder that is new or empty: nothing is ever overwritten.")
    if target.is_mount():  # a finished folder cannot be moved onto it
        raise ValueError(f"{folder} is where a disk is mounted. Name a new folder in it, such as {folder / 'new'}.")
    existing = next(parent for parent in target.parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OSError(f"{folder} cannot be made, because {existing} is no folder that may be written to. Name another.")


@contextlib.contextmanager
def named_error(path: Path) -> Iterator[None]:
    """Let an ``OSError`` of the block name the file that could not be written, which the system's own often does not.

    Args:
        path: The file that the block writes.

    Raises:
        OSError: In place of the block's, with the same ``errno`` and so of the same class.
    """
    try:
        yield
    except OSError as error:
        message = (
            f"{path} could not be written: {error.strerror or error}. Free space on its disk, see to it that nothing "
            "is in its place and that its folder may be written to, or choose another place for it."
        )
        raise (OSError(message) if error.errno is None else OSError(error.errno, message)) from error


def write_or_warn(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file that a run can do without. If that fails, there is a warning, and the run goes on.

    Args:
        path: The file; it is whole or as it was.
        write: Writes the content to the path that it is given.
    """
    try:
        with whole_file(path) as part:
            write(part)
    except OSError as error:
        warnings.warn(f"{error} The run goes on without this file.", stacklevel=3)


def json_text(value: object) -> str:
    """Return a value as JSON on one line, for files in UTF-8.

    Letters of all languages stay readable. Escaped are only what no file can hold, half a character (a lone surrogate),
    and what some readers take for the end of a line (U+0085, U+2028 and U+2029).

    Args:
        value: Anything that JSON can say.
    """
    text = _JSON.encode(value)
    if text.isascii() or not _ESCAPED.search(text):
        return text
    return storable(text).translate(_LINE_BREAKS)


def storable(text: str) -> str:
    """Return a text with half characters (lone surrogates), which no file can hold, written as ``\\ud800``."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
