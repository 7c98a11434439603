"""Cached answers are not trusted: whatever wrote the file, an answer is given out if a model can have given it."""

import json
import sqlite3
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from test_language_model import Parrot, parrot
from titles import TITLES, shared_titles

from llmhd_pl.llm.answer_rows import answer_key, fault
from llmhd_pl.llm.cache import AnswerCache

EXPECTED, GENERATE, LIKELIHOOD = (
    json.dumps({"model": "m", "scoring": scoring}) for scoring in ("expected", "generate", "likelihood")
)
SUMMARY = "<summarization>Likes otters.</summarization>"


def row(template: Any, answer: Any, fingerprint: Any = EXPECTED, tokens: Any = 3) -> tuple[Any, ...]:
    return answer_key(fingerprint, "p"), fingerprint, "p", template, answer, 12, tokens


@pytest.mark.parametrize(
    ("template", "answer", "fingerprint"),
    [
        *(("T_score", number, EXPECTED) for number in ("1.0", "10.0", "9.999999999999998", "7", "1.0000000000000002")),
        *(("T_score", number, GENERATE) for number in ("<s>1</s>", " <s>10</s>\n")),
        *(("T_score", number, "of another program") for number in ("<s>1</s>", "7.5")),
        *(("T_sum", SUMMARY, fingerprint) for fingerprint in (EXPECTED, GENERATE, "[" * 99_999)),
        ("T_FP", "Yes.\n<profile>Köln</profile>", EXPECTED),
        ("T_FN", "<profile>a</profile>", GENERATE),
        *(("likelihood", number, LIKELIHOOD) for number in ("-12.5", "-0.0", "0.0", "-1e-05", "-3000.25")),
        ("my own template", "anything", EXPECTED),
    ],
)
def test_what_a_model_can_have_answered_is_valid(template: str, answer: str, fingerprint: str) -> None:
    assert fault(row(template, answer, fingerprint)) is None


SCORES = [
    *(
        "1000.0",
        "11",
        "10.5",
        "0.9",
        "0",
        "-50",
        "inf",
        "-inf",
        "nan",
        "1e30",
        "1e0",
        "banana",
        "7,5",
        "7.",
        ".5",
        "\u0667",
    ),
    *("1_0", " 7.0", "7.0\n", "+7.0", "007", "<s>7</s>", "None", "True", "0x7", "7.0 "),
]


@pytest.mark.parametrize(
    ("template", "answer", "fingerprint"),
    [
        *(("T_score", score, EXPECTED) for score in SCORES),
        *(
            ("likelihood", text, LIKELIHOOD)
            for text in ("0.5", "nan", "-inf", "inf", "-1", "-1e999", "-1.50", "x", "-1_0.0")
        ),
        *(
            ("T_score", score, GENERATE)
            for score in ("7.0", "7", "<s>11</s>", "<s>0</s>", "<s>7", "a <s>7</s>", SUMMARY)
        ),
        *(("T_score", score, "of another program") for score in ("1000.0", "banana", "<s>0</s>")),
        *(
            ("T_sum", text, EXPECTED)
            for text in ("Likes otters.", "7.0", 2 * SUMMARY, "<summarization>...</summarization>")
        ),
        *(
            (name, text, EXPECTED)
            for name in ("T_FP", "T_FN")
            for text in ("Likes otters.", SUMMARY, "<profile></profile>")
        ),
        *((name, empty, EXPECTED) for name in ("T_score", "T_sum", "T_FP", "my own template") for empty in ("", " \n")),
    ],
)
def test_what_no_model_can_have_answered_is_a_fault(template: str, answer: str, fingerprint: str) -> None:
    assert "answer is" in str(fault(row(template, answer, fingerprint)))


@pytest.mark.parametrize("value", [None, 7.0, 7, b"7.0", b"\xff", True, "7.0"])
def test_a_column_of_another_type_is_a_fault(value: object) -> None:
    for place, name in enumerate(
        ("key", "fingerprint", "prompt", "template", "answer", "prompt_tokens", "answer_tokens")
    ):
        columns: list[Any] = list(row("T_score", "7.0"))
        if type(value) is not type(columns[place]):
            columns[place] = value
            assert str(fault(columns)).startswith(f"{name} is not ")


@pytest.mark.parametrize("tokens", [-1, 2**63, "3", 1e30, None, True])
def test_numbers_of_tokens_that_cannot_be_are_faults(tokens: object) -> None:
    assert fault(row("T_score", "7.0", tokens=tokens)) is not None


def test_an_answer_to_another_prompt_or_template_is_a_fault() -> None:
    columns = row("T_score", "7.0")
    for place, value in ((0, b"x" * 32), (1, "m"), (2, "q")):
        assert "key is that of another prompt" in str(fault((*columns[:place], value, *columns[place + 1 :])))
    assert fault(columns, "T_score") is None and "belongs to 'T_score' and not to T_sum" in str(fault(columns, "T_sum"))


# Through the whole of a scorer

SPOILED: dict[str, tuple[str, object]] = {
    **{
        value: ("answer", value)
        for value in ("1000.0", "inf", "nan", "-50", "banana", "", "0.99", "<s>7</s>", "Boats.")
    },
    "a blob": ("answer", b"7.0"),
    "invalid UTF-8": ("answer", "CAST(x'37ff' AS TEXT)"),
    "tokens as text": ("prompt_tokens", "many"),
    "negative tokens": ("answer_tokens", -1),
    "1e30 tokens": ("answer_tokens", 1e30),
    "another template": ("template", "T_FP"),
    "an unknown template": ("template", "T_own"),
    "another prompt": ("prompt", "Is the moon made of cheese?"),
    "another fingerprint": ("fingerprint", "somebody"),
}


