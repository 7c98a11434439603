import json
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_answer_file import answers, garbage

from llmhd_pl.llm.cache import Answer, AnswerCache, MissingAnswersError, answer_key


def summary(text: str) -> str:
    return f"<summarization>{text}</summarization>"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "answers.sqlite"


def test_an_answer_is_kept_under_its_fingerprint_and_prompt(path: Path) -> None:
    with AnswerCache(path) as cache:
        assert cache.get("model", ["a", "b"]) == {} and len(cache) == 0
        cache.put("model", "T_score", [Answer("a", " <s>6</s>\n", 12, 3)])
        cache.put("other", "T_score", answers("a", "b"))
        assert cache.get("model", ["a", "b", "a"]) == {"a": " <s>6</s>\n"}
        assert cache.get("model", []) == {} and len(cache) == 3
    with AnswerCache(path) as cache:  # it is on disk
        assert cache.get("other", ["a", "b"]) == {"a": "<s>7</s>", "b": "<s>7</s>"}


def test_everything_that_was_put_is_stored(path: Path) -> None:
    with AnswerCache(path) as cache:
        cache.put("model", "T_sum", [Answer("a", summary("b"), 12, 3)])
    row = sqlite3.connect(path).execute(
        "SELECT fingerprint, prompt, template, answer, prompt_tokens, answer_tokens FROM answers"
    )
    assert row.fetchall() == [("model", "a", "T_sum", summary("b"), 12, 3)]


def test_the_first_answer_stays(path: Path) -> None:
    with AnswerCache(path) as cache:
        cache.put("model", "T_score", answers("a", answer="1"))
        cache.put("model", "T_score", answers("a", "b", answer="2"))
        assert cache.get("model", ["a", "b"]) == {"a": "1", "b": "2"}


@given(st.text("a1 ", max_size=9), st.integers(0, 9), st.integers(0, 9))
def test_a_fingerprint_never_passes_for_a_part_of_the_prompt(text: str, first: int, second: int) -> None:
    one, two = ((text[:cut], text[cut:]) for cut in (first, second))
    assert (answer_key(*one) == answer_key(*two)) == (one == two)


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_answer_is_refused_with_its_batch(path: Path, empty: str) -> None:
    with AnswerCache(path) as cache:
        with pytest.raises(ValueError, match="empty answer to a T_score prompt"):
            cache.put("model", "T_score", [*answers("a"), Answer("b", empty, 12, 0)])
        assert len(cache) == 0


def test_a_batch_that_fails_in_the_middle_leaves_nothing_and_the_cache_works_on(path: Path) -> None:
    with AnswerCache(path) as cache:
        with pytest.raises(ValueError, match="that many tokens"):
            cache.put("model", "T_score", [*answers("a"), Answer("b", "<s>7</s>", 12, 2**63)])
        with pytest.raises(RuntimeError, match="fire"), cache.transaction():
            cache.connection.execute("INSERT INTO answers VALUES (x'00', '', '', '', '', 0, 0)")
            raise RuntimeError("fire")
        assert len(cache) == 0
        cache.put("model", "T_score", answers("a"))
        assert len(cache) == 1


def test_more_prompts_than_sqlite_takes_in_one_query(path: Path) -> None:
    prompts = [f"prompt {number}" for number in range(100_000)]
    with AnswerCache(path) as cache:
        cache.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)  # some builds allow more
        cache.put("model", "T_score", answers(*prompts[::2]))
        found = cache.get("model", prompts)
    assert found.keys() == set(prompts[::2])


# Replay


