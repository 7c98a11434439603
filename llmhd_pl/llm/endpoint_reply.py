"""Reads what a server with OpenAI's protocol has answered. Everything in it is foreign, so everything is checked."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from llmhd_pl.llm.endpoint_faults import Cause
from llmhd_pl.llm.texts import approximate_tokens
from llmhd_pl.llm.token_probabilities import Position

MOST_BYTES = 4_000_000
"""The most of a body that is read. A chat completion of 256 tokens with 20 candidates each has an eighth."""
_MOST_TOKENS = 10**7  # no model reads or writes more at once: a count above is a fault of the server's
_ROUNDING = 0.01  # by which a probability of a server that computes with few bits may exceed 1

# A thought begins and ends with a tag or a special token whose name says so: <think>, [THINK], <|START_THINKING|>, ...
_NAME = r"[\w:. -]{0,30}(?:think|thought|reason|analysis|reflect|scratchpad)[\w:. -]{0,30}"
_OPEN = re.compile(rf"[<\[◁]\|?{_NAME}\|?[>\]▷]|<\|channel\|>(?!final)|analysis(?=[A-Z])", re.IGNORECASE)
_CLOSED = re.compile(rf"[<\[◁](?:/\|?|\|/|\|END_){_NAME}\|?[>\]▷]", re.IGNORECASE)
# The final channel of OpenAI's open models, with its special tokens or without them.
_FINAL = re.compile(r"<\|channel\|>final[^<]*<\|message\|>|(?<!\s)assistantfinal")
_LAST = re.compile(r"<\|(?:return|end)\|>\s*$")


@dataclass(frozen=True)
class EndpointReply:
    """What came back for one prompt.

    Attributes:
        text: The answer without the thoughts before it; the thought itself if there is nothing else. None if there was
            a fault.
        thinks: Whether there is a thought and nothing else.
        positions: The tokens of the answer with their probabilities; None if the server gave none that can be used.
        no_probabilities: Why there are none.
        prompt_tokens: The tokens of the prompt.
        answer_tokens: The tokens of the answer.
        cause: What kind of fault there was; None if there was none.
        fault: What went wrong; empty if nothing did.
    """

    text: str | None = None
    thinks: bool = False
    positions: list[Position] | None = None
    no_probabilities: str = "its answers hold none that can be used"
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cause: Cause | None = None
    fault: str = ""


def read(body: str, prompt: str) -> EndpointReply:
    """Read a server's answer; anything but the protocol's JSON is a fault.

    Args:
        body: The body of the answer.
        prompt: The prompt, whose tokens are estimated if the server does not count them.
    """
    if len(body) > MOST_BYTES:
        return EndpointReply(cause="garbage", fault=f"the answer is longer than {MOST_BYTES:,} bytes: {body!r}")
    try:
        answer = json.loads(body, parse_int=_integer)
        choice = answer["choices"][0]
        message = choice["message"]
        text, thought = _text(message)
    except (ValueError, RecursionError, LookupError, TypeError):
        return EndpointReply(cause="garbage", fault=f"the answer is not a chat completion: {body!r}")
    text, thinks = without_thoughts(text) if text.strip() else (f"<think>{thought}", True) if thought else (text, False)
    # Servers leave special tokens out of texts, and the tags of the score are special tokens of Llama 2 and Mistral.
    if bare := re.fullmatch(r"(?:<s>)?([0-9]+)(?:</s>)?", text.strip()):
        text = f"<s>{bare[1]}</s>"
    usage = answer.get("usage")
    return EndpointReply(
        text,
        thinks,
        _positions(choice),
        prompt_tokens=_tokens(usage, "prompt_tokens", prompt),
        answer_tokens=_tokens(usage, "completion_tokens", text),
    )


def without_thoughts(text: str) -> tuple[str, bool]:
    """Return an answer without the thoughts that it begins with, and whether there is nothing else.

    Args:
        text: What a model wrote. A thought that it did not finish is returned as it is.
    """
    if final := list(_FINAL.finditer(text)):
        rest = text[final[-1].end() :]
    elif closed := list(_CLOSED.finditer(text)):  # the opening tag may have been part of the prompt
        rest = text[closed[-1].end() :]
    else:
        return text, _OPEN.match(text.strip()) is not None
    rest = _LAST.sub("", rest).strip()
    return (rest, False) if rest else (text, True)


def _text(message: object) -> tuple[str, str]:
    """Return the content of a message, and the thought that some servers keep apart from it.

    Raises:
        LookupError: If there is no content.
        TypeError: If there is neither a content nor a thought that is a text, or if it is no message.
    """
    if not isinstance(message, dict):
        raise TypeError("message is not an object")
    thought = next((message[key] for key in ("reasoning_content", "reasoning") if _is_text(message.get(key))), "")
    content = message.get("content")
    if isinstance(content, list):  # of parts, some of which may be thoughts
        parts = [part["text"] for part in content if part["type"] in ("text", "output_text")]
        thought = thought or ("..." if len(parts) < len(content) else "")
        content = "".join(parts)
    if content is None and _is_text(message.get("refusal")):
        content = message["refusal"]
    if content is None and thought:
        content = ""
    if not isinstance(content, str):
        raise TypeError("content is not a text")
    # JSON can contain half a character, whose tokens cannot be counted.
    return content.encode(errors="replace").decode(), thought.encode(errors="replace").decode()


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)  # Python refuses to read integers of 4,300 digits


def _positions(choice: dict[str, Any]) -> list[Position] | None:
    positions: list[Position] = []
    try:
        for entry in choice["logprobs"]["content"]:
            written = _candidate(entry)
            candidates = [_candidate(each) for each in entry["top_logprobs"]]
            if candidates and written[0] not in {token for token, _ in candidates}:
                candidates.append(written)
            positions.append((written[0], candidates))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return positions


def _candidate(entry: dict[str, Any]) -> tuple[str, float]:
    token, logprob = entry["token"], entry["logprob"]
    if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        raise TypeError("token is not a text, or logprob no number")
    probability = math.exp(min(logprob, 1.0))
    if not probability <= 1 + _ROUNDING:  # NaN is not, either
        raise ValueError("not the logarithm of a probability")
    return token, min(probability, 1.0)


def _tokens(usage: object, name: str, text: str) -> int:
    """Return the server's count of tokens, or an estimate if there is none that can be right."""
    count = usage.get(name) if isinstance(usage, dict) else None
    if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= _MOST_TOKENS:
        return count
    return approximate_tokens(text)
