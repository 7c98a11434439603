"""EndpointScorer: a language model behind a server that speaks OpenAI's protocol."""

import json
import math
import os
import re
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llmhd_pl.llm.language_model import _RATED, LanguageModelScorer, Rating, Scoring
from llmhd_pl.llm.prompts import T_SCORE, approximate_tokens, parse_score

_TOP = 20  # the most candidates per token that OpenAI's protocol allows
_CONNECT_SECONDS = 10.0  # a server that works takes up a connection at once, however long it thinks
_ENOUGH = 8  # prompts of which not one is answered: the fault is not theirs
_NO_KEY = "none"  # the client insists on a key; servers without authentication do not look at it

Position = tuple[str, list[tuple[str, float]]]
"""A token that the model wrote, and the candidates for its place, itself among them, with their probabilities; no
candidates where the server gave none."""


class EndpointScorer(LanguageModelScorer):
    """A language model on a server with OpenAI's chat completions: vLLM, SGLang, llama.cpp, OpenAI and others.

    With ``scoring="expected"`` one answer per pair is generated with the probabilities of its tokens, and the score
    is the mean of 1 to 10 under them: see ``expected_of_candidates``. An answer that comes without probabilities is
    read as ``<s>N</s>``. That is announced by a warning, counted in ``read_from_text`` and marked in the cache, so
    that a run that takes such an answer from there announces and counts it too.

    Retried, with exponential backoff or as the server's ``Retry-After`` says (up to two minutes): failed connections,
    timeouts, 408, 409, 429 and 5xx. What still fails then, every other 4xx and every answer that is not the protocol's
    JSON is an unanswered prompt that cost no tokens; the first one of each kind is announced by a warning.

    Models that refuse ``max_tokens`` or a temperature of 0, as OpenAI's newer ones do, are asked with
    ``max_completion_tokens`` and at their own temperature; the latter is announced, since answers then vary.

    The server's ``usage`` is what counts; where it is missing, and for the budget before a batch is asked, a token is
    taken to be four bytes. So the budget can be overdrawn by what one batch was estimated too low.

    The fingerprint holds the name of the model, not the server: another model under the same name needs another cache.

    Args:
        model: its name on the server.
        base_url: of the server, such as ``http://localhost:8000/v1``.
        api_key: None takes the environment variable OPENAI_API_KEY; without either, the server is taken to need none.
            Prefer the variable: a key that is given here stands in the saved configuration of the run.
        concurrency: most requests in flight at once.
        timeout: seconds without a sign of life after which a request has failed.
        retries: further tries of a request that failed.
        prompts: see ``LanguageModelScorer``, as for all that follow.
        scoring: "expected" or "generate".
        cache: file of the answers.
        replay: answer from the cache alone.
        max_tokens: budget of tokens.
        item_tokens: longest profile of an item.
        history_tokens: longest history that is summarised.
        seed: seed of the sampling of longer histories.

    Raises:
        ValueError: an argument that makes no sense.
        ImportError: openai is not installed; raised when the server is first asked, as what follows.
        RuntimeError: the server refuses the key (401, 403) or knows no such model or address (404), or none of the
            first eight or more prompts that are asked at once got an answer.
        ConnectionError: no request of the first batch got any answer.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout: float = 120.0,
        retries: int = 4,
        prompts: str = "neutral",
        scoring: Scoring = "expected",
        cache: str | None = None,
        replay: bool = False,
        max_tokens: int | None = None,
        item_tokens: int = 64,
        history_tokens: int = 1024,
        seed: int = 0,
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
        super().__init__(prompts, scoring, cache, replay, max_tokens, item_tokens, history_tokens, seed)
        self.model, self.base_url, self._api_key = model, base_url, api_key
        self.chunk = max(self.chunk, 4 * concurrency)  # so that the last requests of a chunk keep few others waiting
        self.concurrency, self.timeout, self.retries = concurrency, timeout, retries
        self.read_from_text = 0
        """Scores that ``scoring="expected"`` had to read from the text, those in the cache included."""
        self._reached = self._answered = False
        self._length = "max_tokens"
        self._varying = ""  # why the temperature is not 0
        self._gives_probabilities = True
        self._announced: set[str] = set()

    @property
    def model_fingerprint(self) -> dict[str, str]:
        """The model's name, and that it was asked through a server."""
        return {"model": self.model, "protocol": "chat completions"}

    rated_tokens = _RATED

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, approximately: the protocol has no way to ask."""
        return approximate_tokens(text)

    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
        """Completions at temperature 0, in the order in which they arrive."""
        for number, reply in self._replies(prompts, max_new_tokens, probabilities=False):
            yield number, reply.text, reply.prompt_tokens, reply.answer_tokens

    def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Rating]:
        """Expected scores, in the order in which they arrive; int where one is read from the text."""
        places = [(group, ending) for group, (_, endings) in enumerate(groups) for ending in range(len(endings))]
        prompts = [groups[group][0] + groups[group][1][ending] for group, ending in places]
        for index, reply in self._replies(prompts, self.rated_tokens, probabilities=True):
            score = _score(reply)
            if score is None and reply.text is not None:
                self.refused = reply.text
            if isinstance(score, int):
                self._count_read_from_text(1, reply.no_probabilities)
            yield Rating(*places[index], score, reply.prompt_tokens, reply.answer_tokens)

    def _known(self, template: str, prompts: Sequence[str]) -> dict[str, str]:
        found = super()._known(template, prompts)
        if template == T_SCORE and self.scoring == "expected":
            # The mark: an int is kept as "7", the mean under probabilities as "7.0".
            self._count_read_from_text(sum("." not in answer for answer in found.values()), "they are in the cache")
        return found

    def _count_read_from_text(self, count: int, why: str) -> None:
        self.read_from_text += count
        if count:
            self._announce(
                "text",
                f"Scores of {self.model} are whole numbers read from its answers instead of means under the "
                f"probabilities of its tokens: the server gave none ({why}). read_from_text counts them.",
            )

    def _announce(self, kind: str, message: str) -> None:
        if kind not in self._announced:
            self._announced.add(kind)
            warnings.warn(message, stacklevel=2)

    def _replies(
        self, prompts: Sequence[str], max_new_tokens: int, probabilities: bool
    ) -> Iterator[tuple[int, "_Reply"]]:
        """The number of each prompt and its reply, as they arrive."""
        _ = self._client  # made before there are threads
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
            # Waits for what is in flight, or the next call would have more than ``concurrency``.
            pool.shutdown(cancel_futures=True)
        if prompts and not self._reached:
            raise ConnectionError(
                f"None of {len(prompts)} requests to {self.base_url} got an answer ({fault}). Check that the server "
                "runs and has loaded its model, that base_url is right (most end in /v1), and that no proxy is in "
                "between; if the server is only slow, lower concurrency or raise timeout."
            )
        if len(prompts) >= _ENOUGH and not self._answered:
            raise RuntimeError(
                f"{self.base_url} answered none of {len(prompts)} prompts to {self.model!r} ({fault}). Ask it one by "
                "hand. A model that thinks before it answers needs more tokens than a score has: take one that does "
                "not, or turn its thinking off on the server."
            )

    def _request(self, prompt: str, max_new_tokens: int, probabilities: bool) -> "_Reply":
        """Ask one prompt; runs in a thread. Retries are the client's."""
        import openai

        probabilities = probabilities and self._gives_probabilities
        length, varying = self._length, self._varying
        options = {length: max_new_tokens}
        if not varying:
            options["temperature"] = 0
        if probabilities:
            options |= {"logprobs": True, "top_logprobs": _TOP}
        try:
            response = self._client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                extra_body=options,
            )
        except openai.APIConnectionError as error:
            kind = "timeout" if isinstance(error, openai.APITimeoutError) else "connection"
            return _Reply(kind=kind, fault=f"{error} {error.__cause__ or ''}".strip(), reached=False)
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
            return _Reply(kind=str(status), fault=message)
        return _read(response.http_response.text, prompt)

    @cached_property
    def _client(self) -> Any:
        try:
            from openai import OpenAI, Timeout
        except ImportError as error:
            raise ImportError(
                "EndpointScorer needs openai: pip install -c constraints.txt -e '.[endpoint]'."
            ) from error
        return OpenAI(
            api_key=self._api_key or os.environ.get("OPENAI_API_KEY") or _NO_KEY,
            base_url=self.base_url,
            timeout=Timeout(self.timeout, connect=min(self.timeout, _CONNECT_SECONDS)),
            max_retries=self.retries,
        )