def test_replay_answers_from_the_file_and_names_what_is_missing(path: Path) -> None:
    with AnswerCache(path) as cache:
        cache.put("model", "T_score", answers("a", "b"))
    prompt = "\n".join(f"line {number}" for number in range(40))
    with AnswerCache(path, replay=True) as cache:
        assert cache.get("model", ["a", "b"]) == {"a": "<s>7</s>", "b": "<s>7</s>"}
        with pytest.raises(MissingAnswersError) as caught:
            cache.get("model", ["a", prompt, "short", prompt])
        message = str(caught.value)
        assert str(path) in message and "no answer to 2 of 3 prompts" in message and "Fingerprint: model" in message
        assert "    line 0\n" in message and "    line 11\n    ..." in message and "line 12" not in message
        with pytest.raises(MissingAnswersError, match=r"1 of 1 prompts(.|\n)*Fingerprint: other(.|\n)*    a$"):
            cache.get("other", ["a"])


def test_replay_writes_nothing(path: Path, tmp_path: Path) -> None:
    with AnswerCache(path) as cache:
        cache.put("model", "T_score", answers("a"))
        cache.export_jsonl(tmp_path / "answers.jsonl")
    before, files = path.read_bytes(), sorted(path.parent.iterdir())
    with AnswerCache(path, replay=True) as cache:
        assert cache.get("model", [answer.prompt for answer in answers("a")])
        assert sorted(path.parent.iterdir()) == files  # SQLite would put two files beside it, if it could
        for write in (
            lambda: cache.put("model", "T_score", answers("b")),
            lambda: cache.import_jsonl(tmp_path / "answers.jsonl"),
        ):
            with pytest.raises(RuntimeError, match="being replayed"):
                write()
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            cache.connection.execute("DELETE FROM answers")
    assert path.read_bytes() == before


