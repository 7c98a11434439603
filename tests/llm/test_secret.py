import json
import traceback
import warnings
from urllib.parse import quote

import pytest

from llmhd_pl.llm.endpoint import EndpointScorer
from llmhd_pl.llm.secret import Secrets, without_password
from tests.campaign.http_server import chat, http, serving
from tests.campaign.server_checks import KEY, PAIRS, always, judge


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.parametrize(
    "spelling",
    [
        KEY,
        quote(KEY, safe=""),
        quote(KEY, safe="").lower(),
        quote(quote(KEY, safe=""), safe=""),
        json.dumps(KEY)[1:-1],
        json.dumps(json.dumps(KEY))[3:-3],
        json.dumps(KEY)[1:-1].replace("/", "\\/"),
        "".join(f"\\u{ord(character):04x}" for character in KEY),
        "".join(f"&#{ord(character)};" for character in KEY),
        repr(KEY + "'")[1:-3],
        KEY.replace('"', "&quot;"),
    ],
)
def test_a_key_is_masked_in_every_spelling(spelling: str) -> None:
    assert Secrets([KEY]).mask(f"bad key Bearer {spelling}!") == "bad key Bearer ***!"


def test_a_short_key_does_not_spoil_every_word() -> None:
    assert Secrets(["x"]).mask("x is no maximum") == "*** is no maximum" and Secrets([""]).mask("text") == "text"


def test_a_quote_is_masked_before_it_is_cut() -> None:
    for start in range(280, 310):
        assert "sk-x" not in Secrets([KEY]).quote("a" * start + KEY)
    assert Secrets([]).quote("a\n\x1b[31m\ud83e b") == "a ?[31m? b" and len(Secrets([]).quote("a" * 400)) == 300


@pytest.mark.parametrize("status", [200, 302, 400, 401, 404, 402, 500])
@pytest.mark.parametrize("given", ["argument", "variable"])
def test_a_key_that_the_server_echoes_is_in_no_message(
    monkeypatch: pytest.MonkeyPatch, status: int, given: str
) -> None:
    if given == "variable":
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
    arguments = {} if given == "argument" else {"api_key": None}
    body = chat(f"no {KEY}") if status == 200 else {"error": {"message": f"no {KEY}"}}
    with (
        serving(always(http(body, status, f"Location: http://x/{quote(KEY)}"))) as server,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        scorer = judge(server.address, **arguments)
        with pytest.raises(RuntimeError) as error:
            scorer.score({0: "rivers"}, PAIRS)
    told = "".join(traceback.format_exception(error.value)) + "".join(str(each.message) for each in caught)
    told += scorer.refused + scorer.fault
    assert "***" in told and KEY not in told and json.dumps(KEY)[1:-1] not in told
    assert error.value.__context__ is None and error.value.__cause__ is None  # which would show the body


def test_a_password_in_base_url_is_sent_and_never_shown() -> None:
    body = {"error": {"message": "no user:pa ss%/word, no user:pa%20ss%25%2Fword"}}
    with serving(always(http(body, 401))) as server, pytest.raises(RuntimeError) as caught:
        judge("user:pa%20ss%25%2Fword@" + server.address).score({0: "rivers"}, PAIRS)
    assert "Basic dXNlcjpwYSBzcyUvd29yZA==" in server.headers[0]
    assert f"http://{server.address}/v1" in str(caught.value)
    assert "pa" + " ss" not in str(caught.value) and "pa%20" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["user:secret@host/v1", "ftp://user:secret@host", "http://user:secret@host:port", "http://user:sec/ret@host"]
)
def test_a_wrong_base_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"base_url is '\*\*\*@host") as caught:
        EndpointScorer("otter", url)
    told = "".join(traceback.format_exception(caught.value)).split("ValueError: ", 1)[1]
    assert "sec" not in told and caught.value.__context__ is None
    assert without_password("http://host/v1") == ("http://host/v1", None, [])


@pytest.mark.parametrize("key", ["sk-1\n", "schlüssel", "sk\x00"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ValueError, match=r"OPENAI_API_KEY.*Copy it anew") as caught:
        judge("127.0.0.1:1", api_key=key).score({0: "rivers"}, PAIRS)
    assert key.strip() not in str(caught.value)
