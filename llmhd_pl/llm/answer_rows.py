"""The rows of an answer cache, and what is wrong with those that no model can have answered."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from llmhd_pl.files import json_text, storable
from llmhd_pl.llm.prompts import T_FN, T_FP, T_LIKELIHOOD, T_SCORE, T_SUM, parse_profile, parse_score, parse_summary

_MOST_TOKENS = 2**63 - 1  # what SQLite can hold
_EXPORTED = ("fingerprint", "template", "prompt", "answer", "prompt_tokens", "answer_tokens")
_NUMBER = re.compile(r"[1-9](\.[0-9]+)?|10(\.0+)?")  # as Python writes 1 to 10


class Row(NamedTuple):
    """A row of the table, in the order of its columns."""

    key: bytes
    """``answer_key`` of the next two."""
    fingerprint: str
    """Who answered."""
    prompt: str
    """The rendered prompt."""
    template: str
    """The name of the prompt's template."""
    answer: str
    """What was answered."""
    prompt_tokens: int
    """The tokens of the prompt."""
    answer_tokens: int
    """The tokens of the answer."""


def answer_key(fingerprint: str, prompt: str) -> bytes:
    """Return the key of an answer.

    Args:
        fingerprint: Who is asked.
        prompt: The rendered prompt.
    """
    fingerprint = storable(fingerprint)
    # With the length, the end of a fingerprint cannot pass for the beginning of a prompt.
    return hashlib.sha256(f"{len(fingerprint)} {fingerprint}{storable(prompt)}".encode()).digest()


def fault(row: Sequence[object], template: str | None = None) -> str | None:
    """Say what is wrong with a row, whoever wrote it.

    An answer must be one that the template's parser accepts, in the form in which it is kept: a score of 1 to 10 as a
    number (``scoring="expected"``) or as ``<s>N</s>`` (``scoring="generate"``), a log-likelihood as a number that is
    not above 0, or a text with one pair of the tags that the template asks for. Of a template that this package does
    not know, any answer that is not empty is valid.

    Args:
        row: The seven columns, as they were read.
        template: The template that the row must belong to; None is any.

    Returns:
        What is wrong, as the end of a sentence about the row, or None.
    """
    for (name, kind), value in zip(Row.__annotations__.items(), row, strict=True):
        if type(value) is not kind:
            what = {bytes: "bytes", str: "a text in UTF-8", int: "a whole number"}[kind]
            return f"{name} is not {what}"
    checked = Row(*row)  # type: ignore[arg-type]
    if min(checked.prompt_tokens, checked.answer_tokens) < 0:
        return "tokens cannot be negative"
    if max(checked.prompt_tokens, checked.answer_tokens) > _MOST_TOKENS:
        return "no answer has that many tokens"
    if checked.key != answer_key(checked.fingerprint, checked.prompt):
        return "its key is that of another prompt"
    if template is not None and checked.template != template:
        return f"it belongs to {checked.template[:20]!r} and not to {template}"
    return _form_fault(checked.fingerprint, checked.template, checked.answer)


def _form_fault(fingerprint: str, template: str, answer: str) -> str | None:
    """Say why a text cannot be what a model has answered, as ``fault`` does."""
    if not answer.strip():
        return "the answer is empty"
    if template == T_SCORE:
        scoring = _scoring(fingerprint)
        number = scoring != "generate" and _NUMBER.fullmatch(answer) is not None
        written = scoring != "expected" and parse_score(answer) is not None
        if not number and not written:
            form = {"expected": "a number", "generate": "<s>N</s>"}.get(scoring, "a number or <s>N</s>")
            return f"the answer is no score of 1 to 10, as {form}"
    elif template == T_LIKELIHOOD and not _is_log_likelihood(answer):
        return "the answer is not the logarithm of a probability"
    elif template == T_SUM and parse_summary(answer) is None:
        return "the answer is not a text in one pair of <summarization> tags"
    elif template in (T_FP, T_FN) and parse_profile(answer) is None:
        return "the answer is not a text in one pair of <profile> tags"
    return None


def _is_log_likelihood(answer: str) -> bool:
    try:
        number = float(answer)
    except ValueError:
        return False
    return math.isfinite(number) and number <= 0 and repr(number) == answer


def export_line(row: Row) -> str:
    """Return a row as a line of an export, an object as JSON.

    Args:
        row: A valid row.
    """
    return json_text({name: getattr(row, name) for name in _EXPORTED}) + "\n"


def parse_line(line: bytes) -> Row:
    """Read a line of an export.

    Args:
        line: An object as JSON.

    Raises:
        ValueError: If it is not a valid row.
    """
    values = json.loads(line)  # JSONDecodeError and UnicodeDecodeError are ValueErrors
    kinds = {name: Row.__annotations__[name] for name in _EXPORTED}
    if not isinstance(values, dict) or values.keys() != kinds.keys():
        raise ValueError(f"expected an object with the keys {', '.join(kinds)}")
    for name, kind in kinds.items():
        if type(values[name]) is not kind:
            raise ValueError(f"{name} must be {'a text' if kind is str else 'a whole number'}")
        if kind is str:
            values[name].encode()  # UnicodeEncodeError, of half a character, is a ValueError
    row = Row(answer_key(values["fingerprint"], values["prompt"]), **values)
    if (wrong := fault(row)) is not None:
        raise ValueError(wrong)
    return row


@lru_cache(maxsize=64)
def _scoring(fingerprint: str) -> str:
    """How the scores of a ``LanguageModelScorer`` are kept; empty if somebody else made the fingerprint."""
    try:
        parts = json.loads(fingerprint)
    except (ValueError, RecursionError):
        return ""
    scoring = parts.get("scoring", "") if isinstance(parts, dict) else ""
    return scoring if isinstance(scoring, str) else ""
