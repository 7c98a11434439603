"""Sends one request to a server with OpenAI's protocol, within limits of time and size, and tries again what passes."""

import asyncio
import contextlib
import email.utils
import json
import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llmhd_pl.llm.endpoint_faults import MOST_WAIT, Options, cause_of, passes, words_of
from llmhd_pl.llm.endpoint_reply import MOST_BYTES

TOTAL = 2
"""How many times ``timeout`` a try may take in all, however lively the server seems."""
_CONNECT_SECONDS = 10.0  # a working server accepts a connection at once, however long it thinks
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0


@dataclass(frozen=True)
class Answer:
    """What came back for a request.

    Attributes:
        status: The status, or that of an error within the body; 0 if no answer arrived, -1 if nothing was asked.
        body: The body, or why there is none.
        retry_after: The seconds after which the server wants to be asked again, if it says so.
        location: Where the server says that it is, if it says so.
    """

    status: int
    body: str
    retry_after: float | None = None
    location: str = ""


def open_connection(base_url: str, key: str, basic: str | None, timeout: float) -> Any:
    """Return openai's asynchronous client, to be used in one event loop.

    It follows no redirects, tries nothing again, and reads no more of a body than ``MOST_BYTES``.

    Args:
        base_url: The address of the server.
        key: The key.
        basic: A header ``Authorization`` in place of the key.
        timeout: The seconds without a sign of life after which a request has failed.

    Raises:
        ImportError: If openai is not installed.
    """
    try:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout
    except ImportError as error:
        raise ImportError("EndpointScorer needs openai: pip install openai.") from error

    class Bounded(DefaultAsyncHttpxClient):
        async def send(self, request: Any, **arguments: Any) -> Any:
            response = await super().send(request, **arguments | {"stream": True})
            body = bytearray()
            async with contextlib.aclosing(response), contextlib.aclosing(response.aiter_bytes()) as parts:
                async for part in parts:
                    body += part
                    if len(body) > MOST_BYTES:
                        break
            # Without what the body was sent with: it is decoded, and in UTF-8, as JSON is.
            headers = {name: response.headers[name] for name in _HEADERS if name in response.headers}
            return type(response)(response.status_code, headers=headers, content=bytes(body), request=request)

    limits = Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS))
    return AsyncOpenAI(
        api_key=key,
        base_url=base_url,
        default_headers=None if basic is None else {"Authorization": basic},
        timeout=limits,
        max_retries=0,
        http_client=Bounded(timeout=limits, follow_redirects=False),
    )


_HEADERS = ("retry-after", "retry-after-ms", "location")


async def send(
    connection: Any,
    model: str,
    prompt: str,
    options: Options,
    max_new_tokens: int,
    timeout: float,
    retries: int,
    stop: asyncio.Event,
) -> Answer:
    """Ask one prompt, and again if the fault may pass.

    Args:
        connection: What ``open_connection`` returned.
        model: The name of the model.
        prompt: The prompt.
        options: How the request is worded.
        max_new_tokens: The most tokens of an answer.
        timeout: The seconds without a sign of life after which a try has failed; ``TOTAL`` times as many in all.
        retries: The number of further tries.
        stop: Whether nothing more is to be asked.
    """
    answer = Answer(-1, "")
    for number in range(retries + 1):
        if stop.is_set():
            break
        answer = await _try(connection, model, prompt, options.body(max_new_tokens), timeout)
        if number == retries or not _is_worth_another_try(answer, options):
            break
        wait = answer.retry_after or min(_FIRST_WAIT * 2**number, _LONGEST_WAIT) * random.uniform(0.75, 1)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), wait)
    return answer


async def _try(connection: Any, model: str, prompt: str, body: dict[str, Any], timeout: float) -> Answer:
    import openai

    try:
        async with asyncio.timeout(TOTAL * timeout):
            raw = await connection.chat.completions.with_raw_response.create(
                model=model, messages=[{"role": "user", "content": prompt}], extra_body=body
            )
            response = raw.http_response
    except TimeoutError:
        return Answer(0, f"Request timed out: it took more than {TOTAL * timeout:g} seconds, although data came.")
    except openai.APIConnectionError as error:
        return Answer(0, f"{error} {_innermost(error)}".strip())
    except openai.APIStatusError as error:
        response = error.response
    text = response.content.decode("utf-8-sig", errors="replace")
    return Answer(
        (_status_within(text) if response.status_code < 300 else None) or response.status_code,
        text,
        _retry_after(response.headers),
        response.headers.get("location", ""),
    )


def _status_within(body: str) -> int | None:
    """Return the status of an error that came as if it were an answer, with the status 200."""
    if '"error"' not in body or '"choices"' in body:
        return None
    try:
        error = json.loads(body)["error"]
        code = error.get("code") if isinstance(error, dict) else None
        status = int(code) if isinstance(code, str | int) and str(code).isdecimal() else 500
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return (status if 400 <= status < 600 else 500) if error else None


def _is_worth_another_try(answer: Answer, options: Options) -> bool:
    if answer.status == 0:
        return True
    if not passes(answer.status) or (answer.retry_after or 0) > MOST_WAIT:
        return False
    words = words_of(answer.body)
    refused = answer.status >= 500 and options.without_what_is_named(words) is not None
    return not refused and cause_of(answer.status, words, answer.retry_after) != "quota"


def _retry_after(headers: Any) -> float | None:
    """Return the seconds that a server asks for; None if it does not, or not in a way that makes sense."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "nan")) / unit
        except ValueError:
            try:
                at = email.utils.parsedate_to_datetime(headers[name])
                seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
            except (ValueError, TypeError, OverflowError):
                continue
        if seconds > 0 and not math.isnan(seconds):
            return seconds
    return None


def _innermost(error: BaseException) -> str:
    """Return what the first error of a chain says: the others only say that there was one."""
    refused = False
    while True:
        refused |= isinstance(error, ConnectionRefusedError)
        inner = error.__cause__ or error.__context__
        if isinstance(error, BaseExceptionGroup):
            inner = error.exceptions[0]
        if inner is None:
            break
        error = inner
    return f"{error}{' (connection refused)' if refused else ''}"
