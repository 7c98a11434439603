"""EndpointScorer against real HTTP servers on this machine: every fault is one that a server really makes."""

import asyncio
import json
import math
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from test_token_probabilities import Places, tagged

from llmhd_pl.llm.cache import AnswerCache
from llmhd_pl.llm.endpoint import EndpointScorer

ITEMS = [{"title": f"Otter {number}"} for number in range(8)]
PREFERENCES = {0: "rivers", 1: "wolves"}
PAIRS = torch.tensor([[0, 0], [0, 1], [1, 0]])


@dataclass
class Reply:
    """What the server sends: a body, or the JSON of one."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None  # of the body, as the server claims
    hang: bool = False


class Server(ThreadingHTTPServer):
    """Answers the n-th request by ``answer(n, its JSON)``, and keeps what it was asked, and when."""

    request_queue_size = 64  # connections come all at once
    daemon_threads = True
    block_on_close = False  # a hanging handler would block it

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.in_flight = self.most_in_flight = 0
        self.answer: Callable[[int, dict[str, Any]], Reply] = lambda number, asked: Reply(chat(well(asked)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    server: Server

    def do_POST(self) -> None:
        server = self.server
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.asked)
            server.asked.append(asked)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.times.append(time.monotonic())
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        reply = server.answer(number, asked)
        with server.lock:
            server.in_flight -= 1  # before the client knows, or its next request would come too early
        if reply.hang:
            server.released.wait(30)
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(reply.length or len(body))}
        for name, value in (headers | reply.headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.close_connection or reply.length is not None

    def log_message(self, format: str, *args: Any) -> None:
        pass


def chat(text: Any, places: Places | None = None, usage: tuple[int, int] | None = (100, 5)) -> dict[str, Any]:
    """A chat completion; ``places`` are the tokens written, and the candidates of each with their probabilities."""
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if places is not None:
        content = []
        for token, candidates in places:
            top = [{"token": each, "logprob": math.log(p), "bytes": None} for each, p in candidates.items()]
            content.append({"token": token, "logprob": math.log(candidates[token]), "top_logprobs": top})
        choice["logprobs"] = {"content": content}
    answer: dict[str, Any] = {"id": "1", "object": "chat.completion", "choices": [choice], "logprobs": None}
    if usage is not None:
        answer["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return answer


def well(asked: dict[str, Any]) -> str:
    """The right form of answer to a prompt."""
    prompt = asked["messages"][0]["content"]
    if "<s>N</s>" in prompt:
        return "<s>7</s>"
    tag = "summarization" if "<summarization>" in prompt else "profile"
    return f"<{tag}>Likes otters.</{tag}>"


def probable(number: int, asked: dict[str, Any]) -> Reply:
    return Reply(chat("<s>8</s>", tagged(("8", {"8": 0.5, "6": 0.25, "of": 0.25}))))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def scorer(url: str, **arguments: Any) -> EndpointScorer:
    made = EndpointScorer(
        "otter-7b", url, **{"retries": 0, "timeout": 10, "scoring": "generate", "calibrate": False} | arguments
    )
    made.prepare(ITEMS, torch.empty(0, 2, dtype=torch.int64))
    return made


@pytest.fixture(autouse=True)
def warnings_are_errors() -> Iterator[None]:
    """A warning that no test expects is a fault that nobody meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


# ---- what is asked, and how answers are read


def test_summaries_revisions_and_generated_scores(server: Server) -> None:
    made = scorer(server.url, api_key="secret")
    assert made.summarize({0: [0, 1], 1: [2]}) == dict.fromkeys((0, 1), "Likes otters.")
    assert made.revise({0: "rivers"}, {0: [1]}, {}) == {0: "Likes otters."}
    assert made.score(PREFERENCES, PAIRS).tolist() == [7, 7, 7]
    for asked in server.asked:
        assert (asked["model"], asked["temperature"]) == ("otter-7b", 0)
        assert [message["role"] for message in asked["messages"]] == ["user"]
        assert "logprobs" not in asked
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert "secret" not in made.fingerprint and "otter-7b" in made.fingerprint
    assert made.usage.templates["T_sum"].calls == 2
    assert (made.usage.templates["T_sum"].prompt_tokens, made.usage.templates["T_sum"].answer_tokens) == (200, 10)


