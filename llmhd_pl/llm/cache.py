"""AnswerCache: every answer of a language model, kept, so that none is paid for twice."""

import contextlib
import hashlib
import json
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

_FORMAT = 1  # goes into SQLite's user_version
_CHUNK = 5000  # keys in one query; SQLite allows 32766
_BUSY_SECONDS = 60  # a batch is written in milliseconds; whoever waits this long waits for a process that hangs
_SHOWN_LINES = 12

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
_INSERT = "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"


class MissingAnswersError(LookupError):
    """A replay needs answers that the cache does not hold."""


@dataclass(frozen=True)
class Answer:
    """A valid answer of a language model.

    Attributes:
        prompt: what was asked, as rendered.
        answer: what was answered, not empty.
        prompt_tokens: tokens of the prompt.
        answer_tokens: tokens of the answer.
    """

    prompt: str
    answer: str
    prompt_tokens: int
    answer_tokens: int


class AnswerCache:
    """Answers by fingerprint and prompt, in an SQLite file that several processes may use at once.

    A batch is written in one transaction: a process that is killed loses the batch it was writing, never an earlier
    one. The first answer to a prompt stays. Open the cache in the process that uses it, not before a fork.

    Args:
        path: the file; made if it does not exist, with its folders.
        replay: answer from the file alone: nothing is written, and a prompt without an answer is an error.

    Raises:
        FileNotFoundError: nothing to replay.
        ValueError: another program's SQLite file, or a file to replay that is corrupt. Without ``replay`` a corrupt
            file is renamed and a new one begun, with a warning.
        RuntimeError: a system without POSIX file locks, such as Windows, and not ``replay``.
    """

    def __init__(self, path: str | Path, replay: bool = False) -> None:
        self.path, self.replay = Path(path), replay
        if replay:
            if not self.path.is_file():
                raise FileNotFoundError(f"There is no answer cache {self.path} to replay. Check the path.")
            try:
                self._connection = self._open()
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise
                raise ValueError(
                    f"The answer cache {self.path} is corrupt ({error}); it cannot be replayed."
                ) from error
            return
        try:
            import fcntl
        except ImportError as error:
            raise RuntimeError(
                "The answer cache locks its file with fcntl, which this system (Windows?) lacks. Run it on Linux, "
                "macOS or WSL, or without a cache; replaying a finished one needs no lock."
            ) from error
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One process at a time: of two that find a corrupt file, the second must not set aside the first one's new one.
        with self.path.with_name(self.path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                self._connection = self._open()
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise
                aside = self._set_aside()
                warnings.warn(
                    f"The answer cache {self.path} is corrupt ({error}). It was renamed to {aside}, and a new, empty "
                    f"{self.path} was begun. SQLite's .recover may save answers from the old file.",
                    stacklevel=2,
                )
                self._connection = self._open()

    def get(self, fingerprint: str, prompts: Sequence[str]) -> dict[str, str]:
        """Look up answers.

        Args:
            fingerprint: who is asked: model, revision, quantisation, prompts, decoding.
            prompts: rendered prompts, in any number.

        Returns:
            The answer by prompt; prompts without one are left out.

        Raises:
            MissingAnswersError: with ``replay``, a prompt has no answer.
        """
        by_key = {_key(fingerprint, prompt): prompt for prompt in prompts}
        keys = list(by_key)
        found: dict[str, str] = {}
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            query = f"SELECT key, answer FROM answers WHERE key IN ({', '.join('?' * len(chunk))})"
            found |= {by_key[key]: answer for key, answer in self._connection.execute(query, chunk)}
        if self.replay and len(found) < len(by_key):
            missing = [prompt for prompt in by_key.values() if prompt not in found]
            lines = missing[0].splitlines()
            shown = "\n".join("    " + line for line in lines[:_SHOWN_LINES])
            shown += "\n    ..." if len(lines) > _SHOWN_LINES else ""
            raise MissingAnswersError(
                f"{self.path} has no answer to {len(missing)} of {len(by_key)} prompts, and replay asks no model. It "
                f"was made with other data, prompts or models, or is not complete.\n  Fingerprint: {fingerprint}\n"
                f"  The first of the prompts:\n{shown}"
            )
        return found

    def put(self, fingerprint: str, template: str, answers: Iterable[Answer]) -> None:
        """Write one batch of answers, all or none; valid ones only, or an invalid answer is never asked again.

        Args:
            fingerprint: who answered.
            template: the name of the prompt's template, such as ``T_score``.
            answers: the batch.

        Raises:
            ValueError: an empty answer.
            RuntimeError: the cache is being replayed.
        """
        rows = []
        for answer in answers:
            if not answer.answer.strip():
                raise ValueError(f"An empty answer to a {template} prompt is no answer; leave it out of the cache.")
            rows.append(_row(fingerprint, template, answer))
        with self._transaction():
            self._connection.executemany(_INSERT, rows)

    def export_jsonl(self, path: str | Path) -> int:
        """Write all answers, a JSON object per line; the file appears when it is complete.

        Args:
            path: the file to write.

        Returns:
            The number of answers.
        """
        path, count = Path(path), 0
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        columns = ("fingerprint", "template", *(field.name for field in fields(Answer)))
        try:
            with part.open("w", encoding="utf-8") as file:
                for row in self._connection.execute(f"SELECT {', '.join(columns)} FROM answers ORDER BY rowid"):
                    line = json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False)
                    file.write(line + "\n")
                    count += 1
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return count

    def import_jsonl(self, path: str | Path) -> int:
        """Add the answers of a file that ``export_jsonl`` wrote, all or none. Answers that are there already stay.

        Args:
            path: the file to read.

        Returns:
            The number of answers that were new.

        Raises:
            ValueError: a line that is not an exported answer; file and line are named, and nothing is added.
            RuntimeError: the cache is being replayed.
        """
        with self._transaction():
            before = self._connection.total_changes
            with Path(path).open("rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        self._connection.execute(_INSERT, _parse_line(line))
                    except ValueError as error:
                        raise ValueError(f"{path}, line {number}: {error}. Nothing was imported.") from error
            return self._connection.total_changes - before

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __len__(self) -> int:
        count: int = self._connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> sqlite3.Connection:
        address = self.path.absolute().as_uri()
        if self.replay:
            address += "?mode=ro"
            # Otherwise SQLite wants to write a file beside it, which it must not where a published cache lies.
            if not self.path.with_name(self.path.name + "-wal").exists():
                address += "&immutable=1"
        connection = sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            if version != _FORMAT and (tables or self.replay):
                raise ValueError(f"{self.path} is an SQLite file, but not an answer cache that this version can read.")
            # Reads the whole file, about a second per gigabyte, because a torn page shows only when it is read.
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                error = sqlite3.DatabaseError(" ".join(verdict.split()))
                error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise error
            if not self.replay:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                if version != _FORMAT:
                    connection.executescript(f"BEGIN; {_SCHEMA}; PRAGMA user_version = {_FORMAT}; COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self) -> Path:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.corrupt-{number}")).exists():
            number += 1
        # The journal goes along: it belongs to the old file, and SQLite would apply it to the new one.
        for ending in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self.path.with_name(self.path.name + ending).rename(aside.with_name(aside.name + ending))
        self.path.rename(aside)
        return aside

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        if self.replay:
            raise RuntimeError(f"{self.path} is being replayed; nothing is written to it.")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself has rolled back, for example, when the disk is full
                self._connection.execute("ROLLBACK")
            raise


