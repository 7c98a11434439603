"""Opens the SQLite file of an answer cache: checks all of it, and sets a corrupt file aside."""

import contextlib
import os
import sqlite3
import stat
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

FORMAT = 1
"""The version of the schema, kept in SQLite's user_version."""
BUSY_SECONDS = 60.0
"""How long to wait for another process. A batch is written in milliseconds, so a longer wait is for one that hangs."""
SAID_AFTER_SECONDS = 2.0
"""After how long there is a warning that another process is waited for."""

_MAGIC = b"SQLite format 3\0"
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
# What PRAGMA table_info says about it: name, type, not null, place in the primary key.
_COLUMNS = [
    ("key", "BLOB", 0, 1),
    *((name, "TEXT", 1, 0) for name in ("fingerprint", "prompt", "template", "answer")),
    *((name, "INTEGER", 1, 0) for name in ("prompt_tokens", "answer_tokens")),
]


def open_to_replay(path: Path) -> sqlite3.Connection:
    """Open a file to read from it only.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is corrupt, or no answer cache that this version can read.
        sqlite3.OperationalError: If it cannot be opened, or is locked.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no answer cache {path} to replay. Check the path.")
    _check_is_sqlite(path)
    try:
        with named_errors(path):
            return _connect(path, replay=True)
    except sqlite3.DatabaseError as error:
        if not _is_corrupt(error):
            raise
        raise ValueError(f"The answer cache {path} is corrupt ({error}); it cannot be replayed.") from error


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open a file, or create it with its folders. A corrupt file is renamed and a new one begun, with a warning.

    Args:
        path: The file. If it is a symbolic link, everything happens where it points to.

    Raises:
        FileNotFoundError: If it is a symbolic link to nothing.
        ValueError: If there is another file, which is no answer cache that this version can read.
        OSError: If it, or the lock file beside it, cannot be opened or created.
        TimeoutError: If another process has kept the lock file locked for ``BUSY_SECONDS``.
        sqlite3.OperationalError: If the file itself is locked for as long, or cannot be written.
        RuntimeError: If the system has no POSIX file locks, like Windows.
    """
    if path.is_symlink():
        if not path.exists():
            raise FileNotFoundError(
                f"The answer cache {path} is a symbolic link to {path.readlink()}, where nothing is. Remove the link "
                "or make its target, or give another path."
            )
        path = path.resolve()
    if path.is_dir():
        raise IsADirectoryError(f"The answer cache {path} is a folder. Give the path of a file in it.")
    # One process at a time: if two find a corrupt file, the second must not set aside the first one's new file.
    with _locked(path.with_name(path.name + ".lock"), path):
        _check_is_sqlite(path)
        try:
            with named_errors(path):
                return _connect(path, replay=False)
        except sqlite3.DatabaseError as error:
            if not _is_corrupt(error):
                raise
            aside = _set_aside(path)
            warnings.warn(
                f"The answer cache {path} is corrupt ({error.__cause__}). It was renamed to {aside}, and a new, empty "
                f"{path} was begun. SQLite's .recover may save answers from the old file.",
                stacklevel=3,
            )
            return _connect(path, replay=False)


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Let errors of SQLite name the file and say what can be done.

    Args:
        path: The file that is read or written in the block.

    Raises:
        sqlite3.DatabaseError: In place of the block's, of the same class.
    """
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        if _is_corrupt(error):
            remedy = "Start the run again: a corrupt file is then set aside."
        else:
            remedy = (
                "If another process keeps it locked, end that one; else see to it that the disk has space and that the "
                "file and its folder may be written to, or give another path."
            )
        named = type(error)(f"The answer cache {path} cannot be used: {error}. {remedy}")
        named.sqlite_errorcode = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        raise named from error


@contextlib.contextmanager
def _locked(lock: Path, path: Path) -> Iterator[None]:
    """Hold a file's lock, and say who is waited for if that takes long."""
    try:
        import fcntl
    except ImportError as error:
        raise RuntimeError(
            "The answer cache locks its file with fcntl, which this system (Windows?) lacks. Run it on Linux, "
            "macOS or WSL, or without a cache; replaying a finished one needs no lock."
        ) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What is there already is neither followed, if it is a link, nor emptied: it may be somebody else's.
        number = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        what = "it is a symbolic link, which is not followed" if lock.is_symlink() else error.strerror
        raise OSError(
            error.errno,
            f"The answer cache {path} needs a file {lock}, which cannot be opened: {what}. Remove what is in its "
            "place, see to it that the folder may be written to, or give the cache another path.",
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise FileExistsError(f"The answer cache {path} needs a file {lock}, and something else is there: move it.")
        began, said = time.monotonic(), False
        while True:
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                waited = time.monotonic() - began
                if waited > BUSY_SECONDS:
                    raise TimeoutError(
                        f"Another process has kept {lock} locked for {BUSY_SECONDS:g} seconds, so the answer cache "
                        f"{path} cannot be opened. End that process (fuser {lock} names it), or give another path."
                    ) from error
                if waited > SAID_AFTER_SECONDS and not said:
                    said = True
                    warnings.warn(f"Waiting for another process, which has locked {lock}.", stacklevel=5)
                time.sleep(0.02)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"{lock} cannot be locked ({error.strerror}), so several processes could spoil the answer cache "
                    f"{path}. Give it a path on a file system with locks, such as a local disk.",
                ) from error
        yield
    finally:
        os.close(number)


