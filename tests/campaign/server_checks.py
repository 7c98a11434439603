"""What a case of a server's fault asserts: the score, or the error that ends the run."""

import contextlib
import io
import json
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from llmhd_pl.llm.endpoint import EndpointScorer
from tests.campaign.http_server import Response, serving

KEY = 'sk-x/"y+z%w'
PAIRS = torch.tensor([[0, item] for item in range(8)])
Answer = Callable[[int, dict[str, Any]], Response]


def judge(address: str, **arguments: Any) -> EndpointScorer:
    given = {"api_key": KEY, "retries": 0, "timeout": 10, "scoring": "generate", "calibrate": False} | arguments
    scorer = EndpointScorer("otter", f"http://{address}/v1", **given)
    scorer.prepare([{"title": f"Otter {item}"} for item in range(8)], torch.empty(0, 2, dtype=torch.int64))
    return scorer


def always(response: Response) -> Answer:
    return lambda number, asked: response


def scores(
    answer: Answer, score: float, result: str, tokens: int | None = None, **arguments: Any
) -> Callable[..., str]:
    """The answer is read, and read as this score."""

    def check(folder: Path) -> str:
        with quiet(), serving(answer) as server:
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
    within: float = 30,
    **arguments: Any,
) -> Callable[..., str]:
    """The run ends with an error that names the cause, soon, and without the key."""

    def check(folder: Path) -> str:
        started = time.monotonic()
        with quiet(), serving(answer) as server, warnings.catch_warnings(record=True) as caught:
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No proxy, no key of the user's, and no progress bar."""
    nothing = {"NO_PROXY": "127.0.0.1", "OPENAI_API_KEY": ""}
    with mock.patch.dict(os.environ, nothing), contextlib.redirect_stdout(io.StringIO()):
        yield
