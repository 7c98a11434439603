"""EndpointClient: asks prompts of a server that speaks OpenAI's protocol, and notices when it is no use to go on."""

import asyncio
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import replace
from typing import cast

from llmhd_pl.llm.endpoint_faults import (
    ADVICE,
    FATAL,
    OUTAGES,
    RESUME,
    THINKING,
    Cause,
    cause_of,
    message_of,
    words_of,
)
from llmhd_pl.llm.endpoint_http import Answer, open_connection, send
from llmhd_pl.llm.endpoint_reply import EndpointReply, read
from llmhd_pl.llm.endpoint_wording import Wording
from llmhd_pl.llm.first_answers import ENOUGH
from llmhd_pl.llm.secret import Secrets, without_password

_ADVICE = {
    "thought": THINKING,
    "empty": f"Try one by hand. {THINKING.replace('The model thinks', 'Perhaps the model thinks')}",
    "form": "Try one by hand: a larger model, or prompts in other words, may keep to the form.",
}
_NO_KEY = "none"  # openai insists on a key; servers without authentication do not look at it


class _Form:
    """Whether the model gives answers of one form, such as scores; if not, why."""

    def __init__(self) -> None:
        self.useful = False  # whether there was one
        self._useless = Counter[str]()  # answers before the first one, by what is wrong with them
        self._last: dict[str, str] = {}

    def add(self, reply: EndpointReply, is_useful: Callable[[str], bool]) -> None:
        """Take note of a reply."""
        self.useful = self.useful or (reply.text is not None and is_useful(reply.text))
        if not self.useful:
            text = reply.text or ""
            why = reply.cause or ("thought" if reply.thinks else "form" if text.strip() else "empty")
            self._useless[why] += 1
            self._last[why] = reply.fault or text

    def check(self, what: str, secrets: Secrets) -> None:
        """End the run if enough was asked and nothing was useful."""
        count = self._useless.total()
        if self.useful or count < ENOUGH:
            return
        ((why, _),) = self._useless.most_common(1)
        last = secrets.quote(self._last[why])
        self._useless.clear()
        example = f"its answers are not of the form that was asked for; one of them: {last!r}"
        fault = {"empty": "its answers are empty", "thought": example, "form": example}.get(why, last)
        raise RuntimeError(f"{what.format(count)} ({fault}). {_ADVICE.get(why) or ADVICE[cast(Cause, why)]} {RESUME}")


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
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; at least 1 request must be allowed.")
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout is {timeout}; it must be a positive number of seconds.")
        if retries < 0:
            raise ValueError(f"retries is {retries}; it must be at least 0.")
        self.base_url, self._basic, self._passwords = without_password(base_url)
        self.model, self._api_key = model, api_key
        self.concurrency, self.timeout, self.retries = concurrency, timeout, retries
        self._wording = Wording()
        self._forms = {"scores": _Form(), "texts": _Form()}
        self._failed_in_a_row = 0
        self._announced: set[str] = set()

    @property
    def secrets(self) -> Secrets:
        """What no message may show."""
        key = self._key
        return Secrets([*self._passwords, *([key] if key != _NO_KEY else [])])

    @property
    def _key(self) -> str:
        key = self._api_key or os.environ.get("OPENAI_API_KEY") or _NO_KEY
        if not (key.isascii() and key.isprintable()):
            raise ValueError(
                "The key (api_key, or the environment variable OPENAI_API_KEY) holds a line break or another character "
                "that no key has. Copy it anew."
            )
        return key

    def can_answer(self, form: str) -> None:
        """Take note that the model has given a useful answer before, as a cache shows.

        Args:
            form: "scores" or "texts".
        """
        self._forms[form].useful = True

    def replies(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        probabilities: bool,
        form: str,
        is_useful: Callable[[str], bool],
    ) -> Iterator[tuple[int, EndpointReply]]:
        """Ask prompts at temperature 0.

        Args:
            prompts: The prompts.
            max_new_tokens: The most tokens of an answer.
            probabilities: Whether to ask for the probabilities of the tokens too.
            form: What is asked for: "scores" or "texts".
            is_useful: Returns whether an answer is of that form.

        Yields:
            The number of each prompt and the reply, in the order in which the replies arrive.

        Raises:
            ImportError: If openai is not installed.
            ConnectionError: If no request got any answer, or none of eight in a row. That takes as long as one request
                with its tries, or as eight in turn if ``concurrency`` is 1.
            RuntimeError: If no further question can succeed: the server refuses the key, knows no such model or
                address, is elsewhere, asks for credit, or has failed to answer eight prompts in a row; or if none of
                the first eight or more answers of this form is useful.
        """
        if not prompts:
            return
        secrets = self.secrets
        connection = open_connection(self.base_url, self._key, self._basic, self.timeout)
        from anyio.from_thread import start_blocking_portal  # openai needs it, so it is there

        fatal: EndpointReply | None = None
        unreached = 0
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(connection):
            stop, slots = asyncio.Event(), asyncio.Semaphore(self.concurrency)

            async def ask(prompt: str) -> EndpointReply | None:
                async with slots:
                    answer = await self._wording.ask(
                        lambda options: send(
                            *(connection, self.model, prompt, options, max_new_tokens),
                            *(self.timeout, self.retries, stop),
                        ),
                        probabilities,
                    )
                    if answer.status == -1:
                        return None
                    reply = self._read(answer, prompt, secrets)
                    # Here, and not where replies are taken, because no further question may begin in between.
                    if not stop.is_set() and self._is_the_end(reply):
                        nonlocal fatal
                        fatal = reply
                        stop.set()
                    return reply

            futures = {portal.start_task_soon(ask, prompt): number for number, prompt in enumerate(prompts)}
            for future in as_completed(futures):
                reply = future.result()
                if reply is None or reply.cause in FATAL:
                    continue  # others may have been answered at the same time
                self._warn(reply, secrets)
                unreached += reply.cause == "connection"
                self._forms[form].add(reply, is_useful)
                yield futures[future], reply
                if fatal is None and unreached == len(prompts):
                    fatal = reply
        if fatal is not None:
            failed, self._failed_in_a_row = self._failed_in_a_row, 0
            raise self._error(fatal, failed)
        self._forms[form].check(f"{self.base_url} answered none of {{}} prompts to {self.model!r}", secrets)

    def _is_the_end(self, reply: EndpointReply) -> bool:
        """Count failures in a row; return whether no further question can succeed."""
        if reply.cause not in FATAL:
            self._failed_in_a_row = self._failed_in_a_row + 1 if reply.cause in OUTAGES else 0
        return reply.cause in FATAL or self._failed_in_a_row >= ENOUGH

    def _read(self, answer: Answer, prompt: str, secrets: Secrets) -> EndpointReply:
        """Return what an answer means; what it says is as a message may show it."""
        if 200 <= answer.status < 300:
            reply = read(answer.body, prompt)
            if reply.cause is None and self._wording.no_probabilities:
                reply = replace(reply, no_probabilities=secrets.quote(self._wording.no_probabilities))
            return replace(reply, fault=secrets.quote(reply.fault))
        if answer.status == 0:
            return EndpointReply(cause="connection", fault=secrets.quote(answer.body))
        body = secrets.mask_beginning(answer.body)
        message = answer.location or message_of(body) or "no message"
        cause = cause_of(answer.status, words_of(body), answer.retry_after)
        return EndpointReply(cause=cause, fault=f"status {answer.status}: {secrets.quote(message)}")

    def _warn(self, reply: EndpointReply, secrets: Secrets) -> None:
        if self._wording.varying:
            why = secrets.quote(self._wording.varying)
            self._announce("temperature", f"{self.base_url}: {why} Answers vary; a cache file keeps them.")
        if reply.cause is not None:
            self._announce(
                f"{reply.cause} {reply.fault[:10]}",  # with the status
                f"{self.base_url}: {reply.fault}. The prompt counts as unanswered, as do others that fail this way. "
                "They are asked again when they are needed next.",
            )

    def _announce(self, kind: str, message: str) -> None:
        if kind not in self._announced:
            self._announced.add(kind)
            warnings.warn(message, stacklevel=3)

    def _error(self, reply: EndpointReply, failed: int) -> Exception:
        assert reply.cause is not None
        advice = ADVICE[reply.cause].format(base_url=self.base_url.rstrip("/"))
        if reply.cause == "connection":
            what = f"None of {failed} requests to {self.base_url} got an answer"
            return ConnectionError(f"{what} ({reply.fault}). {advice} {RESUME}")
        what = {
            "quota": "does not answer until the account has credit",
            "key": "refuses the key",
            "address": f"knows no model {self.model!r}, or not this address",
            "redirect": "redirects elsewhere",
        }.get(reply.cause, f"answered none of {failed} prompts to {self.model!r}")
        return RuntimeError(f"{self.base_url} {what} ({reply.fault}). {advice} {RESUME}")
