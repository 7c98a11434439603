"""What a server's refusal means: whose fault it is, what helps, and which option of the request it is about."""

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

Cause = Literal["connection", "rate", "server", "garbage", "prompt", "quota", "key", "address", "redirect"]
"""Whose fault it is: no answer arrived, the server is asked too fast, it fails, something else than a model answers, it
refuses this prompt, the money is used up, the key or the model or the address is wrong, the server is elsewhere."""

OUTAGES: tuple[Cause, ...] = ("connection", "rate", "server", "garbage")
"""Faults that no prompt has caused, and that may pass."""

FATAL: tuple[Cause, ...] = ("quota", "key", "address", "redirect")
"""Faults with which no further question can succeed."""

ADVICE: dict[Cause, str] = {
    "connection": "Check that the server runs and has loaded its model, that base_url is right (most end in /v1), and "
    "that no proxy is in between; if the server is only slow, lower concurrency or raise timeout.",
    "rate": "It is asked more than it allows: lower concurrency or raise retries.",
    "server": "The server itself fails: look at its log; if it has too much to do, lower concurrency.",
    "garbage": "Something else than a model seems to answer: check base_url (most end in /v1), and that no proxy is in "
    "between.",
    "prompt": "Try one by hand.",
    "quota": "The quota is used up: nothing more is asked. Raise the limit, or add credit, with the provider "
    "that issued the key.",
    "key": "The key is refused. Set the environment variable OPENAI_API_KEY, or api_key, to one that may use the "
    "model.",
    "address": "It knows no such model, or not this address. {base_url}/models lists its models; most base_urls end in "
    "/v1.",
    "redirect": "Redirects are not followed, because the key would go elsewhere: give the final address as base_url.",
}
"""What helps; ``{base_url}`` stands for the address."""

RESUME = "Answers that were paid for are in the cache, if there is one; resume from the last checkpoint."
THINKING = (
    "The model thinks before it answers, and the limit of an answer leaves no room for that. Turn its thinking off on "
    'the server (vLLM: --default-chat-template-kwargs \'{"enable_thinking": false}\'; others: reasoning_effort "none" '
    "or a switch of theirs), or use a model that does not think."
)

MOST_WAIT = 120.0
"""The most seconds that are waited because a server asks for it with ``Retry-After``."""
_PASSING = (408, 409, 425, 429)
_MONEY = re.compile(
    r"quota|billing|payment|prepaid|credits?\b|balance\b|per[ -](?:day|month)|monthly|daily", re.IGNORECASE
)
_SURELY_MONEY = re.compile(r"insufficient[ _-]?(?:quota|balance|credit|fund)|billing_|credit balance", re.IGNORECASE)
_SOON = re.compile(r"per[ _-]?(?:min|sec)|(?:retry|try again) (?:in|after) \d|\b[rt]pm\b|\bqps\b", re.IGNORECASE)
_ABOUT_THE_PROMPT = re.compile(r"prompt|context|too (?:long|large)|length|messages?\b", re.IGNORECASE)
_SHOWN, _SEARCHED = 20_000, 100_000  # characters of an error's body: of what it says to people, and of its words


@dataclass(frozen=True)
class Options:
    """How a request is worded; a server may refuse any of it.

    Attributes:
        length: What the limit of an answer is called.
        greedy: Whether a temperature of 0 is asked for.
        top: The number of candidates per token whose probabilities are asked for; 0 asks for none.
    """

    length: str = "max_tokens"
    greedy: bool = True
    top: int = 20  # the most that OpenAI's protocol allows

    def body(self, max_new_tokens: int) -> dict[str, Any]:
        """Return the options in the words of the protocol.

        Args:
            max_new_tokens: The most tokens of an answer.
        """
        body: dict[str, Any] = {self.length: max_new_tokens}
        if self.greedy:
            body["temperature"] = 0
        if self.top:
            body |= {"logprobs": True, "top_logprobs": self.top}
        return body

    def both(self, other: "Options") -> "Options":
        """Return what neither this nor the other leaves out.

        Args:
            other: Other options.
        """
        length = other.length if self.length == "max_tokens" else self.length
        return Options(length, self.greedy and other.greedy, min(self.top, other.top))

    def without_what_is_named(self, words: str) -> "Options | None":
        """Return simpler options: without the one that a refusal names first, or with fewer candidates.

        Args:
            words: The words of the refusal.

        Returns:
            The options, or None if the refusal names none that can be left out.
        """
        places = {}
        if self.top and (match := re.search(r"log[ _-]?prob", words, re.IGNORECASE)):
            places[match.start()] = replace(self, top=_fewer(words, self.top))
        if self.greedy and (match := re.search("temperature", words, re.IGNORECASE)):
            places[match.start()] = replace(self, greedy=False)
        match = re.search(r"max_(?:completion_|output_|new_)?tokens", words, re.IGNORECASE)
        # A prompt that is too long is often refused as "prompt and max_tokens exceed the context".
        if self.length == "max_tokens" and match and not re.search(r"context|too long", words, re.IGNORECASE):
            places[match.start()] = replace(self, length="max_completion_tokens")
        return places[min(places)] if places else None

    def variants(self) -> "list[Options]":
        """Return what to try if a refusal names nothing: without each option that can be left out, and without all."""
        each = [replace(self, top=0), replace(self, greedy=False), replace(self, length="max_completion_tokens")]
        every = Options("max_completion_tokens", greedy=False, top=0)
        return [options for options in dict.fromkeys([*each, every]) if options != self]