def test_replay_of_nothing_is_refused_and_makes_no_file(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no answer cache .*answers.sqlite to replay"):
        AnswerCache(path, replay=True)
    assert not path.parent.exists()


# JSONL


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["one", "two"]), st.text(st.characters(exclude_categories=["Cs"]))),
        st.tuples(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip), st.integers(0), st.integers(0)),
    ).map(lambda rows: {key: (text, min(a, 2**60), min(b, 2**60)) for key, (text, a, b) in rows.items()})
)
def test_export_and_import_give_the_same_cache(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[tuple[str, str], tuple[str, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("jsonl")
    with AnswerCache(folder / "one.sqlite") as cache, AnswerCache(folder / "two.sqlite") as copy:
        for (fingerprint, prompt), values in rows.items():
            cache.put(fingerprint, "T_own", [Answer(prompt, *values)])
        assert cache.export_jsonl(folder / "deep" / "a.jsonl") == len(rows)
        assert copy.import_jsonl(folder / "deep" / "a.jsonl") == len(rows)
        assert copy.import_jsonl(folder / "deep" / "a.jsonl") == 0
        for (fingerprint, prompt), (answer, _, _) in rows.items():
            assert copy.get(fingerprint, [prompt]) == {prompt: answer}
        copy.export_jsonl(folder / "b.jsonl")
    assert (folder / "deep" / "a.jsonl").read_bytes() == (folder / "b.jsonl").read_bytes()


def test_an_export_replaces_the_old_file_at_once(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "answers.jsonl"
    target.write_text("old")
    with AnswerCache(path) as cache, target.open() as reader:
        cache.put("model", "T_score", answers("a"))
        cache.export_jsonl(target)
        assert reader.read() == "old"  # and not a file that is being written
    assert '"prompt": "a"' in target.read_text()


def test_an_export_that_fails_leaves_the_old_file_and_no_part(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "answers.jsonl"
    target.write_text("old")
    with AnswerCache(path) as cache:
        cache.put("model", "T_score", answers("a", "b"))
        calls = iter([json.dumps({}), None])
        monkeypatch.setattr("llmhd_pl.llm.answer_rows.json_text", lambda *_: next(calls))
        with pytest.raises(TypeError):
            cache.export_jsonl(target)
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["answers.jsonl"]


GOOD = {
    "fingerprint": "model",
    "template": "T_sum",
    "prompt": "p",
    "answer": "<summarization>a</summarization>",
    "prompt_tokens": 1,
    "answer_tokens": 1,
}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"{", "Expecting"),
        (b"", "Expecting value"),
        (b'{"prompt": "\xff"}', "utf-8"),
        (b"[]", "expected an object with the keys fingerprint, template, prompt, answer, prompt_tokens"),
        (json.dumps({**GOOD, "extra": 1}).encode(), "expected an object"),
        (json.dumps({key: GOOD[key] for key in GOOD if key != "answer"}).encode(), "expected an object"),
        (json.dumps({**GOOD, "answer": 7}).encode(), "answer must be a text"),
        (json.dumps({**GOOD, "prompt_tokens": "1"}).encode(), "prompt_tokens must be a whole number"),
        (json.dumps({**GOOD, "answer_tokens": True}).encode(), "answer_tokens must be a whole number"),
        (json.dumps({**GOOD, "answer_tokens": -1}).encode(), "cannot be negative"),
        (json.dumps({**GOOD, "answer": " "}).encode(), "the answer is empty"),
        (json.dumps({**GOOD, "prompt": "\ud800"}).encode(), "surrogates"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_imported(path: Path, tmp_path: Path, line: bytes, error: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    with AnswerCache(path) as cache:
        with pytest.raises(ValueError, match=rf"answers.jsonl, line 2: .*{error}.*Nothing was imported"):
            cache.import_jsonl(file)
        assert len(cache) == 0
        file.write_bytes(json.dumps(GOOD).encode())  # no line break at the end
        assert cache.import_jsonl(file) == 1


# Several processes

WRITER = """
import sys
from llmhd_pl.llm.cache import Answer, AnswerCache
path, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("started", flush=True)
sys.stdin.readline()
cache = AnswerCache(path)
for batch in range(batches):
    prompts = [f"{name} {batch} {number}" for number in range(100)] + [f"common {batch}"]
    cache.put("model", "T_own", [Answer(prompt, f"by {name}", 12, 3) for prompt in prompts])
    assert set(cache.get("model", prompts)) == set(prompts)
    print(batch, flush=True)
"""


def writer(path: Path, name: str, batches: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", WRITER, str(path), name, str(batches)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    return process


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("corrupt", [False, True])
def test_processes_that_open_and_write_at_once_lose_nothing(path: Path, corrupt: bool) -> None:
    path.parent.mkdir()
    if corrupt:
        garbage(path)
    names = ("one", "two", "three")
    processes = [writer(path, name, 60) for name in names]
    for process in processes:
        go(process)
    printed = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], printed
    asides = sorted(file.name for file in path.parent.glob("*.corrupt-*"))
    assert asides == (["answers.sqlite.corrupt-1"] if corrupt else [])
    assert sum("is corrupt" in stderr for _, stderr in printed) == corrupt
    with AnswerCache(path) as cache:
        assert len(cache) == 3 * 60 * 100 + 60
        prompts = [f"{name} {batch} {number}" for name in names for batch in range(60) for number in range(100)]
        found = cache.get("model", prompts)
        assert all(found[prompt] == f"by {prompt.split()[0]}" for prompt in prompts)


def test_a_writer_waits_for_another_that_takes_long(path: Path) -> None:
    with AnswerCache(path) as cache:
        process = writer(path, "one", 1)
        with cache.transaction():
            go(process)
            time.sleep(1)
            assert process.poll() is None
        process.communicate(timeout=60)
        assert process.returncode == 0 and len(cache) == 101


def test_a_killed_process_loses_at_most_the_batch_in_flight(path: Path) -> None:
    process = writer(path, "one", 100_000)
    go(process)
    assert process.stdout is not None
    for _ in range(30):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    done = 30 + len(process.stdout.read().splitlines())
    process.communicate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = AnswerCache(path)
    # A batch can be on disk and not yet printed; none is there in part.
    assert len(cache) in (done * 101, (done + 1) * 101)
    prompts = [f"one {batch} {number}" for batch in range(done) for number in range(100)]
    assert len(cache.get("model", prompts)) == len(prompts)
    cache.close()