def _check_is_sqlite(path: Path) -> None:
    """Refuse a file that is somebody else's. An empty one is nobody's."""
    if path.exists() and not path.is_file():
        raise FileExistsError(f"The answer cache {path} is not a file. Move it away, or give another path.")
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_MAGIC))
    except FileNotFoundError:
        return
    except OSError as error:
        raise OSError(
            error.errno,
            f"The answer cache {path} cannot be read: {error.strerror}. Change its permissions, or give another path.",
        ) from error
    if beginning != _MAGIC[: len(beginning)]:
        raise ValueError(
            f"{path} is not an answer cache, and not even an SQLite file: it begins with {beginning!r}. Move it away, "
            "or give the cache another path."
        )


def _connect(path: Path, replay: bool) -> sqlite3.Connection:
    address = path.absolute().as_uri()
    if replay:
        address += "?mode=ro"
        # Otherwise SQLite would write a file beside it, which it must not do where a published cache lies.
        if not path.with_name(path.name + "-wal").exists():
            address += "&immutable=1"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    connection.text_factory = _text
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        columns = [tuple(row[1:4]) + row[5:] for row in connection.execute("PRAGMA table_info(answers)")]
        if tables or version or replay:
            _check_is_ours(path, version, columns)
        # Reads the whole file, about a second per gigabyte, because a torn page only shows when it is read.
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            error = sqlite3.DatabaseError(" ".join(str(verdict).split()))
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


def _check_is_ours(path: Path, version: int, columns: list[tuple[object, ...]]) -> None:
    remedy = "Move it away, or give the cache another path."
    if version > FORMAT and columns[: len(_COLUMNS)] == _COLUMNS:
        raise ValueError(
            f"{path} is an answer cache of a newer version of llmhd-pl: its format is {version}, and this version "
            f"reads {FORMAT}. Update llmhd-pl, or give the cache another path."
        )
    if version != FORMAT or not columns:
        raise ValueError(
            f"{path} is an SQLite file, but not an answer cache that this version can read: it has "
            f"{'a' if columns else 'no'} table answers, and its user_version is {version}, not {FORMAT}. {remedy}"
        )
    if columns != _COLUMNS:
        there = ", ".join(f"{name} {kind}{' not null' * bool(forced)}" for name, kind, forced, _ in columns)
        raise ValueError(
            f"{path} is an SQLite file, but not an answer cache that this version can read: the columns of its table "
            f"answers are {there}. {remedy}"
        )


def _text(raw: bytes) -> str | bytes:
    """Decode a text, or return its bytes if that cannot be done: its reader then finds that it is none."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _set_aside(path: Path) -> Path:
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.corrupt-{number}")):
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