def _fewer(words: str, top: int) -> int:
    """Return how many candidates to ask for after a refusal: as many as it names, a few, or none."""
    numbers = [int(number) for number in re.findall(r"(?<![\w.,-])\d{1,3}(?![\w-]|[.,]\d)", words)]
    allowed = max((number for number in numbers if 2 <= number < top), default=0)
    if allowed:
        return allowed
    limited = r"more than|at most|less|greater|maxim|\bmax\b|between|exceed|range|limit|too many|too large|fewer"
    if top > 2 and re.search(limited, words, re.IGNORECASE):
        return 5 if top > 5 else top - 1 if top in numbers else 2
    return 0


def cause_of(status: int, words: str, retry_after: float | None) -> Cause:
    """Return whose fault it is that a request was refused.

    Args:
        status: The status of the answer.
        words: Its words.
        retry_after: The seconds after which the server wants to be asked again, if it says so.
    """
    if status == 402 or (_SURELY_MONEY.search(words) and (status == 429 or not _ABOUT_THE_PROMPT.search(words))):
        return "quota"
    soon = _SOON.search(words) or (retry_after is not None and retry_after <= MOST_WAIT)
    if status in (403, 429) and _MONEY.search(words) and not soon:
        return "quota"
    if 300 <= status < 400:
        return "redirect"
    if status in (401, 403):
        return "key"
    if status == 404:
        return "address"
    if status in (425, 429):
        return "rate"
    if status >= 500 or status in _PASSING:
        return "server"
    return "prompt"


def passes(status: int) -> bool:
    """Return whether a refusal with this status may pass, so that it is worth another try."""
    return status in _PASSING or (status >= 500 and status != 501)


def may_be_about_options(status: int, words: str) -> bool:
    """Return whether a refusal that names no option may be about one.

    Args:
        status: The status of the answer.
        words: Its words.
    """
    return status in (400, 405, 406, 422, 501) and not _ABOUT_THE_PROMPT.search(words)


def words_of(body: str) -> str:
    """Return all texts in an error's body, wherever they stand in it; what it is about comes first.

    Args:
        body: JSON of any form, a text, or HTML. An echo of the request is left out.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body[:_SEARCHED]
    words: list[str] = []
    try:
        _collect(value, words)
    except RecursionError:
        return body[:_SEARCHED]
    return " ".join(words)[:_SEARCHED]


def _collect(value: Any, words: list[str]) -> None:
    if isinstance(value, str):
        words.append(value)
    elif isinstance(value, list):
        for each in value:
            _collect(each, words)
    elif isinstance(value, dict):
        for key in sorted(value, key=lambda key: key != "param"):
            if key not in ("input", "body", "request"):
                _collect(value[key], words)


def message_of(body: str) -> str:
    """Return what an error's body says to people.

    Args:
        body: JSON of any form, a text, or HTML.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        html = body[:_SHOWN]
        text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", html, flags=re.DOTALL | re.IGNORECASE)
        return text if text.strip() else html
    for _ in range(5):
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, dict):
            value = next((value[key] for key in ("error", "message", "detail", "msg", "title") if value.get(key)), None)
        if isinstance(value, str) and value.strip():
            return value
    return body