def spoil(path: Path, column: str, value: object, template: str) -> None:
    connection = sqlite3.connect(path)
    raw = isinstance(value, str) and value.startswith("CAST(")
    connection.execute(
        f"UPDATE answers SET {column} = {value if raw else '?'} WHERE template = ?",
        ([] if raw else [value]) + [template],
    )
    connection.commit()
    connection.close()


def ask(scorer: Parrot) -> tuple[dict[int, Any], torch.Tensor]:
    return scorer.summarize({4: [0]}), scorer.score({4: "Otter"}, torch.tensor([[4, 1], [4, 2]]))


@pytest.mark.parametrize("scoring", ["expected", "generate"])
@pytest.mark.parametrize("template", ["T_score", "T_sum"])
@pytest.mark.parametrize("name", SPOILED)
def test_a_cached_answer_that_is_not_valid_is_asked_anew_and_replaced(
    tmp_path: Path, name: str, template: str, scoring: str
) -> None:
    path = tmp_path / "answers.sqlite"
    column, value = SPOILED[name]
    value = "7.0" if scoring == "generate" and value == "<s>7</s>" else value
    arguments: dict[str, Any] = {"cache": str(path), "scoring": scoring}
    summaries, scores = ask(parrot(**arguments))
    spoil(path, column, value, template)

    replayed = parrot(replay=True, **arguments)
    with pytest.raises(ValueError, match=rf"{path}, row \d of the table answers: .*Take a sound copy of the file"):
        ask(replayed)

    again = parrot(**arguments)
    with pytest.warns(UserWarning, match="no answers") as caught:
        assert ask(again)[0] == summaries and torch.equal(ask(again)[1], scores)
    (warning,) = caught  # although there are two rows and three calls
    count = 2 if template == "T_score" else 1
    told = 1 if name == "an unknown template" else count  # whether others of that template are right, nobody knows
    assert f"{path} has {told} rows that are no answers" in str(warning.message) and "row " in str(warning.message)
    assert len(again.asked) == count

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        third = parrot(**arguments)
        assert ask(third)[0] == summaries and torch.equal(ask(third)[1], scores) and third.asked == []


@pytest.mark.parametrize("answer", ["1000.0", "nan", "banana", "<s>7</s>"])
def test_an_import_takes_no_answer_that_no_model_can_have_given_and_replaces_those(tmp_path: Path, answer: str) -> None:
    path, file = tmp_path / "answers.sqlite", tmp_path / "answers.jsonl"
    good = {"fingerprint": EXPECTED, "template": "T_score", "prompt": "p", "answer": "7.5", "prompt_tokens": 1}
    with AnswerCache(path) as cache:
        file.write_text(
            "".join(json.dumps(good | {"answer": text, "answer_tokens": 1}) + "\n" for text in ("7.5", answer))
        )
        with pytest.raises(
            ValueError, match=r"answers.jsonl, line 2: .*score of 1 to 10, as a number.*Nothing was imported"
        ):
            cache.import_jsonl(file)
        file.write_text(json.dumps(good | {"answer_tokens": 1}) + "\n")
        assert len(cache) == 0 and cache.import_jsonl(file) == 1 and cache.import_jsonl(file) == 0
        cache.connection.execute("UPDATE answers SET answer = ?", (answer,))
        assert cache.import_jsonl(file) == 1 and cache.get(EXPECTED, ["p"]) == {"p": "7.5"}


def test_an_export_leaves_out_what_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    ask(parrot(cache=str(path)))
    spoil(path, "answer", b"\xff", "T_sum")
    with AnswerCache(path) as cache, pytest.warns(UserWarning, match="has 1 rows that are no answers"):
        assert cache.export_jsonl(tmp_path / "answers.jsonl") == 2
    with AnswerCache(path, replay=True) as cache, pytest.raises(ValueError, match=r"row 1 of the table answers"):
        cache.export_jsonl(tmp_path / "other.jsonl")
    assert not (tmp_path / "other.jsonl").exists()


def test_half_a_character_in_a_prompt_is_no_error(tmp_path: Path) -> None:
    from test_answer_file import answers

    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        cache.put("m\udce9", "T_score", answers("Half \ud800", "Whole"))
        assert cache.get("m\udce9", ["Half \ud800", "Half \ud801"]) == {"Half \ud800": "<s>7</s>"}
        assert cache.export_jsonl(tmp_path / "a.jsonl") == 2


@pytest.mark.parametrize("scoring", ["expected", "generate"])
@pytest.mark.parametrize("titles", [TITLES, shared_titles() or ["shared/ is not here"]])
def test_a_judge_with_a_cache_survives_every_title(tmp_path: Path, titles: list[str], scoring: str) -> None:
    arguments: dict[str, Any] = {"cache": str(tmp_path / "answers.sqlite"), "scoring": scoring}
    pairs = torch.tensor([[0, item] for item in range(len(titles))])
    asked = []
    for _ in range(2):
        scorer = Parrot(calibrate=False, **arguments)
        scorer.prepare([{"title": title, f"name {title}": title} for title in titles], pairs)
        scorer.summarize({item: [item] for item in range(len(titles))})
        scorer.revise({0: "\ud800 Otter"}, {0: list(range(len(titles)))}, {})
        assert scorer.score({0: "Otter \ud800"}, pairs).shape == (len(titles),)
        asked.append(len(scorer.asked))
        assert all(prompt.encode() for prompt in scorer.asked)
    assert asked[0] > asked[1]  # but for those without an answer, all is in the cache
    with AnswerCache(arguments["cache"]) as cache:
        assert cache.export_jsonl(tmp_path / "answers.jsonl") == len(cache) > 0
    with AnswerCache(tmp_path / "other.sqlite") as other:
        assert other.import_jsonl(tmp_path / "answers.jsonl") == len(other)
