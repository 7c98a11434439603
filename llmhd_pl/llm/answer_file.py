"""Opens the SQLite file of an answer cache: checks all of it, and sets a corrupt file aside."""

import contextlib
import sqlite3
import warnings
from pathlib import Path

FORMAT = 1
"""The version of the schema, kept in SQLite's user_version."""
BUSY_SECONDS = 60.0
"""How long to wait for another process. A batch is written in milliseconds, so a longer wait is for one that hangs."""

_SCHEMA = """
CREATE TABLE answers (
    key BLOB PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    prompt TEXT NOT NULL,
    template TEXT NOT NULL,
    answer TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    answer_tokens INTEGER NOT NULL
)
"""


def open_to_replay(path: Path) -> sqlite3.Connection:
    """Open a file to read from it only.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is corrupt, or another program's SQLite file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no answer cache {path} to replay. Check the path.")
    try:
        return _connect(path, replay=True)
    except sqlite3.DatabaseError as error:
        if not _is_corrupt(error):
            raise
        raise ValueError(f"The answer cache {path} is corrupt ({error}); it cannot be replayed.") from error


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open a file, or create it with its folders. A corrupt file is renamed and a new one begun, with a warning.

    Args:
        path: The file.

    Raises:
        ValueError: If it is another program's SQLite file.
        RuntimeError: If the system has no POSIX file locks, like Windows.
    """
    try:
        import fcntl
    except ImportError as error:
        raise RuntimeError(
            "The answer cache locks its file with fcntl, which this system (Windows?) lacks. Run it on Linux, "
            "macOS or WSL, or without a cache; replaying a finished one needs no lock."
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    # One process at a time: if two find a corrupt file, the second must not set aside the first one's new file.
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _connect(path, replay=False)
        except sqlite3.DatabaseError as error:
            if not _is_corrupt(error):
                raise
            aside = _set_aside(path)
            warnings.warn(
                f"The answer cache {path} is corrupt ({error}). It was renamed to {aside}, and a new, empty "
                f"{path} was begun. SQLite's .recover may save answers from the old file.",
                stacklevel=3,
            )
            return _connect(path, replay=False)


def _connect(path: Path, replay: bool) -> sqlite3.Connection:
    address = path.absolute().as_uri()
    if replay:
        address += "?mode=ro"
        # Otherwise SQLite would write a file beside it, which it must not do where a published cache lies.
        if not path.with_name(path.name + "-wal").exists():
            address += "&immutable=1"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if version != FORMAT and (tables or replay):
            raise ValueError(f"{path} is an SQLite file, but not an answer cache that this version can read.")
        # Reads the whole file, about a second per gigabyte, because a torn page only shows when it is read.
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            error = sqlite3.DatabaseError(" ".join(verdict.split()))
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        if not replay:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            if version != FORMAT:
                connection.executescript(f"BEGIN; {_SCHEMA}; PRAGMA user_version = {FORMAT}; COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    # The journal goes with it: it belongs to the old file, and SQLite would apply it to the new one.
    for ending in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    path.rename(aside)
    return aside


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    """Return whether the file itself is broken. A locked file or a full disk does not count."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
