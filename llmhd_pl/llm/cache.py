"""AnswerCache: keeps every answer of a language model, so that none is paid for twice."""

import contextlib
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llmhd_pl.files import storable, whole_file
from llmhd_pl.llm.answer_file import named_errors, open_to_replay, open_to_write
from llmhd_pl.llm.answer_rows import Row, answer_key, export_line, fault, parse_line

_CHUNK = 5000  # keys in one query; SQLite allows 32766
_SHOWN_LINES = 12
_COLUMNS = ", ".join(Row._fields)
_INTO = "INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)"
_BUSY_AGAIN = 1000
"""Milliseconds to wait for another process that has kept this one waiting for too long before."""


class MissingAnswersError(LookupError):
    """A replay needs answers that the cache does not contain."""


@dataclass(frozen=True)
class Answer:
    """A valid answer of a language model.

    Attributes:
        prompt: The rendered prompt.
        answer: What was answered; not empty.
        prompt_tokens: The tokens of the prompt.
        answer_tokens: The tokens of the answer.
    """

    prompt: str
    answer: str
    prompt_tokens: int
    answer_tokens: int


class AnswerCache:
    """Answers by fingerprint and prompt, in an SQLite file that several processes may use at once.

    A batch is written in one transaction: a process that is killed loses the batch it was writing, never an earlier
    one. The first answer to a prompt stays. Open the cache in the process that uses it, not before a fork.

    Whoever wrote the file, an answer is only given out if a model can have answered it: see ``answer_rows.fault``. A
    row that is not valid counts as not there, with one warning, and the next answer to its prompt takes its place.

    Answers are paid for. If the file cannot be written any more, because the disk is full or another process keeps it
    locked, they are kept in memory, with one warning, and written as soon as that is possible again.

    Args:
        path: The file. It is created if it does not exist, with its folders. A symbolic link to a cache is followed.
        replay: Whether to answer from the file alone: nothing is written, and a prompt without an answer is an error.

    Attributes:
        connection: The connection to the SQLite file.

    Raises:
        FileNotFoundError: If there is nothing to replay, or the path is a symbolic link to nothing.
        ValueError: If the file is not an answer cache, is one of a newer version, or is a corrupt one that is to be
            replayed. Without ``replay``, a corrupt file is renamed and a new one begun, with a warning.
        OSError: If the file cannot be opened, because a folder is in its place or it may not be written to. It is a
            TimeoutError if another process does not let it be opened.
        sqlite3.OperationalError: If another process keeps the file itself locked.
        RuntimeError: If the system has no POSIX file locks, like Windows, and ``replay`` is not set.
    """

    def __init__(self, path: str | Path, replay: bool = False) -> None:
        self.path, self.replay = Path(path), replay
        self.connection = open_to_replay(self.path) if replay else open_to_write(self.path)
        self._warned_of_faults = self._warned_of_writing = False
        self._unwritten: dict[bytes, Row] = {}  # paid for, but the file could not be written

    def get(self, fingerprint: str, prompts: Sequence[str], template: str | None = None) -> dict[str, str]:
        """Look up answers.

        Args:
            fingerprint: Who is asked: model, revision, quantisation, prompts and decoding.
            prompts: Any number of rendered prompts.
            template: The template of the prompts; what is kept as the answer to another one is not valid. None takes
                the template that each answer is kept with.

        Returns:
            The answers by prompt; prompts without a valid answer are left out.

        Raises:
            MissingAnswersError: If a prompt has no answer and the cache is being replayed.
            ValueError: If an answer is not valid and the cache is being replayed.
            sqlite3.DatabaseError: If the file cannot be read any more.
        """
        if self._unwritten:
            self._write(())
        by_key = {answer_key(fingerprint, prompt): prompt for prompt in prompts}
        keys = list(by_key)
        found: dict[str, str] = {}
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            where = f"WHERE key IN ({', '.join('?' * len(chunk))})"
            with named_errors(self.path):
                rows = self.connection.execute(f"SELECT rowid, {_COLUMNS} FROM answers {where}", chunk).fetchall()
            for number, *row in rows:
                if (wrong := fault(row, template)) is None:
                    found[by_key[row[0]]] = row[4]
                else:
                    self._report(number, row, wrong)
        found |= {by_key[key]: row.answer for key, row in self._unwritten.items() if key in by_key}
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
        """Write a batch of answers, all or none. Put valid ones only: an invalid answer would be asked for again.

        Args:
            fingerprint: Who answered.
            template: The name of the prompts' template, such as ``T_score``.
            answers: The answers.

        Raises:
            ValueError: If an answer is not valid.
            RuntimeError: If the cache is being replayed.
        """
        self._refuse_replay()
        rows = []
        for answer in answers:
            if not answer.answer.strip():
                raise ValueError(f"An empty answer to a {template} prompt is no answer; leave it out of the cache.")
            texts = storable(fingerprint), storable(answer.prompt), template, storable(answer.answer)
            row = Row(answer_key(*texts[:2]), *texts, answer.prompt_tokens, answer.answer_tokens)
            if (wrong := fault(row)) is not None:
                raise ValueError(f"{answer.answer[:60]!r} cannot be kept as an answer to a {template} prompt: {wrong}.")
            rows.append(row)
        self._write(rows)

    def _write(self, rows: Iterable[Row]) -> None:
        """Write rows and those that could not be written before, or keep all of them in memory."""
        unwritten = self._unwritten | {row.key: row for row in rows if row.key not in self._unwritten}
        try:
            with self.transaction():
                for row in unwritten.values():
                    self._add(row)
        except sqlite3.ProgrammingError:  # the cache was closed
            raise
        except sqlite3.DatabaseError as error:
            self._unwritten = unwritten
            self.connection.execute(f"PRAGMA busy_timeout = {_BUSY_AGAIN}")
            if not self._warned_of_writing:
                self._warned_of_writing = True
                warnings.warn(
                    f"The answer cache {self.path} cannot be written ({error}). The run goes on and keeps new answers "
                    "in memory; they are lost if it ends before they can be written. Free space on the disk, or end "
                    "the process that keeps the file locked.",
                    stacklevel=3,
                )
        else:
            self._unwritten = {}

    def _add(self, row: Row) -> bool:
        """Add a row unless its prompt has a valid answer, and return whether it was added."""
        if self.connection.execute(f"INSERT {_INTO} ON CONFLICT DO NOTHING", row).rowcount:
            return True
        (there,) = self.connection.execute(f"SELECT {_COLUMNS} FROM answers WHERE key = ?", row[:1]).fetchall()
        if fault(there, row.template) is None:
            return False
        self.connection.execute(f"REPLACE {_INTO}", row)
        return True

    def _report(self, number: int, row: Sequence[object], wrong: str) -> None:
        """Refuse a row that is not valid if the cache is being replayed, and else warn once of all of them."""
        where = f"row {number} of the table answers: {wrong}; there is {str(row[4])[:60]!r}"
        if self.replay:
            raise ValueError(
                f"{self.path}, {where}. It is not replayed. Take a sound copy of the file, or open it without replay: "
                "the model is then asked again."
            )
        if self._warned_of_faults:
            return
        self._warned_of_faults = True
        count = sum(fault(row) is not None for row in self.connection.execute(f"SELECT {_COLUMNS} FROM answers"))
        warnings.warn(
            f"{self.path} has {max(count, 1)} rows that are no answers. They count as not there, and the model is "
            f"asked again. For example, {where}. Something else has written to the file, or it was damaged: take a "
            "sound copy of it if there is one.",
            stacklevel=3,
        )

    def export_jsonl(self, path: str | Path) -> int:
        """Write all valid answers, one JSON object per line. The file appears when it is complete.

        Args:
            path: The file to write.

        Returns:
            The number of answers.

        Raises:
            ValueError: If an answer is not valid and the cache is being replayed; without ``replay`` it is left out,
                with a warning.
        """
        count = 0
        with (
            whole_file(Path(path)) as temporary,
            temporary.open("w", encoding="utf-8") as file,
            named_errors(self.path),
        ):
            for number, *row in self.connection.execute(f"SELECT rowid, {_COLUMNS} FROM answers ORDER BY rowid"):
                if (wrong := fault(row)) is not None:
                    self._report(number, row, wrong)
                    continue
                file.write(export_line(Row(*row)))
                count += 1
        return count

    def import_jsonl(self, path: str | Path) -> int:
        """Add the answers of a file that ``export_jsonl`` wrote, all or none. Valid answers that exist already stay.

        Args:
            path: The file to read.

        Returns:
            The number of answers that were new.

        Raises:
            ValueError: If a line is not an exported answer, or not a valid one. The message names the file and the
                line, and nothing is added.
            RuntimeError: If the cache is being replayed.
            sqlite3.DatabaseError: If the cache cannot be written.
        """
        new = 0
        with named_errors(self.path), self.transaction(), Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    new += self._add(parse_line(line))
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: {error}. Nothing was imported.") from error
        return new

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the file's write lock: what is written within is there at the end, all or none of it.

        Raises:
            RuntimeError: If the cache is being replayed.
        """
        self._refuse_replay()
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # SQLite may have rolled back by itself, for example if the disk is full
                self.connection.execute("ROLLBACK")
            raise

    def _refuse_replay(self) -> None:
        if self.replay:
            raise RuntimeError(f"{self.path} is being replayed; nothing is written to it.")

    def close(self) -> None:
        """Close the file, after another attempt to write what could not be written."""
        if self._unwritten:
            self._write(())
        self.connection.close()

    def __len__(self) -> int:
        with named_errors(self.path):
            count: int = self.connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
