"""EndpointClient: sends prompts to a server that speaks OpenAI's protocol and reads what comes back."""

import json
import math
import os
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llmhd_pl.llm.texts import approximate_tokens
from llmhd_pl.llm.token_probabilities import Position

_TOP = 20  # the most candidates per token that OpenAI's protocol allows
_CONNECT_SECONDS = 10.0  # a working server accepts a connection at once, however long it thinks
_ENOUGH = 8  # if not one of so many prompts is answered, the fault is not theirs
_NO_KEY = "none"  # the client insists on a key; servers without authentication do not look at it


@dataclass(frozen=True)
class EndpointReply:
    """What came back for one prompt.

    Attributes:
        text: The answer; None if there was a fault.
        positions: The tokens of the answer with their probabilities; None if the server gave none that can be used.
        no_probabilities: Why there are none.
        prompt_tokens: The tokens of the prompt.
        answer_tokens: The tokens of the answer.
        kind: The kind of fault; the first fault of each kind is announced by a warning.
        fault: What went wrong; empty if nothing did.
        reached: Whether the server was reached at all.
    """

    text: str | None = None
    positions: list[Position] | None = None
    no_probabilities: str = "its answers hold none that can be used"
    prompt_tokens: int = 0
    answer_tokens: int = 0
    kind: str = ""
    fault: str = ""
    reached: bool = True


class EndpointClient:
    """Asks a model on a server with OpenAI's chat completions; ``EndpointScorer`` describes retries and faults.

    Args:
        model: The name of the model on the server.
        base_url: The address of the server.
        api_key: The key. None takes the environment variable OPENAI_API_KEY, or no key if that is not set.
        concurrency: The most requests in flight at once.
        timeout: The seconds without a sign of life after which a request has failed.
        retries: The number of further tries of a request that failed.

    Raises:
        ValueError: If an argument makes no sense.
    """

    def __init__(
        self, model: str, base_url: str, api_key: str | None, concurrency: int, timeout: float, retries: int
    ) -> None:
        if not model:
            raise ValueError("model is empty; give the name under which the server knows the model.")
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url is {base_url!r}; it must begin with http:// or https://.")
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; at least 1 request must be allowed.")
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout is {timeout}; it must be a positive number of seconds.")
        if retries < 0:
            raise ValueError(f"retries is {retries}; it must be at least 0.")
        self.model, self.base_url, self._api_key = model, base_url, api_key
        self.concurrency, self.timeout, self.retries = concurrency, timeout, retries
        self._reached = self._answered = False
        self._length = "max_tokens"  # what this model calls the limit of an answer
        self._varying = ""  # why the temperature is not 0; empty if it is
        self._gives_probabilities = True
        self._announced: set[str] = set()

    def replies(
        self, prompts: Sequence[str], max_new_tokens: int, probabilities: bool
    ) -> Iterator[tuple[int, EndpointReply]]:
        """Ask prompts at temperature 0.

        Args:
            prompts: The prompts.
            max_new_tokens: The most tokens of an answer.
            probabilities: Whether to ask for the probabilities of the tokens too.

        Yields:
            The number of each prompt and the reply, in the order in which the replies arrive.

        Raises:
            ImportError: If openai is not installed.
            RuntimeError: If the server refuses the key (401, 403) or knows no such model or address (404), or if none
                of the first eight or more prompts got an answer.
            ConnectionError: If no request of the first batch got any answer.
        """
        _ = self._openai  # created before there are threads
        fault = "its answers are empty"
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            futures = {
                pool.submit(self._request, prompt, max_new_tokens, probabilities): number
                for number, prompt in enumerate(prompts)
            }
            for future in as_completed(futures):
                reply = future.result()
                self._reached |= reply.reached
                self._answered |= bool(reply.text)
                if self._varying:
                    self._announce(
                        "temperature", f"{self.base_url}: {self._varying} Answers vary; a cache file keeps them."
                    )
                if reply.fault:
                    fault = reply.fault
                    self._announce(
                        reply.kind,
                        f"{self.base_url}: {fault}. The prompt counts as unanswered, as do others that fail this way.",
                    )
                yield futures[future], reply
        finally:
            # Wait for what is in flight, or the next call would have more than ``concurrency`` requests.
            pool.shutdown(cancel_futures=True)
        if prompts and not self._reached:
            raise ConnectionError(
                f"None of {len(prompts)} requests to {self.base_url} got an answer ({fault}). Check that the server "
                "runs and has loaded its model, that base_url is right (most end in /v1), and that no proxy is in "
                "between; if the server is only slow, lower concurrency or raise timeout."
            )
        if len(prompts) >= _ENOUGH and not self._answered:
            raise RuntimeError(
                f"{self.base_url} answered none of {len(prompts)} prompts to {self.model!r} ({fault}). Try one by "
                "hand. A model that thinks before it answers needs more tokens than a score has: use one that does "
                "not, or turn its thinking off on the server."
            )

    def _announce(self, kind: str, message: str) -> None:
        if kind not in self._announced:
            self._announced.add(kind)
            warnings.warn(message, stacklevel=2)

    def _request(self, prompt: str, max_new_tokens: int, probabilities: bool) -> EndpointReply:
        """Ask one prompt. This runs in a thread; the openai package does the retries."""
        import openai

        probabilities = probabilities and self._gives_probabilities
        length, varying = self._length, self._varying
        options = {length: max_new_tokens}
        if not varying:
            options["temperature"] = 0
        if probabilities:
            options |= {"logprobs": True, "top_logprobs": _TOP}
        try:
            response = self._openai.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                extra_body=options,
            )
        except openai.APIConnectionError as error:
            kind = "timeout" if isinstance(error, openai.APITimeoutError) else "connection"
            return EndpointReply(kind=kind, fault=f"{error} {error.__cause__ or ''}".strip(), reached=False)
        except openai.APIStatusError as error:
            status, message = error.status_code, _short(error.message)
            if status in (401, 403):
                raise RuntimeError(
                    f"{self.base_url} refuses the key ({message}). Set the environment variable OPENAI_API_KEY, or "
                    "api_key, to one that may use the model."
                ) from error
            if status == 404:
                raise RuntimeError(
                    f"{self.base_url} knows no model {self.model!r}, or not this address ({message}). "
                    f"{self.base_url.rstrip('/')}/models lists its models; most base_urls end in /v1."
                ) from error
            if error.param == "max_tokens" == length and error.code == "unsupported_parameter":
                self._length = "max_completion_tokens"
                return self._request(prompt, max_new_tokens, probabilities)
            if error.param == "temperature" and not varying and error.code == "unsupported_value":
                self._varying = message
                return self._request(prompt, max_new_tokens, probabilities)
            if probabilities and status in (400, 422) and "logprobs" in error.message:
                self._gives_probabilities = False  # one refusal is enough
                reply = self._request(prompt, max_new_tokens, probabilities=False)
                return replace(reply, no_probabilities=message)
            return EndpointReply(kind=str(status), fault=message)
        return _read(response.http_response.text, prompt)

    @cached_property
    def _openai(self) -> Any:
        try:
            from openai import OpenAI, Timeout
        except ImportError as error:
            raise ImportError("EndpointScorer needs openai: pip install 'llmhd-pl[endpoint]'.") from error
        return OpenAI(
            api_key=self._api_key or os.environ.get("OPENAI_API_KEY") or _NO_KEY,
            base_url=self.base_url,
            timeout=Timeout(self.timeout, connect=min(self.timeout, _CONNECT_SECONDS)),
            max_retries=self.retries,
        )


