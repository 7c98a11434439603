"""Faults of servers: what a judge behind HTTP may send, refuse, forget or never finish."""

import gzip
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.campaign.case import Case
from tests.campaign.http_server import chat, drip, hang, http, pour, reset
from tests.campaign.server_answers import keys, later, options, thoughts, tokens
from tests.campaign.server_checks import KEY, PAIRS, always, ends, judge, quiet, scores

# ---- connections


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
        "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "illegal"),
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
        "drips headers": (drip(HEAD, b"X-A: a\r\n"), "took more than 2 seconds"),
        "drips a header": (drip(HEAD + b"X-A: ", b"a"), "took more than 2 seconds"),
        "drips white space": (drip(HEAD + b"Content-Length: 9999\r\n\r\n", b" "), "took more than 2 seconds"),
        "drips chunks": (
            drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
            "took more than 2 seconds",
        ),
        "drips an error": (drip(b"HTTP/1.1 500 X\r\nContent-Length: 999\r\n\r\n", b" "), "took more than 2 seconds"),
    }
    cases += [
        Case(
            "a server that does not finish", name, ends(always(response), ConnectionError, word, result=lost, timeout=1)
        )
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
    with quiet():
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
            "longer than 4,000,000 bytes",
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


def cases() -> list[Case]:
    return [
        *(*connections(), *bodies(), *statuses(), *quotas(), *options()),
        *(*thoughts(), *tokens(), *keys(), *later()),
    ]
