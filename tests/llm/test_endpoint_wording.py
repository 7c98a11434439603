import asyncio
import json
from typing import Any

import pytest

from llmhd_pl.llm.endpoint_faults import Options
from llmhd_pl.llm.endpoint_http import Answer
from llmhd_pl.llm.endpoint_wording import Wording


def asked(wording: Wording, refuses: Any, body: Any, status: int = 400, probabilities: bool = True) -> list[Options]:
    """What was sent until something was accepted, by a server that refuses some options in some words."""
    sent: list[Options] = []

    async def send(options: Options) -> Answer:
        sent.append(options)
        text = body if isinstance(body, str) else json.dumps(body)
        return Answer(status, text) if refuses(options) else Answer(200, "{}")

    asyncio.run(wording.ask(send, probabilities))
    return sent


LOGPROBS_REFUSED = [
    (400, {"error": {"message": "Logprobs is not enabled for this model"}}),
    (400, [{"error": {"message": "Logprobs is not enabled for this model", "status": "INVALID_ARGUMENT"}}]),
    (403, {"error": {"message": "not allowed to request logprobs"}}),
    (404, {"message": "LOGPROBS: unknown"}),
    (422, {"detail": [{"loc": ["body", "top_logprobs"], "msg": "Extra inputs are not permitted"}]}),
    (500, "log probabilities are not implemented"),
    (501, "logprobs"),
    (400, "<html><body>Log-probs are off</body></html>"),
]


@pytest.mark.parametrize(("status", "body"), LOGPROBS_REFUSED)
def test_probabilities_refused_in_any_words(status: int, body: Any) -> None:
    wording = Wording()
    sent = asked(wording, lambda options: options.top, body, status)
    assert [options.top for options in sent] == [20, 0] and wording.options == Options(top=0)
    assert wording.no_probabilities and not wording.varying
    assert len(asked(wording, lambda options: options.top, body, status)) == 1  # one refusal is enough


@pytest.mark.parametrize(
    ("message", "most", "tries"),
    [
        ("Cannot request more than 5 logprobs.", 5, [20, 5]),
        ("Requested sample logprobs of 20, which is greater than max allowed: 8", 8, [20, 8]),
        ("top_logprobs must be less than 5", 4, [20, 5, 4]),
        ("top_logprobs: too many", 5, [20, 5]),
        ("top_logprobs: at most two", 2, [20, 5, 2]),
        ("gpt-4.1 has no logprobs, error 400", 0, [20, 0]),
    ],
)
def test_fewer_probabilities_are_asked_for_before_they_are_given_up(message: str, most: int, tries: list[int]) -> None:
    wording = Wording()
    body = {"error": {"code": 3, "message": message}}
    sent = asked(wording, lambda options: options.top > most, body)
    assert [options.top for options in sent] == tries and wording.options.top == most


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Unsupported parameter: max_tokens; use max_completion_tokens", "param": None}},
        {"error": {"message": "Unsupported parameter.", "param": "max_tokens", "code": "unsupported_parameter"}},
        "MAX_TOKENS is gone",
    ],
)
def test_max_tokens_refused_in_any_words(body: Any) -> None:
    wording = Wording()
    assert len(asked(wording, lambda options: options.length == "max_tokens", body)) == 2
    assert wording.options == Options("max_completion_tokens")


@pytest.mark.parametrize("body", [{"error": {"message": "Temperature is fixed at 1"}}, "temperature must be positive"])
def test_temperature_refused_in_any_words(body: Any) -> None:
    wording = Wording()
    assert len(asked(wording, lambda options: options.greedy, body, 422)) == 2
    assert wording.options == Options(greedy=False) and "emperature" in wording.varying


@pytest.mark.parametrize("left", [Options(top=0), Options(greedy=False), Options("max_completion_tokens")])
def test_a_refusal_that_names_nothing_is_tried_without_each_option(left: Options) -> None:
    wording = Wording()
    sent = asked(wording, lambda options: options != left, {"error": "Bad Request"})
    assert sent[-1] == left and len(sent) <= 4 and wording.options == left


def test_what_helps_nothing_is_tried_once() -> None:
    wording = Wording()
    assert len(asked(wording, lambda options: True, "Bad Request")) == 5
    assert len(asked(wording, lambda options: True, "Bad Request")) == 1 and wording.options == Options()
    accepted = Wording()
    asked(accepted, lambda options: False, "")
    assert len(asked(accepted, lambda options: True, "Bad Request")) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, "This model's maximum context length is 2048: max_tokens and the prompt exceed it"),
        (401, "no"),
        (402, "no logprobs without payment"),
        (404, "no such model"),
        (429, "too many logprobs per minute"),
        (500, "out of memory"),
    ],
)
def test_what_is_no_refusal_of_an_option_changes_nothing(status: int, body: str) -> None:
    wording = Wording()
    assert len(asked(wording, lambda options: True, body, status)) == 1 and wording.options == Options()


def test_a_wording_that_was_not_accepted_is_not_kept() -> None:
    wording = Wording()
    asked(wording, lambda options: True, "logprobs and temperature and max_tokens")
    assert wording.options == Options()
    asked(wording, lambda options: options.greedy, "temperature", probabilities=False)
    assert wording.options == Options(greedy=False)  # and still asks for probabilities
