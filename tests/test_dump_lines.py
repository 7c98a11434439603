"""One line of a dump, in good order and hostile."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from llmhd_pl.dump_lines import LONGEST, SHOWN, Fields, parse_line, parse_reviews

FIELDS = Fields("user_id", "business_id", "stars", "date")
GOOD = {"user_id": "anna", "business_id": "b1", "stars": 4.0, "date": 1_252_800_000}


def parsed(*lines: bytes, literal: bool = False, fields: Fields = FIELDS) -> Any:
    return parse_reviews(b"\n".join(lines), literal, fields)


def changed(**values: Any) -> bytes:
    return json.dumps(GOOD | values).encode()


def fault(line: bytes, literal: bool = False) -> str:
    """What is said about a broken line between two good ones, which are kept."""
    good = repr(GOOD).encode() if literal else changed()
    found = parsed(good, line, good, literal=literal)
    assert (found.lines, found.broken, len(found.users)) == (3, 1, 2)
    assert len(found.users) == len(found.items) == len(found.ratings) == len(found.times)
    ((place, reason),) = found.faults
    assert place == 1
    return str(reason)


@pytest.mark.parametrize("literal", [False, True])
def test_good_lines(literal: bool) -> None:
    line = repr(GOOD).encode() if literal else changed()
    found = parsed(line + b"\r", b"", b" \t\r", b"  " + line, literal=literal)
    assert found.users == ["anna", "anna"] and found.items == ["b1", "b1"]
    assert found.ratings.tolist() == [4, 4] and found.times.tolist() == [1_252_800_000] * 2
    assert (found.lines, found.broken, found.faults) == (2, 0, [])


def test_what_python_2_wrote() -> None:
    line = rb"{u'user_id': u'\ud83d\ude00 \xe9\u2665', 'business_id': 725280, u'stars': 5, u'date': u'2017-12-17'}"
    found = parsed(line, literal=True)
    assert found.users == ["\U0001f600 é♥"] and found.items == ["725280"]
    assert found.times.tolist() == [1_513_468_800]


def test_dates_are_seconds_of_utc() -> None:
    found = parsed(changed(date="1970-01-02 00:00:05"), changed(date="1969-12-31"), changed(date=-3))
    assert found.times.tolist() == [86_405, -86_400, -3]


def test_escapes_of_json() -> None:
    line = rb'{"user_id": "\u00e9\ud83d\ude00\"", "business_id": "\u0062", "stars": 1e0, "date": 0}'
    found = parsed(line)
    assert found.users == ['é\U0001f600"'] and found.items == ["b"] and found.ratings.tolist() == [1.0]


def test_without_ratings() -> None:
    found = parsed(changed(), fields=Fields("user_id", "business_id", None, "date"))
    assert found.users == ["anna"] and len(found.ratings) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"user_id": None}, "user_id is missing"),
        ({"user_id": ""}, "user_id is '', not an identifier"),
        ({"user_id": ["anna"]}, "user_id is <list>, not"),
        ({"business_id": True}, "business_id is True, not"),
        ({"business_id": 1.5}, "business_id is 1.5, not"),
        ({"business_id": "half \ud800"}, "half a character"),
        ({"stars": None}, "stars is missing"),
        ({"stars": math.nan}, "stars is nan, not a finite number"),
        ({"stars": math.inf}, "stars is inf, not a finite number"),
        ({"stars": 10**400}, "stars is <int>, not a finite number"),
        ({"stars": "5.0"}, "stars is '5.0', not a finite number"),
        ({"stars": True}, "stars is True"),
        ({"date": 2**63}, "date is 9223372036854775808, not a time"),
        ({"date": 1.5}, "date is 1.5, not a time"),
        ({"date": False}, "date is False, not a time"),
        ({"date": "13 September"}, "date is '13 September', not a time"),
        ({"date": "2018-07-07T22:09:11+02:00"}, "not a time"),
        ({"date": "9" * 100_000}, "not a time"),
    ],
)
@pytest.mark.parametrize("literal", [False, True])
def test_values_that_are_none(values: dict[str, Any], message: str, literal: bool) -> None:
    if literal and any(isinstance(value, float) and not math.isfinite(value) for value in values.values()):
        pytest.skip("a literal has no such value")
    reason = fault(repr(GOOD | values).encode() if literal else changed(**values), literal)
    assert message in reason and len(reason) < 200


def test_a_key_that_is_missing() -> None:
    assert fault(b'{"user_id": "anna", "stars": 4, "date": 3}') == "business_id is missing"


HOSTILE = {
    "call": b"__import__('os').system('touch %s')",
    "call in a value": b"{'user_id': __import__('os').system('touch %s')}",
    "comprehension": b"{'user_id': [open('%s', 'w') for x in [1]]}",
    "attribute": b"{'user_id': ().__class__.__bases__[0].__subclasses__()}",
    "format": b"{'user_id': f'{open(\"%s\", \"w\")}'}",
    "power": b"{'user_id': 9**9**9**9}",
    "product": b"{'user_id': 'x' * 10**10}",
    "statement": b"import os",
    "brackets": b"{'user_id': " + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "open brackets": b"{'user_id': " + b"[" * 100_000,
    "signs": b"{'user_id': " + b"-" * 100_000 + b"1}",
    "sums": b"{'user_id': " + b"1+" * 100_000 + b"1}",
    "digits": b"{'user_id': " + b"1" * 100_000 + b"}",
    "unhashable": b"{'user_id': {[]}}",
    "NUL": b"{'user_id': '\x00'}",
    "cut off": b"{'user_id': 'an",
    "number": b"5",
    "not UTF-8": b"{'user_id': '\xff'}",
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE)
def test_hostile_literals_are_broken_lines_and_nothing_runs(line: bytes, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    reason = fault(line.replace(b"%s", str(touched).encode()), literal=True)
    assert len(reason) < 200 and " at 0x" not in reason
    assert not touched.exists()


@pytest.mark.parametrize(
    "line",
    [
        b"null",
        b"[1]",
        b"5",
        b'"text"',
        b"{",
        b'{"user_id": "an',
        changed() + changed(),
        changed() + b",",
        b'{"x": ' + b"[" * 1_000_000,
        b'{"x": ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001,
        changed(user_id="x").replace(b"x", b"\xff"),
        b"\x00",
    ],
)
def test_hostile_json(line: bytes) -> None:
    assert len(fault(line)) < 200


def test_a_line_that_is_too_long_is_not_parsed() -> None:
    assert fault(changed(text="x" * LONGEST)) == "longer than 4 MiB"


def test_a_backslash_that_is_no_escape_is_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    line = repr(GOOD).replace("anna", r"\d").encode()
    assert parsed(line, literal=True).users == [r"\d"]
    assert len(recwarn) == 0


def test_the_first_broken_lines_are_shown_and_all_are_counted() -> None:
    found = parsed(*[b"x"] * 9)
    assert (found.lines, found.broken) == (9, 9) and [place for place, _ in found.faults] == list(range(SHOWN))


def test_a_line_is_an_object() -> None:
    assert parse_line(b" {'a': (1, u'b')} ", literal=True) == {"a": (1, "b")}
    with pytest.raises(ValueError, match="a Python literal, but not an object"):
        parse_line(b"'a'", literal=True)
