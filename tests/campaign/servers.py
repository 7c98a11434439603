"""Faults of servers: what a judge behind HTTP may send, refuse, forget or never finish."""

import gzip
import json
import math
import os
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from llmhd_pl.llm.endpoint import EndpointScorer
from tests.campaign.case import Case
from tests.campaign.http_server import Response, chat, http, serving

KEY = 'sk-x/"y+z%w'
PAIRS = torch.tensor([[0, item] for item in range(8)])
Answer = Callable[[int, dict[str, Any]], Response]


def judge(address: str, **arguments: Any) -> EndpointScorer:
    given = {"api_key": KEY, "retries": 0, "timeout": 0.4, "scoring": "generate"} | arguments
    scorer = EndpointScorer("otter", f"http://{address}/v1", **given)
    scorer.prepare([{"title": f"Otter {item}"} for item in range(8)], torch.empty(0, 2, dtype=torch.int64))
    return scorer


def always(response: Response) -> Answer:
    return lambda number, asked: response


def refuses(option: str, body: Any, status: int = 400, over: int = 0) -> Answer:
    """Refuses a request that has an option, or more of it than ``over``."""

    def answer(number: int, asked: dict[str, Any]) -> Response:
        if option in asked and (not over or asked[option] > over):
            return http(body, status)
        token = {"token": "7", "logprob": math.log(0.5), "top_logprobs": [_top("7", 0.5), _top("5", 0.5)]}
        return http(chat(logprobs={"content": [token]} if "logprobs" in asked else None))

    return answer


def _top(token: str, probability: float) -> dict[str, Any]:
    return {"token": token, "logprob": math.log(probability)}


def scores(
    answer: Answer, score: float, result: str, tokens: int | None = None, **arguments: Any
) -> Callable[..., str]:
    """The answer is read, and read as this score."""

    def check(folder: Path) -> str:
        with _proxy_free(), serving(answer) as server:
            scorer = judge(server.address, **arguments)
            found = scorer.score({0: "rivers"}, PAIRS).tolist()
            assert found == [score] * 8, found
            assert tokens is None or scorer.usage.tokens == tokens, scorer.usage.tokens
        return result

    return check


def ends(
    answer: Answer,
    kind: type[Exception],
    *words: str,
    result: str,
    requests: int = 8,
    within: float = 4,
    **arguments: Any,
) -> Callable[..., str]:
    """The run ends with an error that names the cause, soon, and without the key."""

    def check(folder: Path) -> str:
        started = time.monotonic()
        with _proxy_free(), serving(answer) as server, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                judge(server.address, **arguments).score({0: "rivers"}, PAIRS)
            except (RuntimeError, ConnectionError) as error:
                assert type(error) is kind, repr(error)
                told = "".join(traceback.format_exception(error)) + "".join(str(each.message) for each in caught)
                assert server.address in str(error) or "127.0.0.1" in str(error), str(error)
                assert all(word in str(error) for word in words), f"{words} not in {error}"
                assert error.__cause__ is None and error.__context__ is None
                assert not any(spelling in told for spelling in _spellings(KEY)), told
            else:
                raise AssertionError("no error")
            assert len(server.asked) <= requests, len(server.asked)
        assert time.monotonic() - started < within, f"{time.monotonic() - started:.1f} s"
        return result

    return check


def _spellings(key: str) -> list[str]:
    return [key, json.dumps(key)[1:-1], "sk-x%2F%22y%2Bz%25w", "sk-x\\/"]


def _proxy_free() -> Any:
    return mock.patch.dict(os.environ, {"NO_PROXY": "127.0.0.1", "OPENAI_API_KEY": ""})


# ---- connections