def _key(fingerprint: str, prompt: str) -> bytes:
    # The length keeps a fingerprint's end from passing for a prompt's beginning.
    return hashlib.sha256(f"{len(fingerprint)} {fingerprint}{prompt}".encode()).digest()


def _row(fingerprint: str, template: str, answer: Answer) -> tuple[bytes, str, str, str, str, int, int]:
    key = _key(fingerprint, answer.prompt)
    return key, fingerprint, answer.prompt, template, answer.answer, answer.prompt_tokens, answer.answer_tokens


def _parse_line(line: bytes) -> tuple[bytes, str, str, str, str, int, int]:
    values = json.loads(line)  # a JSONDecodeError and a UnicodeDecodeError are ValueErrors
    kinds = {"fingerprint": str, "template": str} | Answer.__annotations__
    if not isinstance(values, dict) or values.keys() != kinds.keys():
        raise ValueError(f"expected an object with the keys {', '.join(kinds)}")
    for name, kind in kinds.items():
        if type(values[name]) is not kind:
            raise ValueError(f"{name} must be {'a text' if kind is str else 'a whole number'}")
    if not values["answer"].strip():
        raise ValueError("the answer is empty")
    if min(values["prompt_tokens"], values["answer_tokens"]) < 0:
        raise ValueError("tokens cannot be negative")
    fingerprint, template = values.pop("fingerprint"), values.pop("template")
    return _row(fingerprint, template, Answer(**values))


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is broken; a locked file or a full disk is not."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
