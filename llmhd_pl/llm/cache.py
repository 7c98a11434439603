"""AnswerCache: keeps every answer of a language model, so that none is paid for twice."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from llmhd_pl.files import whole_file
from llmhd_pl.llm.answer_file import open_to_replay, open_to_write

_CHUNK = 5000  # keys in one query; SQLite allows 32766
_SHOWN_LINES = 12
_INSERT = "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"


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

    Args:
        path: The file. It is created if it does not exist, with its folders.
        replay: Whether to answer from the file alone: nothing is written, and a prompt without an answer is an error.

    Attributes:
        connection: The connection to the SQLite file.

    Raises:
        FileNotFoundError: If there is nothing to replay.
        ValueError: If the file is another program's SQLite file, or a corrupt file that is to be replayed. Without
            ``replay``, a corrupt file is renamed and a new one begun, with a warning.
        RuntimeError: If the system has no POSIX file locks, like Windows, and ``replay`` is not set.
    """

    def __init__(self, path: str | Path, replay: bool = False) -> None:
        self.path, self.replay = Path(path), replay
        self.connection = open_to_replay(self.path) if replay else open_to_write(self.path)

    def get(self, fingerprint: str, prompts: Sequence[str]) -> dict[str, str]:
        """Look up answers.

        Args:
            fingerprint: Who is asked: model, revision, quantisation, prompts and decoding.
            prompts: Any number of rendered prompts.

        Returns:
            The answers by prompt; prompts without an answer are left out.

        Raises:
            MissingAnswersError: If a prompt has no answer and the cache is being replayed.
        """
        by_key = {answer_key(fingerprint, prompt): prompt for prompt in prompts}
        keys = list(by_key)
        found: dict[str, str] = {}
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            query = f"SELECT key, answer FROM answers WHERE key IN ({', '.join('?' * len(chunk))})"
            found |= {by_key[key]: answer for key, answer in self.connection.execute(query, chunk)}
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
        """Write a batch of answers, all or none. Put valid ones only: an invalid answer would never be asked again.

        Args:
            fingerprint: Who answered.
            template: The name of the prompts' template, such as ``T_score``.
            answers: The answers.

        Raises:
            ValueError: If an answer is empty.
            RuntimeError: If the cache is being replayed.
        """
        rows = []
        for answer in answers:
            if not answer.answer.strip():
                raise ValueError(f"An empty answer to a {template} prompt is no answer; leave it out of the cache.")
            rows.append(_row(fingerprint, template, answer))
        with self.transaction():
            self.connection.executemany(_INSERT, rows)

    def export_jsonl(self, path: str | Path) -> int:
        """Write all answers, one JSON object per line. The file appears when it is complete.

        Args:
            path: The file to write.

        Returns:
            The number of answers.
        """
        count = 0
        columns = ("fingerprint", "template", *(field.name for field in fields(Answer)))
        with whole_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
            for row in self.connection.execute(f"SELECT {', '.join(columns)} FROM answers ORDER BY rowid"):
                line = json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False)
                file.write(line + "\n")
                count += 1
        return count

    def import_jsonl(self, path: str | Path) -> int:
        """Add the answers of a file that ``export_jsonl`` wrote, all or none. Answers that exist already stay.

        Args:
            path: The file to read.

        Returns:
            The number of answers that were new.

        Raises:
            ValueError: If a line is not an exported answer. The message names the file and the line, and nothing is
                added.
            RuntimeError: If the cache is being replayed.
        """
        with self.transaction():
            before = self.connection.total_changes
            with Path(path).open("rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        self.connection.execute(_INSERT, _parse_line(line))
                    except ValueError as error:
                        raise ValueError(f"{path}, line {number}: {error}. Nothing was imported.") from error
            return self.connection.total_changes - before

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the file's write lock: what is written within is there at the end, all or none of it.

        Raises:
            RuntimeError: If the cache is being replayed.
        """
        if self.replay:
            raise RuntimeError(f"{self.path} is being replayed; nothing is written to it.")
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # SQLite may have rolled back by itself, for example if the disk is full
                self.connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __len__(self) -> int:
        count: int = self.connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answer_key(fingerprint: str, prompt: str) -> bytes:
    """Return the key of an answer.

    Args:
        fingerprint: Who is asked.
        prompt: The rendered prompt.
    """
    # With the length, the end of a fingerprint cannot pass for the beginning of a prompt.
    return hashlib.sha256(f"{len(fingerprint)} {fingerprint}{prompt}".encode()).digest()


def _row(fingerprint: str, template: str, answer: Answer) -> tuple[bytes, str, str, str, str, int, int]:
    key = answer_key(fingerprint, answer.prompt)
    return key, fingerprint, answer.prompt, template, answer.answer, answer.prompt_tokens, answer.answer_tokens


def _parse_line(line: bytes) -> tuple[bytes, str, str, str, str, int, int]:
    values = json.loads(line)  # JSONDecodeError and UnicodeDecodeError are ValueErrors
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