def reset(after: bytes) -> Response:
    def send(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(after)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    return send


def hang(after: bytes) -> Response:
    def send(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(after)
        over.wait(10)

    return send


def drip(after: bytes, what: bytes, every: float = 0.05) -> Response:
    def send(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(after)
        while not over.wait(every):
            connection.sendall(what)

    return send


def pour(after: bytes, what: bytes, most: int) -> Response:
    def send(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(after)
        for _ in range(most // len(what)):
            connection.sendall(what)

    return send


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
HALF = http(chat())[:-20]


def connections() -> list[Case]:
    lost = "ConnectionError naming the address and the cause, after one request's tries"
    cut = {
        "reset at once": (reset(b""), "Connection error"),
        "reset in the headers": (reset(HEAD), "Connection error"),
        "reset in the body": (reset(HALF), "Connection error"),
        "closed at once": (b"", "disconnected"),
        "closed in the headers": (HEAD, "disconnected"),
        "closed in the body": (HALF, "closed"),
        "closed in a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n10\r\n{", "closed"),
        "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "illegal"),
        "a status that is none": (b"HTTP/1.1 abc\r\n\r\n", "illegal"),
        "chunks that are none": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", "illegal"),
        "gzip that is none": (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", "decompress"),
        "a negative length": (HEAD + b"Content-Length: -5\r\n\r\n{}", "Content-Length"),
        "headers without end": (pour(HEAD, b"X-A: " + b"a" * 5000 + b"\r\n", 500_000), "Connection error"),
    }
    cases = [
        Case("a connection that breaks", name, ends(always(response), ConnectionError, word, result=lost))
        for name, (response, word) in cut.items()
    ]
    slow = {
        "hangs at once": (hang(b""), "timed out"),
        "hangs in the headers": (hang(HEAD), "timed out"),
        "hangs in the body": (hang(HALF), "timed out"),
        "drips headers": (drip(HEAD, b"X-A: a\r\n"), "took more than 0.8 seconds"),
        "drips a header": (drip(HEAD + b"X-A: ", b"a"), "took more than 0.8 seconds"),
        "drips white space": (drip(HEAD + b"Content-Length: 9999\r\n\r\n", b" "), "took more than 0.8 seconds"),
        "drips chunks": (
            drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
            "took more than 0.8 seconds",
        ),
        "drips an error": (drip(b"HTTP/1.1 500 X\r\nContent-Length: 999\r\n\r\n", b" "), "took more than 0.8 seconds"),
    }
    cases += [
        Case("a server that does not finish", name, ends(always(response), ConnectionError, word, result=lost))
        for name, (response, word) in slow.items()
    ]
    cases.append(Case("a connection that breaks", "refused", refused_connection))
    cases.append(
        Case(
            "an outage",
            "refused, with retries, of many prompts",
            lambda folder: refused_connection(folder, retries=1),
        )
    )
    return cases


def refused_connection(folder: Path, retries: int = 0) -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with _proxy_free():
        try:
            judge(address, retries=retries).score({0: "rivers"}, PAIRS)
        except ConnectionError as error:
            assert address in str(error) and "refused" in str(error) and "Check that the server runs" in str(error)
            return "ConnectionError naming the address and the cause, after one request's tries"
    raise AssertionError("no error")


# ---- bodies


def bodies() -> list[Case]:
    nothing = "RuntimeError quoting what came in place of an answer"
    garbage: dict[str, Any] = {
        "nothing": http(b""),
        "HTML": http(b"<html>busy</html>", kind="text/html"),
        "half of the JSON": http(b'{"choices": [{"mess'),
        "no UTF-8": http(b"\xff\xfe\x00\xd8"),
        "an unknown charset": http(b"\xff", kind="application/json; charset=base64"),
        "a deep list": http(b"[" * 100_000),
        "a list": http([]),
        "null": http(None),
        "a number": http(b"1e999"),
        "no choices": http({"choices": []}),
        "choices that are a text": http({"choices": "7"}),
        "choices that are an object": http({"choices": {"0": 1}}),
        "a choice that is null": http({"choices": [None]}),
        "no message": http({"choices": [{"text": "<s>7</s>"}]}),
        "a message that is a text": http({"choices": [{"message": "<s>7</s>"}]}),
        "null for a content": http(chat(None)),
        "a number for a content": http(chat(7)),
        "an object for a content": http(chat({"text": "<s>7</s>"})),
        "parts that are none": http(chat([7, None])),
        "parts whose text is none": http(chat([{"type": "text", "text": 7}])),
        "a stream of events": http(b"data: {}\n\ndata: [DONE]\n", kind="text/event-stream"),
        "no content": http(b"", 204),
    }
    cases = [
        Case(
            "a body that is no answer", name, ends(always(each), RuntimeError, "not a chat completion", result=nothing)
        )
        for name, each in garbage.items()
    ]
    huge = HEAD + b"Connection: close\r\n\r\n"
    bomb = gzip.compress(b'{"choices": "' + b" " * 30_000_000)
    zipped = HEAD + f"Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode() + bomb
    for name, each in (("60 MB", pour(huge, b" " * 1_000_000, 60_000_000)), ("a bomb of gzip", zipped)):
        check = ends(
            always(each),
            RuntimeError,
            "longer than 10,000,000 bytes",
            result=nothing,
            within=20,
            concurrency=1,
            timeout=5,
        )
        cases.append(Case("a body that is no answer", name, check))
    good = {
        "with a byte order mark": b"\xef\xbb\xbf" + json.dumps(chat()).encode(),
        "with half a character": json.dumps(chat(role="\ud83e")).encode(),
        "with an integer of 5,000 digits": json.dumps(chat()).replace("100", "1" * 5000).encode(),
        "with parts": json.dumps(chat([{"type": "text", "text": "<s>7"}, {"type": "text", "text": "</s>"}])).encode(),
        "with a second choice": json.dumps({"choices": [*chat()["choices"], {"message": None}]}).encode(),
    }
    read = "the score is read"
    cases += [
        Case("an odd body that is an answer", name, scores(always(http(body)), 7, read)) for name, body in good.items()
    ]
    return cases


# ---- statuses


def statuses() -> list[Case]:
    error = {"error": {"message": f"no, never: {KEY}", "type": "x", "code": None}}
    cases = []
    for status, kind, word in (
        *((each, RuntimeError, "Try one by hand") for each in (400, 405, 413, 418, 422, 451)),
        *((each, RuntimeError, "OPENAI_API_KEY") for each in (401, 403)),
        (404, RuntimeError, "knows no model 'otter'"),
        *((each, RuntimeError, "look at its log") for each in (408, 409, 500, 501, 502, 503, 504, 529, 599)),
        *((each, RuntimeError, "lower concurrency or raise retries") for each in (425, 429)),
        (402, RuntimeError, "quota"),
    ):
        check = ends(
            *(always(http(error, status)), kind, word, "no, never: ***", f"status {status}"),
            result="RuntimeError naming the status, the server's words and the remedy that fits",
            requests=50,  # other wordings are tried for 400, 405, 422 and 501
        )
        cases.append(Case("a status", str(status), check))
    for status in (301, 302, 303, 307, 308):
        check = ends(
            *(
                always(http(b"", status, "Location: http://elsewhere/v1")),
                RuntimeError,
                "redirects",
                "http://elsewhere/v1",
            ),
            result="RuntimeError naming where the server says that it is",
        )
        cases.append(Case("a redirect", str(status), check))
    inside = {"error": {"message": "out of memory", "code": 503}}
    check = ends(
        always(http(inside)), RuntimeError, "out of memory", "503", result="RuntimeError with the server's words"
    )
    cases.append(Case("an error sent as an answer", "with a status", check))
    check = ends(always(http({"error": "busy"})), RuntimeError, "busy", result="RuntimeError with the server's words")
    cases.append(Case("an error sent as an answer", "as a text", check))
    for name, wait in (("a thousand years", "1e9"), ("never", "inf"), ("in 2999", "Fri, 01 Feb 2999 00:00:00 GMT")):
        check = ends(
            *(always(http({}, 429, f"Retry-After: {wait}")), RuntimeError, "429"),
            result="not waited for",
            retries=3,
        )
        cases.append(Case("an absurd Retry-After", name, check))
    for name in ("-5", "nan", "soon", "Mon, 01 Jan 1990 00:00:00 GMT", "0"):
        cases.append(Case("an absurd Retry-After", name, passing(http({}, 503, f"Retry-After: {name}"))))
    return cases


def passing(first: bytes) -> Callable[..., str]:
    return scores(
        lambda number, asked: first if number == 0 else http(chat()), 7, "tried again after a moment", retries=1
    )


def quotas() -> list[Case]:
    said = {
        "OpenAI's": (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}),
        "by its type alone": (429, {"error": {"message": "Limit", "type": "insufficient_quota", "code": None}}),
        "a budget by the day": (429, {"error": {"message": "Rate limit exceeded: free-models-per-day"}}),
        "credits": (429, {"detail": "You have used up your monthly included credits"}),
        "payment required": (402, b"Payment Required"),
        "a 403": (403, {"error": "Your account's balance is too low"}),
        "a 400": (400, {"error": {"message": "Your credit balance is too low to access the API"}}),
        "in a list": (429, [{"error": {"message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}}]),
        "as an answer": (200, {"error": {"message": "Insufficient credits", "code": 402}}),
    }
    result = "RuntimeError naming the quota at once, without another request"
    return [
        Case(
            "a quota that is used up",
            name,
            ends(
                *(always(http(body, status)), RuntimeError, "quota is used up"),
                result=result,
                requests=1,
                concurrency=1,
                retries=4,
            ),
        )
        for name, (status, body) in said.items()
    ]


# ---- options that are refused


def options() -> list[Case]:
    plain = "Logprobs is not enabled for this model"
    without = "the number is read from the text instead, with a warning"
    wordings: dict[str, tuple[int, Any]] = {
        "with a capital letter": (400, {"error": {"message": plain}}),
        "in a list": (400, [{"error": {"code": 400, "message": plain, "status": "INVALID_ARGUMENT"}}]),
        "as a 403": (403, {"error": {"message": "You are not allowed to request logprobs from this model"}}),
        "as a 404": (404, {"error": {"message": "logprobs: no such parameter"}}),
        "as a 422 that echoes": (422, {"detail": [{"loc": ["body", "logprobs"], "msg": "Extra inputs", "input": "x"}]}),
        "as a 500": (500, {"error": {"message": "log probs not implemented"}}),
        "as a 501": (501, {"error": {"message": "not implemented"}}),
        "as an answer": (200, {"error": {"message": "logprobs unsupported", "code": 400}}),
        "as a text": (400, b"logprobs unsupported"),
        "as HTML": (400, b"<html><h1>logprobs</h1></html>"),
        "by the parameter alone": (400, {"error": {"message": "Unsupported", "param": "top_logprobs"}}),
        "without naming it": (400, {"error": {"message": "Bad Request"}}),
        "without a word": (400, b""),
    }
    cases = [
        Case(
            "probabilities refused",
            name,
            scores(refuses("logprobs", body, status), 7, without, scoring="expected", concurrency=1),
        )
        for name, (status, body) in wordings.items()
    ]
    for most, message in (
        (5, "Cannot request more than 5 logprobs."),
        (8, "Requested sample logprobs of 20, which is greater than max allowed: 8"),
        (5, "top_logprobs must be between 0 and 5"),
        (19, "top_logprobs must be less than 20"),
        (5, "too many logprobs"),
    ):
        answer = refuses("top_logprobs", {"error": {"message": message}}, over=most)
        check = scores(answer, 6, "fewer are asked for, and the score is their mean", scoring="expected", concurrency=1)
        cases.append(Case("fewer probabilities allowed", message, check))
    for option, messages in (
        ("max_tokens", ("Unsupported parameter: max_tokens; use max_completion_tokens", "Bad Request")),
        ("temperature", ("Unsupported value: 'temperature' does not support 0", "temperature is fixed", "Bad Request")),
    ):
        for message in messages:
            answer = refuses(option, {"error": {"message": message, "param": None, "code": None}})
            cases.append(Case(f"{option} refused", message, scores(answer, 7, "asked without it", concurrency=1)))
    ignored: dict[str, Any] = {
        "not sent": None,
        "a text": "none",
        "no content": {"content": None},
        "NaN": _logprobs(math.nan),
        "infinite": _logprobs(math.inf),
        "a text for a number": _logprobs("-0.1"),
        "true for a number": _logprobs(True),
        "null": _logprobs(None),
        "above zero": _logprobs(3.5),
        "all certain": _logprobs(0.0),
        "an integer of 400 digits": _logprobs(-(10**400)),
        "of other tokens": {
            "content": [{"token": "3", "logprob": -1, "top_logprobs": [_top("3", 0.5), _top("4", 0.5)]}]
        },
    }
    cases += [
        Case(
            "probabilities that are none",
            name,
            scores(always(http(chat(logprobs=logprobs))), 7, without, scoring="expected"),
        )
        for name, logprobs in ignored.items()
    ]
    return cases


def _logprobs(value: Any) -> dict[str, Any]:
    top = [{"token": token, "logprob": value} for token in ("7", "5")]
    return {"content": [{"token": "7", "logprob": value, "top_logprobs": top}]}


# ---- thoughts, tokens, keys


def thoughts() -> list[Case]:
    ending = "RuntimeError that says how to turn thinking off"
    unfinished: dict[str, dict[str, Any]] = {
        "<think>": chat("<think>\nThe user likes quiet"),
        "<thinking>": chat("<thinking>The user"),
        "<reasoning>": chat("\n<reasoning>The user"),
        "[THINK]": chat("[THINK]The user"),
        "<|channel|>": chat("<|channel|>analysis<|message|>The user"),
        "in its own field": chat(None, reasoning_content="The user"),
        "in another field": chat("", reasoning="The user"),
        "as a part": chat([{"type": "thinking", "thinking": "The user"}]),
        "finished, without an answer": chat("<think>The user</think>"),
        "hidden by the server": chat(""),
    }
    cases = [
        Case(
            "a thought in place of an answer",
            name,
            ends(always(http(body)), RuntimeError, "thinking off", result=ending),
        )
        for name, body in unfinished.items()
    ]
    finished = {
        "empty": "<think>\n\n</think>\n\n<s>7</s>",
        "with a number": "<think>3 of 10</think><s>7</s>",
        "without its beginning": "likes quiet\n</think>\n7",
        "<thinking>": "<thinking>likes</thinking>7",
        "channels": "<|channel|>analysis<|message|>likes<|end|><|start|>assistant<|channel|>final<|message|><s>7</s>",
        "channels without tokens": "analysisThe user likesassistantfinal<s>7</s>",
    }
    cases += [
        Case("a thought before an answer", name, scores(always(http(chat(text))), 7, "the answer is read"))
        for name, text in finished.items()
    ]
    words = "RuntimeError quoting an answer"
    for name, text in {"words": "I would say seven", "eleven": "<s>11</s>", "two": "<s>7</s><s>8</s>"}.items():
        check = ends(always(http(chat(text))), RuntimeError, "not of the form", text, result=words)
        cases.append(Case("answers of another form", name, check))
    return cases


def tokens() -> list[Case]:
    counts: list[Any] = [1e30, 10**30, -1, True, "5", None, [], math.nan, math.inf, 5.5, 10**9]
    with mock.patch.dict(os.environ, {"OPENAI_API_KEY": ""}):
        scorer = judge("127.0.0.1:1")
    prompts = [
        scorer.prompts.score_prefix("rivers") + scorer.prompts.score_suffix(f"Otter {item}") for item in range(8)
    ]
    estimated = sum(map(scorer.count_tokens, prompts)) + 8 * scorer.count_tokens("<s>7</s>")
    return [
        Case(
            "a count of tokens that is none",
            repr(count),
            scores(
                always(http(chat(usage={"prompt_tokens": count, "completion_tokens": count}))),
                *(7, "the tokens are estimated", estimated),
            ),
        )
        for count in counts
    ]


def keys() -> list[Case]:
    result = "stars in its place in every message"
    cases = []
    for name, key in {
        "as it is": KEY,
        "as a header": f"Bearer {KEY}",
        "for a URL": "sk-x%2F%22y%2Bz%25w",
        "for a URL, in small letters": "sk-x%2f%22y%2bz%25w",
        "for JSON": json.dumps(KEY)[1:-1],
        "for JSON, with escaped slashes": json.dumps(KEY)[1:-1].replace("/", "\\/"),
        "for HTML": "sk-x/&quot;y+z%w",
    }.items():
        for where, response in {
            "an error": http({"error": {"message": f"bad key {key}"}}, 401),
            "a text": http(f"bad key {key}".encode(), 500),
            "an answer": http(chat(f"bad key {key}")),
            "a redirect": http(b"", 302, f"Location: http://elsewhere/bad key {key}"),
        }.items():
            check = ends(always(response), RuntimeError, "***", result=result)
            cases.append(Case("a key that is echoed", f"{name}, in {where}", check))
    return cases


def later() -> list[Case]:
    """The server has answered the summaries, and then it has not."""

    def check(response: Response, kind: type[Exception], word: str) -> Callable[..., str]:
        def at_first(number: int, asked: dict[str, Any]) -> Response:
            if "<summarization>" in asked["messages"][0]["content"]:
                return http(chat("<summarization>Likes otters.</summarization>"))
            return response

        return ends_later(at_first, kind, word)

    return [
        Case("an outage later in the run", name, check(response, kind, word))
        for name, (response, kind, word) in {
            "closed": (b"", ConnectionError, "disconnected"),
            "hangs": (hang(b""), ConnectionError, "timed out"),
            "503": (http({}, 503), RuntimeError, "look at its log"),
            "429": (http({}, 429), RuntimeError, "lower concurrency"),
            "HTML": (http(b"<html>"), RuntimeError, "not a chat completion"),
            "quota": (http({}, 402), RuntimeError, "quota"),
        }.items()
    ]


def ends_later(answer: Answer, kind: type[Exception], word: str) -> Callable[..., str]:
    def check(folder: Path) -> str:
        with _proxy_free(), serving(answer) as server:
            scorer = judge(server.address, cache=str(folder / "answers.sqlite"))
            preferences = scorer.summarize({0: [0, 1]})
            assert preferences == {0: "Likes otters."}
            try:
                scorer.score(preferences, PAIRS)
            except (RuntimeError, ConnectionError) as error:
                assert type(error) is kind and word in str(error) and "resume" in str(error), repr(error)
            else:
                raise AssertionError("no error")
            scorer = judge(server.address, cache=str(folder / "answers.sqlite"))
            assert scorer.summarize({0: [0, 1]}) == preferences and scorer.usage.tokens == 0
        return "ends like one at the start; what was paid for is in the cache"

    return check


def cases() -> list[Case]:
    return [
        *(*connections(), *bodies(), *statuses(), *quotas(), *options()),
        *(*thoughts(), *tokens(), *keys(), *later()),
    ]