def expected_of_candidates(positions: Sequence[Position], number: int) -> float | None:
    """The mean of 1 to 10 under the probabilities that the model gave the ten answers at the place of the number.

    Read is the place where the number that was written begins; candidates that are none of the ten answers are left
    out. Where "10" is written as "1" and "0", a candidate "1" may become either, which the next place tells:

    * The model wrote "1" or "10": the next place divides the probability of "1" between 1 and 10.
    * It wrote something else: the next place belongs to another answer. If "10" is itself a candidate, "1" is 1.
      Otherwise "1" counts as the end of the scale that the other answers lean to: as 10 if their mean is above 5.5.

    Args:
        positions: the tokens of the answer, in order.
        number: what was written, 1 to 10.

    Returns:
        1 to 10, or None where the tokens do not end in that number or its place has fewer than two candidates.
    """
    numbers = list(re.finditer(r"[0-9]+", "".join(token for token, _ in positions)))
    if not numbers or numbers[-1][0] != str(number):
        return None
    place = start = 0
    while start + len(positions[place][0]) <= numbers[-1].start():
        start += len(positions[place][0])
        place += 1
    token, candidates = positions[place]
    if len(candidates) < 2:
        return None  # not a distribution: its mean would be the number itself, and pass for more than that
    lead = token[: numbers[-1].start() - start].strip()  # a token may be ">7"
    mass, one = defaultdict[int, float](float), 0.0
    for candidate, probability in candidates:
        text = candidate.strip()
        rest = text.removeprefix(lead).lstrip() if text.startswith(lead) else ""
        if rest == "1":
            one += probability
        elif match := re.match(r"(10|[1-9])(?![0-9])", rest):
            mass[int(match[1])] += probability
    if one:
        share = _share_of_ten(mass, number, token.strip().removeprefix(lead).lstrip() == "1", positions[place + 1 :])
        mass[1] += one * (1 - share)
        mass[10] += one * share
    total = sum(mass.values())
    if not total > 0:  # NaN is not, either
        return None
    return sum(answer * probability for answer, probability in mass.items()) / total