def test_the_key_is_the_variables_or_none(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer(server.url).summarize({0: [0]})
    monkeypatch.setenv("OPENAI_API_KEY", "from the variable")
    scorer(server.url).summarize({0: [0]})
    assert [each["authorization"] for each in server.headers] == ["Bearer none", "Bearer from the variable"]


def test_scores_are_means_under_the_probabilities(server: Server) -> None:
    server.answer = probable
    made = scorer(server.url, scoring="expected")
    assert made.score(PREFERENCES, PAIRS).tolist() == pytest.approx([(8 * 2 + 6) / 3] * 3)
    assert all(asked["logprobs"] is True and asked["top_logprobs"] == 20 for asked in server.asked)
    count = made.usage.templates["T_score"]
    assert (count.calls, count.prompt_tokens, count.answer_tokens, made.read_from_text) == (3, 300, 15, 0)


@pytest.mark.parametrize("text", ["7", "<s>7", "7</s>", " <s>7</s>\n"])
@pytest.mark.parametrize("scoring", ["generate", "expected"])
def test_tags_that_the_server_leaves_out_as_special_tokens_are_no_fault(
    server: Server, text: str, scoring: str
) -> None:
    server.answer = lambda number, asked: Reply(chat(text, [("7", {"7": 0.5, "5": 0.5})]))
    assert scorer(server.url, scoring=scoring).score(PREFERENCES, PAIRS[:1]).tolist() == [
        7 if scoring == "generate" else 6
    ]


# ---- no probabilities


def no_logprobs(number: int, asked: dict[str, Any]) -> Reply:
    if "logprobs" in asked:
        return Reply({"error": {"message": "logprobs are not supported by this model"}}, status=400)
    return Reply(chat("<s>7</s>"))


def broken_logprobs(logprobs: Any) -> Callable[[int, dict[str, Any]], Reply]:
    def answer(number: int, asked: dict[str, Any]) -> Reply:
        body = chat("<s>7</s>")
        body["choices"][0]["logprobs"] = logprobs
        return Reply(body)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        no_logprobs,
        broken_logprobs(None),
        broken_logprobs("none"),
        broken_logprobs({"content": None}),
        broken_logprobs({"content": []}),
        broken_logprobs({"content": [{"token": "7", "logprob": -0.1, "top_logprobs": []}]}),
        broken_logprobs({"content": [{"token": "7", "logprob": -0.1}]}),
        broken_logprobs({"content": [{"token": 7, "logprob": -0.1, "top_logprobs": []}]}),
        broken_logprobs({"content": [{"token": "7", "logprob": None, "top_logprobs": [{"token": "7"}]}]}),
        broken_logprobs({"content": [{"token": "7", "logprob": -(10**400), "top_logprobs": []}]}),
        broken_logprobs({"tokens": ["7"], "token_logprobs": [-0.1]}),
    ],
)
def test_without_probabilities_the_text_is_read_announced_once_and_counted(server: Server, answer: Any) -> None:
    server.answer = answer
    made = scorer(server.url, scoring="expected", concurrency=1)
    with pytest.warns(UserWarning, match="whole numbers read from its answers") as caught:
        assert made.score(PREFERENCES, PAIRS).tolist() == [7, 7, 7]
    assert len(caught) == 1 and made.read_from_text == 3
    if answer is no_logprobs:
        assert "logprobs are not supported" in str(caught[0].message)
        assert len(server.asked) == 1 + 3  # one refusal is enough
    made.score(PREFERENCES, torch.tensor([[0, 5]]))
    assert made.read_from_text == 4