def _read(body: str, prompt: str) -> EndpointReply:
    """Read a server's answer; anything but the protocol's JSON is a fault."""
    try:
        answer = json.loads(body)
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        if not isinstance(text, str):
            raise TypeError("content is not a text")
    except (ValueError, RecursionError, LookupError, TypeError):
        return EndpointReply(kind="garbage", fault=f"the answer is not a chat completion: {_short(body)!r}")
    text = text.encode(errors="replace").decode()  # JSON can contain half a character, whose tokens cannot be counted
    # Servers leave special tokens out of texts, and the tags of the score are special tokens of Llama 2 and Mistral.
    if bare := re.fullmatch(r"(?:<s>)?([0-9]+)(?:</s>)?", text.strip()):
        text = f"<s>{bare[1]}</s>"
    usage = answer.get("usage")
    return EndpointReply(
        text,
        _positions(choice),
        prompt_tokens=_tokens(usage, "prompt_tokens", prompt),
        answer_tokens=_tokens(usage, "completion_tokens", text),
    )


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
    if not isinstance(entry["token"], str):
        raise TypeError("token is not a text")
    return entry["token"], math.exp(min(entry["logprob"], 0.0))


def _tokens(usage: object, name: str, text: str) -> int:
    """Return the server's count of tokens, or an estimate if there is none."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count >= 0 else approximate_tokens(text)


def _short(text: str) -> str:
    return textwrap.shorten(text, 300, placeholder="...")