def _share_of_ten(mass: dict[int, float], number: int, wrote_one: bool, later: Sequence[Position]) -> float:
    if wrote_one:
        following = later[0][1] if later else []
        zero = sum(probability for candidate, probability in following if candidate.startswith("0"))
        end = sum(probability for candidate, probability in following if not candidate[:1].isdigit())
        return zero / (zero + end) if zero + end else float(number == 10)
    total = sum(mass.values())
    if 10 in mass or not total:
        return 0.0
    return float(sum(answer * probability for answer, probability in mass.items()) / total > 5.5)


@dataclass(frozen=True)
class _Reply:
    """What came back for one prompt; the text is None where there is a fault."""

    text: str | None = None
    positions: list[Position] | None = None
    no_probabilities: str = "its answers hold none that can be used"
    prompt_tokens: int = 0
    answer_tokens: int = 0
    kind: str = ""
    fault: str = ""
    reached: bool = True


def _read(body: str, prompt: str) -> _Reply:
    """Read a server's answer; what is not the protocol's JSON is a fault."""
    try:
        answer = json.loads(body)
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        if not isinstance(text, str):
            raise TypeError("content is not a text")
    except (ValueError, RecursionError, LookupError, TypeError):
        return _Reply(kind="garbage", fault=f"the answer is not a chat completion: {_short(body)!r}")
    text = text.encode(errors="replace").decode()  # JSON can carry half a character, whose tokens cannot be counted
    # Servers leave special tokens out of texts, and the tags of the score are special tokens of Llama 2 and Mistral.
    if bare := re.fullmatch(r"(?:<s>)?([0-9]+)(?:</s>)?", text.strip()):
        text = f"<s>{bare[1]}</s>"
    usage = answer.get("usage")
    return _Reply(
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


def _score(reply: _Reply) -> float | None:
    """A float from the probabilities, an int from the text; None where the text is not a score."""
    number = None if reply.text is None else parse_score(reply.text)
    if number is None or reply.positions is None:
        return number
    expected = expected_of_candidates(reply.positions, number)
    return number if expected is None else expected


def _tokens(usage: object, name: str, text: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count >= 0 else approximate_tokens(text)


def _short(text: str) -> str:
    return textwrap.shorten(text, 300, placeholder="...")