def test_scores_from_texts_stay_marked_in_the_cache(server: Server, tmp_path: Path) -> None:
    arguments = {"scoring": "expected", "cache": str(tmp_path / "answers.db")}
    server.answer = no_logprobs
    with pytest.warns(UserWarning, match="not supported"):
        scorer(server.url, **arguments).score(PREFERENCES, PAIRS[:1])
    server.answer = probable
    mixed = scorer(server.url, **arguments)
    with pytest.warns(UserWarning, match="in the cache"):
        assert mixed.score(PREFERENCES, PAIRS)[0] == 7
    assert mixed.read_from_text == 1 and mixed.usage.templates["T_score"].cache_hits == 1
    pure = scorer(server.url, **arguments)
    assert pure.score(PREFERENCES, PAIRS[1:]).tolist() == pytest.approx([22 / 3] * 2)  # cached, and no warning
    assert pure.read_from_text == 0


def test_a_400_that_is_not_about_probabilities_is_no_reason_to_read_the_text(server: Server) -> None:
    server.answer = lambda number, asked: Reply({"error": {"message": "prompt too long"}}, status=400)
    made = scorer(server.url, scoring="expected", retries=3)
    with pytest.warns(UserWarning, match="too long") as caught:
        assert made.score(PREFERENCES, PAIRS).isnan().all()
    assert len(caught) == 1 and len(server.asked) == 3 and made.read_from_text == 0
    assert made.usage.templates["T_score"].unanswered == 3 and made.usage.tokens == 0


def test_models_that_want_other_arguments_get_them(server: Server) -> None:
    def refusal(parameter: str, code: str) -> Reply:
        message = f"{parameter} is not supported with this model."
        return Reply({"error": {"message": message, "param": parameter, "code": code}}, status=400)

    def answer(number: int, asked: dict[str, Any]) -> Reply:
        if "max_tokens" in asked:
            return refusal("max_tokens", "unsupported_parameter")
        return refusal("temperature", "unsupported_value") if "temperature" in asked else Reply(chat(well(asked)))

    server.answer = answer
    made = scorer(server.url, concurrency=1)
    with pytest.warns(UserWarning, match="temperature is not supported.*Answers vary") as caught:
        assert made.score(PREFERENCES, PAIRS).tolist() == [7, 7, 7]
    assert len(caught) == 1 and len(server.asked) == 2 + 3  # one refusal of each is enough
    assert server.asked[-1]["max_completion_tokens"] == server.asked[0]["max_tokens"]


