"""When it is no use to go on: outages, quotas, refusals, and models that think. Every server is a real one."""

import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from source_tree import REPOSITORY

from tests.campaign.http_server import Response, chat, drip, hang, http, serving
from tests.campaign.server_checks import PAIRS, always, judge

SHARED = REPOSITORY.parent / "shared" / "cases" / "endpoint.json"
PREFERENCES = {0: "rivers"}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def is_score(asked: dict[str, Any]) -> bool:
    return "<s>N</s>" in asked["messages"][0]["content"]


@pytest.mark.parametrize(
    ("response", "error", "told"),
    [
        (b"", ConnectionError, r"None of (8|9|10) requests.*disconnected.*Check that the server runs"),
        (http({}, 503), RuntimeError, r"answered none of (8|9|10) prompts.*status 503.*look at its log"),
        (
            http({}, 429),
            RuntimeError,
            r"answered none of (8|9|10) prompts.*status 429.*lower concurrency or raise retries",
        ),
        (
            http(b"<html>proxy</html>"),
            RuntimeError,
            r"none of (8|9|10).*not a chat completion.*<html>proxy.*check base_url",
        ),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_an_outage_ends_the_run_soon_whenever_it_comes(
    response: Response, error: type[Exception], told: str, later: bool
) -> None:
    """After eight prompts in a row, of 24: with what helps against this cause, and not against another."""
    up = later
    with serving(lambda number, asked: http(chat()) if up else response) as server:
        scorer = judge(server.address, concurrency=2)
        if later:
            scorer.score({0: "lakes"}, PAIRS)
        up, before = False, len(server.asked)
        with pytest.raises(error, match=told) as caught:
            scorer.score(
                {user: f"sea {user}" for user in range(3)}, torch.cartesian_prod(*[torch.arange(3), PAIRS[:, 1]])
            )
        assert "thinking" not in str(caught.value) and "resume from the last checkpoint" in str(caught.value)
        assert len(server.asked) - before <= 8 + 2
        up = True
        assert scorer.score(PREFERENCES, PAIRS).tolist() == [7] * 8  # what failed was not asked


def test_few_failures_in_each_epoch_are_an_outage_too() -> None:
    with serving(always(http({}, 500))) as server:
        scorer = judge(server.address)
        for pairs in (PAIRS[:3], PAIRS[3:6]):
            assert scorer.score(PREFERENCES, pairs).isnan().all()
        assert "status 500" in scorer.fault
        with pytest.raises(RuntimeError, match="none of 8 prompts"):
            scorer.score(PREFERENCES, PAIRS[6:])


def test_a_part_that_fails_is_unanswered_and_asked_again() -> None:
    def answer(number: int, asked: dict[str, Any]) -> Response:
        return http({}, 503) if "Otter 3" in asked["messages"][0]["content"] and number < 8 else http(chat())

    with serving(answer) as server:
        scorer = judge(server.address)
        assert scorer.score(PREFERENCES, PAIRS).isnan().tolist() == [item == 3 for item in range(8)]
        assert scorer.score(PREFERENCES, PAIRS).tolist() == [7] * 8 and len(server.asked) == 9


@pytest.mark.parametrize(
    ("response", "per_request"), [(hang(b""), 2 * 0.2 + 0.5), (drip(b"HTTP/1.1 200 OK\r\nX: ", b"a"), 4 * 0.2 + 0.5)]
)
def test_an_outage_costs_the_time_of_one_request(response: Response, per_request: float) -> None:
    """Its tries and the waits between them, however many prompts there are."""
    with serving(always(response)) as server:
        scorer, started = judge(server.address, timeout=0.2, retries=1), time.monotonic()
        with pytest.raises(ConnectionError, match=r"timed out"):
            scorer.score({0: "a", 1: "b", 2: "c"}, torch.cartesian_prod(*[torch.arange(3), PAIRS[:, 1]]))
        assert time.monotonic() - started < per_request + 2


@pytest.mark.parametrize(
    "response",
    [
        http({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, 429),
        http({"error": {"message": "You exceeded your current quota"}}, 429),
        http({"error": {"type": "insufficient_quota", "message": "Wait"}}, 429, "Retry-After: 1"),
        http(b"Payment Required", 402),
        http({"error": {"message": "Insufficient credits", "code": 402}}, 200),
    ],
)
def test_a_quota_that_is_used_up_ends_the_run_at_once(response: bytes) -> None:
    with serving(lambda number, asked: response if number >= 3 else http(chat())) as server:
        scorer = judge(server.address, concurrency=1, retries=4)
        with pytest.raises(RuntimeError, match=r"The quota is used up.*resume from the last checkpoint"):
            scorer.score(PREFERENCES, PAIRS)
        assert len(server.asked) == 4
        assert scorer.usage.tokens == 3 * 105  # what came before is kept


@pytest.mark.parametrize(
    "message",
    [
        "Rate limit reached for requests per min (RPM): Limit 3. Please try again in 20s. Visit .../account/billing.",
        "Quota exceeded: requests per minute",
        "slow down",
    ],
)
def test_a_rate_limit_is_no_quota(message: str) -> None:
    refusal = http({"error": {"message": message}}, 429)
    with serving(lambda number, asked: refusal if number == 0 else http(chat())) as server:
        assert judge(server.address, retries=1).score(PREFERENCES, PAIRS).tolist() == [7] * 8


@pytest.mark.parametrize("scoring", ["generate", "expected"])
@pytest.mark.parametrize(
    ("body", "told"),
    [
        (chat("<think>\nThe user likes quiet"), r"<think> The user likes quiet.*Turn its thinking off on the server"),
        (chat(None, reasoning_content="The user"), r"thinking off on the server"),
        (chat("Seven, I would say."), r"not of the form.*Seven, I would say.*a larger model"),
        (chat(""), r"its answers are empty.*thinking off"),
    ],
)
def test_answers_without_a_score_end_the_run_by_their_cause(scoring: str, body: dict[str, Any], told: str) -> None:
    """Also if they come a few in each epoch, and although the model writes good summaries."""

    def answer(number: int, asked: dict[str, Any]) -> Response:
        return http(body if is_score(asked) else chat("<summarization>Likes otters.</summarization>"))

    with serving(answer) as server:
        scorer = judge(server.address, scoring=scoring)
        preferences = scorer.summarize({0: [0, 1]})
        with pytest.raises(RuntimeError, match=r"answered none of 8 prompts to 'otter'.*" + told):
            for pairs in (PAIRS[:4], PAIRS[4:]):
                assert scorer.score(preferences, pairs).isnan().all()


def test_no_summary_of_eight_ends_the_run() -> None:
    with serving(lambda number, asked: http(chat() if is_score(asked) else chat("<think>The"))) as server:
        scorer = judge(server.address)
        assert scorer.score(PREFERENCES, PAIRS).tolist() == [7] * 8
        with pytest.raises(RuntimeError, match="Turn its thinking off"):
            scorer.summarize({user: [user] for user in range(8)})


def test_a_run_that_only_asks_what_the_model_has_refused_before_goes_on(tmp_path: Path) -> None:
    """The cache shows that the model can answer."""

    def answer(number: int, asked: dict[str, Any]) -> Response:
        return http(chat("<s>7</s>" if "Preference: rivers" in asked["messages"][0]["content"] else "No."))

    cache = str(tmp_path / "answers.sqlite")
    with serving(lambda number, asked: http(chat("<s>7</s>" if number < 8 else "No."))) as server:
        judge(server.address, cache=cache).score(PREFERENCES, PAIRS)
        again = judge(server.address, cache=cache)
        again.score(PREFERENCES, PAIRS)
        assert again.score({0: "lakes"}, PAIRS).isnan().all()


def test_an_answer_without_a_score_is_paid_for_once() -> None:
    def answer(number: int, asked: dict[str, Any]) -> Response:
        return http(chat("No." if "Otter 3" in asked["messages"][0]["content"] else "<s>7</s>"))

    with serving(answer) as server:
        scorer = judge(server.address)
        for _ in range(3):
            assert scorer.score(PREFERENCES, PAIRS).isnan().sum() == 1
        assert len(server.asked) == 8


@pytest.mark.skipif(not SHARED.is_file(), reason="the shared cases are not here")
def test_shared_cases() -> None:
    expected: dict[str, Any] = {
        "logprobs refused, capital L": 7,
        "the same in a list": 7,
        "max_tokens refused, param null": 7,
        "at most 5 logprobs": 7,
        "quota used up": "The quota is used up",
        "a thought in the text": "Turn its thinking off",
        "an empty thought, then the answer": 7,
        "usage out of range": 7,
    }
    for case in json.loads(SHARED.read_text()):
        body = case.get("body") or chat(case.get("content"), case.get("usage"))
        option, _, limit = case["when"].partition(" > ")

        def answer(number: int, asked: dict[str, Any], case: Any = case, body: Any = body, option: str = option,
                   limit: str = limit) -> Response:  # fmt: skip
            if option == "always" or (option in asked and asked[option] > int(limit or 0)):
                return http(body, case.get("status", 200))
            return http(chat())

        with serving(answer) as server:
            scorer = judge(server.address, scoring="expected")
            if isinstance(expected[case["name"]], str):
                with pytest.raises(RuntimeError, match=expected[case["name"]]):
                    scorer.score(PREFERENCES, PAIRS)
            else:
                assert scorer.score(PREFERENCES, PAIRS).tolist() == [7] * 8, case["name"]
                assert scorer.usage.tokens < 10_000
