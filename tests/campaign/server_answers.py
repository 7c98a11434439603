"""Faults of servers that answer: refused options, thoughts, counts, keys that are echoed, and outages."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.campaign.case import Case
from tests.campaign.http_server import Response, chat, hang, http, serving
from tests.campaign.server_checks import KEY, PAIRS, Answer, always, ends, judge, quiet, scores

# ---- options that are refused


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
        with quiet(), serving(answer) as server:
            scorer = judge(server.address, cache=str(folder / "answers.sqlite"), timeout=3)
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