@pytest.mark.parametrize("scoring", ["generate", "expected"])
@pytest.mark.parametrize(
    ("reply", "fault"),
    [(Reply({"error": {"message": "no chat"}}, status=400), "no chat"), (Reply(chat("")), "its answers are empty")],
)
def test_a_server_that_answers_nothing_ends_the_run(server: Server, scoring: str, reply: Reply, fault: str) -> None:
    server.answer = lambda number, asked: reply
    made = scorer(server.url, scoring=scoring)
    pairs = torch.tensor([[user, item] for user in (0, 1) for item in range(4)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(RuntimeError, match=f"none of 8 prompts to 'otter-7b'.*{fault}"):
            made.score(PREFERENCES, pairs)
        server.answer = lambda number, asked: Reply(chat(well(asked)))
        assert made.score(PREFERENCES, pairs).tolist() == [7] * 8
        server.answer = lambda number, asked: reply  # once it has answered, a bad batch is no reason to stop
        assert made.score({0: "lakes", 1: "seas"}, pairs).isnan().all()


# ---- faults that pass


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_asked_again(server: Server, status: int) -> None:
    def answer(number: int, asked: dict[str, Any]) -> Reply:
        return Reply({}, status=status, headers={"Retry-After": "0.01"}) if number < 2 else Reply(chat(well(asked)))

    server.answer = answer
    made = scorer(server.url, retries=2)
    assert made.summarize({0: [0]}) == {0: "Likes otters."}
    assert len(server.asked) == 3 and made.usage.templates["T_sum"].calls == 1


def test_retry_after_is_waited_for(server: Server) -> None:
    def answer(number: int, asked: dict[str, Any]) -> Reply:
        return Reply({}, status=429, headers={"Retry-After": "1"}) if number == 0 else Reply(chat(well(asked)))

    server.answer = answer
    assert scorer(server.url, retries=1).summarize({0: [0]}) == {0: "Likes otters."}
    assert server.times[1] - server.times[0] > 0.95  # without it: at most .5


def fails_for(word: str, reply: Reply) -> Callable[[int, dict[str, Any]], Reply]:
    return lambda number, asked: reply if word in asked["messages"][0]["content"] else Reply(chat(well(asked)))


def half(text: bytes = b'{"choices": [{"mess') -> Reply:
    return Reply(text, length=1000)


@pytest.mark.parametrize(
    ("reply", "tries", "warning"),
    [
        (Reply({}, status=500, headers={"Retry-After": "0.01"}), 3, "500"),
        (Reply({}, status=429, headers={"Retry-After": "0.01"}), 3, "429"),
        (Reply(b"", hang=True), 1, "timed out"),
        (half(), 1, "closed"),
        (Reply(b'{"choices": [{"mess'), 1, "not a chat completion"),
        (Reply(b"<html>busy</html>", headers={"Content-Type": "text/html"}), 1, "<html>busy"),
        (Reply(b"\xff\xfe\x00"), 1, "not a chat completion"),
        (Reply(b"[" * 100_000), 1, "not a chat completion"),
        (Reply([]), 1, "not a chat completion"),
        (Reply({"choices": []}), 1, "not a chat completion"),
        (Reply({"choices": "7"}), 1, "not a chat completion"),
        (Reply({"choices": [{"message": None}]}), 1, "not a chat completion"),
        (Reply(chat(None)), 1, "not a chat completion"),
        (Reply(chat("<x>7</x>")), 1, None),
        (Reply(chat("<s>11</s>")), 1, None),
        (Reply(chat("")), 1, None),
    ],
)
@pytest.mark.parametrize("scoring", ["generate", "expected"])
def test_what_does_not_pass_is_unanswered_and_the_others_are_answered(
    server: Server, tmp_path: Path, scoring: str, reply: Reply, tries: int, warning: str | None
) -> None:
    slow = reply.hang
    cache = str(tmp_path / "answers.db")
    made = scorer(server.url, scoring=scoring, cache=cache, retries=tries - 1, timeout=3 if slow else 10)
    good = probable(0, {}) if scoring == "expected" else Reply(chat("<s>7</s>"))
    server.answer = lambda number, asked: reply if "Otter 1" in asked["messages"][0]["content"] else good
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        scores = made.score(PREFERENCES, torch.tensor([[0, 0], [0, 1], [1, 1], [1, 2]]))
    assert scores.isnan().tolist() == [False, True, True, False]
    assert len(server.asked) == 2 + 2 * tries
    assert made.usage.templates["T_score"].unanswered == 2 and made.usage.templates["T_score"].calls == 4
    messages = [str(each.message) for each in caught]
    assert len(messages) == (warning is not None) and all(str(warning) in message for message in messages)
    with AnswerCache(cache) as answers:
        assert len(answers) == 2  # what failed is asked again by the next run
    if warning is not None:
        assert made.usage.templates["T_score"].prompt_tokens == 200


def test_half_an_answer_is_asked_again(server: Server) -> None:
    server.answer = lambda number, asked: half() if number == 0 else Reply(chat(well(asked)))
    assert scorer(server.url, retries=1).summarize({0: [0]}) == {0: "Likes otters."}


def test_a_timeout_is_asked_again(server: Server) -> None:
    server.answer = lambda number, asked: Reply(b"", hang=True) if number == 0 else Reply(chat(well(asked)))
    assert scorer(server.url, retries=1, timeout=3).summarize({0: [0]}) == {0: "Likes otters."}


# ---- faults that do not


@pytest.mark.parametrize(("status", "remedy"), [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "'otter-7b'")])
@pytest.mark.parametrize("scoring", ["generate", "expected"])
def test_a_refused_key_or_model_ends_the_run(server: Server, status: int, remedy: str, scoring: str) -> None:
    def answer(number: int, asked: dict[str, Any]) -> Reply:
        time.sleep(0.02)  # or all are asked before the first refusal is seen
        return Reply({"error": {"message": "no, never"}}, status=status)

    server.answer = answer
    made = scorer(server.url, scoring=scoring, retries=3, concurrency=1)
    with pytest.raises(RuntimeError, match=f"{server.url}.*no, never.*") as caught:
        made.score(PREFERENCES, torch.tensor([[0, item] for item in range(8)]))
    assert remedy in str(caught.value)
    assert len(server.asked) < 8  # neither retried nor asked on; some more may have been under way


@pytest.mark.parametrize("scoring", ["generate", "expected"])
def test_what_was_answered_before_the_key_was_refused_is_kept(server: Server, tmp_path: Path, scoring: str) -> None:
    def answer(number: int, asked: dict[str, Any]) -> Reply:
        return probable(number, asked) if number < 3 else Reply({"error": {"message": "no more"}}, status=401)

    server.answer = answer
    cache = str(tmp_path / "answers.sqlite")
    made = scorer(server.url, scoring=scoring, concurrency=1, cache=cache)
    with pytest.raises(RuntimeError, match="no more"):
        made.score(PREFERENCES, torch.tensor([[0, item] for item in range(8)]))
    with AnswerCache(tmp_path / "answers.sqlite") as kept:
        assert len(kept) == 3
    assert made.usage.tokens == 3 * 105


def unused_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


@pytest.mark.parametrize("scoring", ["generate", "expected"])
def test_a_server_that_is_not_there_ends_the_run(monkeypatch: pytest.MonkeyPatch, scoring: str) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url = unused_url()
    with (
        pytest.warns(UserWarning, match="unanswered"),
        pytest.raises(ConnectionError, match=f"None of 3 requests to {url}.*refused.*base_url"),
    ):
        scorer(url, scoring=scoring).score(PREFERENCES, PAIRS)


def test_a_server_that_never_answers_ends_the_run(server: Server) -> None:
    server.answer = lambda number, asked: Reply(b"", hang=True)
    start = time.monotonic()
    with pytest.warns(UserWarning), pytest.raises(ConnectionError, match=r"timed out.*raise timeout"):
        scorer(server.url, timeout=0.2).summarize({0: [0]})
    assert time.monotonic() - start < 5


def test_a_server_that_goes_away_later_ends_the_run_as_at_its_start(server: Server, tmp_path: Path) -> None:
    cache = str(tmp_path / "answers.db")
    made = scorer(server.url, cache=cache)
    made.summarize({0: [0]})
    server.answer = lambda number, asked: half(b"")
    with (
        pytest.warns(UserWarning, match="unanswered"),
        pytest.raises(ConnectionError, match=r"None of 2 requests.*closed.*resume from the last checkpoint"),
    ):
        made.summarize({0: [1], 1: [2]})
    server.answer = lambda number, asked: Reply(chat(well(asked)))
    again = scorer(server.url, cache=cache)
    assert again.summarize({0: [0]}) == {0: "Likes otters."} and again.usage.tokens == 0  # what was paid for is kept
    assert made.summarize({0: [1], 1: [2]}) == dict.fromkeys((0, 1), "Likes otters.")


# ---- concurrency, cache, budget


@pytest.mark.parametrize("scoring", ["generate", "expected"])
def test_as_many_requests_as_allowed_are_in_flight_and_no_more(server: Server, scoring: str) -> None:
    together = threading.Barrier(4)

    def answer(number: int, asked: dict[str, Any]) -> Reply:
        together.wait(10)  # comes back only when four are in flight
        time.sleep(0.02)
        return probable(number, asked)

    server.answer = answer
    made = scorer(server.url, scoring=scoring, concurrency=4)
    pairs = torch.tensor([[user, item] for user in (0, 1) for item in range(8)])
    assert not made.score(PREFERENCES, pairs).isnan().any()
    assert len(server.asked) == 16 and server.most_in_flight == 4


def test_scores_belong_to_their_pairs_whatever_the_order_of_the_answers(server: Server) -> None:
    def answer(number: int, asked: dict[str, Any]) -> Reply:
        item = next(item for item in range(8) if f"Otter {item}" in asked["messages"][0]["content"])
        time.sleep(0.01 * (8 - item))
        return Reply(chat(f"<s>{item + 1}</s>", tagged((str(item + 1), {str(item + 1): 1.0, "x": 1e-9}))))

    server.answer = answer
    pairs = torch.tensor([[user, item] for item in range(8) for user in (0, 1)])
    for scoring in ("generate", "expected"):
        scores = scorer(server.url, scoring=scoring).score(PREFERENCES, pairs)
        assert scores.tolist() == pytest.approx([item + 1 for item in range(8) for _ in (0, 1)])


@pytest.mark.parametrize("scoring", ["generate", "expected"])
def test_a_second_run_asks_nothing_and_needs_no_client(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scoring: str
) -> None:
    server.answer = lambda number, asked: probable(number, asked) if "<s>" in well(asked) else Reply(chat(well(asked)))
    arguments = {"cache": str(tmp_path / "answers.db"), "scoring": scoring}
    first = scorer(server.url, **arguments)
    before = first.summarize({0: [0]}), first.score(PREFERENCES, PAIRS).tolist()
    asked = len(server.asked)
    monkeypatch.setitem(sys.modules, "openai", None)
    second = scorer(server.url, **arguments)
    assert (second.summarize({0: [0]}), second.score(PREFERENCES, PAIRS).tolist()) == before
    assert len(server.asked) == asked and second.usage.tokens == 0


def test_the_budget_ends_the_asking_by_what_the_server_counts(server: Server) -> None:
    server.answer = lambda number, asked: Reply(chat(well(asked), usage=(10_000, 50)))
    made = scorer(server.url, max_tokens=9_000)
    assert made.summarize({0: [0]}) == {0: "Likes otters."}  # estimated far below
    with pytest.warns(UserWarning, match="max_tokens=9,000"):
        assert made.summarize({0: [1]}) == {}
    assert len(server.asked) == 1 and made.usage.tokens == 10_050


@pytest.mark.parametrize("usage", [None, {}, "much", {"prompt_tokens": -1, "completion_tokens": "5"}])
def test_tokens_are_estimated_where_the_server_does_not_count(server: Server, usage: Any) -> None:
    server.answer = lambda number, asked: Reply(chat(well(asked), usage=None) | {"usage": usage})
    made = scorer(server.url)
    made.summarize({0: [0]})
    prompt = server.asked[0]["messages"][0]["content"]
    count = made.usage.templates["T_sum"]
    assert (count.prompt_tokens, count.answer_tokens) == (
        made.count_tokens(prompt),
        made.count_tokens(well(server.asked[0])),
    )


def test_half_a_character_is_no_fault(server: Server) -> None:
    server.answer = lambda number, asked: Reply(chat("<summarization>Otters \ud83e</summarization>", usage=None))
    assert scorer(server.url).summarize({0: [0]}) == {0: "Otters ?"}


def test_it_works_inside_a_running_event_loop(server: Server) -> None:
    async def main() -> list[float]:
        scores: list[float] = scorer(server.url).score(PREFERENCES, PAIRS).tolist()
        return scores

    assert asyncio.run(main()) == [7, 7, 7]


# ---- wrong use


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": ""}, "model"),
        ({"base_url": "localhost:8000/v1"}, "http://"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"timeout": math.nan}, "timeout is nan"),
        ({"retries": -1}, "retries is -1"),
        ({"scoring": "guess"}, "guess"),
        ({"replay": True}, "replay"),
    ],
)
def test_arguments_that_make_no_sense_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EndpointScorer(**{"model": "otter-7b", "base_url": "http://127.0.0.1/v1"} | arguments)


def test_a_missing_client_is_named_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    made = scorer("http://127.0.0.1:1/v1")
    with pytest.raises(ImportError, match=r"pip install openai"):
        made.summarize({0: [0]})
