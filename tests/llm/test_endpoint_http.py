import socket
import threading
import time
import warnings

import pytest

from llmhd_pl.llm.endpoint_http import _retry_after
from tests.campaign.http_server import Response, chat, drip, hang, http, serving
from tests.campaign.server_checks import PAIRS, always, judge

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (drip(HEAD, b"X: a\r\n"), "more than 0.6 seconds"),
        (drip(HEAD + b"X: ", b"a"), "more than 0.6 seconds"),
        (drip(HEAD + b"Content-Length: 999\r\n\r\n", b" "), "more than 0.6 seconds"),
        (drip(b"HTTP/1.1 503 X\r\nContent-Length: 999\r\n\r\n", b" "), "more than 0.6 seconds"),
        (hang(HEAD), "timed out"),
    ],
)
def test_a_request_has_a_limit_of_time_however_lively_the_server_seems(response: Response, told: str) -> None:
    with serving(always(response)) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        started = time.monotonic()
        with pytest.raises(ConnectionError, match=told):
            judge(server.address, timeout=0.3).score({0: "rivers"}, PAIRS[:2])
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("status", [b"200 OK", b"500 X", b"400 X"])
def test_a_body_has_a_limit_of_size(status: bytes) -> None:
    sent = 0

    def endless(connection: socket.socket, over: threading.Event) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\n\r\n")
        while sent < 100_000_000:
            sent += connection.send(b" " * 100_000)

    with serving(always(endless)) as server, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scorer = judge(server.address, timeout=30)
        assert scorer.score({0: "rivers"}, PAIRS[:1]).isnan().all()
    told = "4,000,000 bytes" if status == b"200 OK" else f"status {status[:3].decode()}"
    assert told in "".join(str(each.message) for each in caught) and sent < 50_000_000


def test_redirects_are_not_followed() -> None:
    with serving(always(http(chat()))) as elsewhere:
        redirect = http(b"", 307, f"Location: http://{elsewhere.address}/v1/chat/completions")
        with serving(always(redirect)) as server, pytest.raises(RuntimeError, match=f"redirects.*{elsewhere.address}"):
            judge(server.address).score({0: "rivers"}, PAIRS)
        assert not elsewhere.asked  # the key stays here


@pytest.mark.parametrize(
    "value", ["-5", "0", "nan", "-inf", "soon", "", "Mon, 01 Jan 1990 00:00:00 GMT", "9" * 5000 + "x"]
)
def test_a_retry_after_that_makes_no_sense_is_not_obeyed(value: str) -> None:
    assert _retry_after({"retry-after": value}) is None


def test_a_retry_after_of_ages_is_not_waited_for() -> None:
    for value in ("1e9", "inf", "121", "Fri, 01 Feb 2999 00:00:00 GMT"):
        assert (_retry_after({"retry-after": value}) or 0) > 120
        with serving(always(http({}, 503, f"Retry-After: {value}"))) as server:
            with pytest.warns(UserWarning, match="503"):
                judge(server.address, retries=3).score({0: "rivers"}, PAIRS[:1])
            assert len(server.asked) == 1
    assert _retry_after({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
