from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhd_pl.datamodules import AtomicFiles
from llmhd_pl.datamodules import atomic_file as module
from llmhd_pl.datamodules.atomic_file import AtomicFile

CASES = Path(__file__).parents[3] / "shared" / "cases"
IDS = "user_id:token\titem_id:token"
RATED = IDS + "\trating:float"


def names(path: Path) -> tuple[list[str], list[str]]:
    """The users and the items of each row."""
    table, users, items = AtomicFile(path).interactions("user_id", "item_id", None, (), None)
    return [users[user] for user in table.users], [items[item] for item in table.items]


def file(folder: Path, text: str | bytes, name: str = "data.inter") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# What can be read


def test_columns_come_in_any_order_and_text_stays_as_it_is(tmp_path: Path) -> None:
    header = "tags:token_seq\trating:float\titem_id:token\tvector:float_seq\tuser_id:token"
    path = file(tmp_path, header + '\na "b\t1e1\t007\t1 2\t é\n\t -2\t"7\t\tNA\nc\t+0.5\t7"\t\tnull')
    assert list(AtomicFile(path).types) == ["tags", "rating", "item_id", "vector", "user_id"]
    assert names(path) == ([" é", "NA", "null"], ["007", '"7', '7"'])
    table, *_ = AtomicFile(path).interactions("user_id", "item_id", "rating", (-2, 0.5, 10), None)
    assert table.grades is not None and table.grades.tolist() == [3, 1, 2]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "end"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("blank", [0, 1, 3])
def test_line_endings_a_byte_order_mark_and_blank_lines(
    tmp_path: Path, ending: str, last: str, mark: str, blank: int
) -> None:
    lines = [IDS, "1\t2\u2028", "2\t1\x0c"]
    path = file(tmp_path, mark + ending.join(lines) + (last and ending) + blank * ending)
    assert names(path) == (["1", "2"], ["2\u2028", "1\x0c"])


@pytest.mark.parametrize("case", ["bom", "blank-last-line", "unused-number"])
def test_cases_that_are_read(case: str) -> None:
    if not (CASES / case).is_dir():
        pytest.skip(f"{CASES / case} is not here.")
    data = AtomicFiles(str(CASES / case)).interactions
    assert (data.num_users, data.num_items) == (4, 6) and data.items[1]["title"] == "Title 1"


def test_numbers_that_nothing_uses_are_not_looked_at(tmp_path: Path) -> None:
    file(tmp_path, RATED + "\ttimestamp:float\nu\ti\t-\t\nu\tj\tnan\t1e999\n".replace("\\t", "\t"))
    file(tmp_path, b"item_id:token\tprice:float\tyear:float\ni\t-\t1995.0\nj\t\t9780306406157\n", "data.item")
    data = AtomicFiles(str(tmp_path)).interactions
    assert data.items == [{"price": "-", "year": "1995.0"}, {"year": "9780306406157"}]
    with pytest.raises(ValueError, match=r"line 2: rating is '-', not a number\. Correct it or remove the row"):
        AtomicFiles(str(tmp_path), rating_threshold=1).setup()
    with pytest.raises(ValueError, match=r"line 2: timestamp is '', not a number .*\. Correct it or remove the row"):
        AtomicFiles(str(tmp_path), split="temporal").setup()


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0"), min_size=1), min_size=1)
)
def test_identifiers_stay_as_they_are(tmp_path_factory: Any, texts: list[str]) -> None:
    path = file(tmp_path_factory.mktemp("ids"), IDS + "\n" + "".join(f"{text}\tx{text}\n" for text in texts))
    assert names(path) == (texts, [f"x{text}" for text in texts])


def test_hidden_files_are_not_looked_at(tmp_path: Path) -> None:
    file(tmp_path, IDS + "\nu\ti\n")
    for name in ("._data.inter", ".data.inter", "._data.item"):
        file(tmp_path, b"\0\5\26\7", name)
    assert AtomicFiles(str(tmp_path)).interactions.items == []


# What cannot be read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: column '' is not 'name:type'"),
        ("user_id\titem_id\n1\t2\n", "line 1: column 'user_id' is not 'name:type' with a type of token, token_seq,"),
        ("user_id:token\titem_id:int\n", "line 1: column 'item_id:int' is not"),
        ("user_id:token\t:float\n", "line 1: column ':float' is not"),
        ("user_id:token,item_id:token\n", "line 1: column 'user_id:token,item_id:token' is not"),
        ("a:token\tb:float\ta:float\n", "line 1: column 'a' is named twice"),
        (f"{RATED}\nx\ty\t1\ny\n", "line 3: 1 fields, but the header names 3. Separate"),
        (f"{RATED}\nx\ty\t1\t\n", "line 2: 4 fields, but the header names 3"),
        (f"{RATED}\nx\ty\t1\n\n\nx\t1\n", "line 5: 2 fields"),
        (f"{RATED}\nx\ty\t1\ny\tx\tgood\n", "line 3: rating is 'good', not a number"),
        (f"{RATED}\nx\ty\t\n", "line 2: rating is '', not a number"),
        (f"{RATED}\nx\ty\tnan\n", "line 2: rating is 'nan', not a number"),
        (f"{RATED}\nx\ty\t5\n\nx\tz\t-inf\n", "line 4: rating is '-inf', not a number"),
        (f"{RATED}\nx\ty\t1e999\n", "line 2: rating is '1e999', not a number"),
        (f"{RATED}\nx\ty\t1_0\n", "line 2: rating is '1_0', not a number"),
        (f"{IDS}\nx\t1\ny\t\xff\n".encode("latin-1"), "line 3: item_id is not UTF-8 text. Convert"),
        (f"{IDS}\xff\nx\t1\n".encode("latin-1"), "line 1 is not UTF-8 text"),
        (f"{IDS}\nx\t1\n".encode("utf-16"), "line 1 is not UTF-8 text"),
        (b"\x1f\x8b\x08\0\0", "line 1 is not UTF-8 text .*unpack it"),
        (f"{IDS}\nx\t1\n\t1\n", "line 3: user_id is empty. Remove the row"),
        (f"{IDS}\nx\t\ny\t1\n", "line 2: item_id is empty"),
        (f"{IDS}\nx\ty\0\n", "line 2: item_id holds a NUL character"),
        (f"{IDS}\nx\t{'y' * 2_000_000}\n", "line 2 is longer than 524288 bytes. Shorten it"),
        (f"{IDS}\n", "has a header but no rows. Add"),
        (f"{IDS}\n\n\n", "has a header but no rows"),
    ],
)
def test_a_malformed_file(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{path}.*{message}"):
        AtomicFiles(str(tmp_path), rating_threshold=1 if b"rating" in path.read_bytes() else None).setup()


@pytest.mark.parametrize("time", ["nan", "-inf", "1e400", "-", "", "0x10", "1_0", "1.0000000000000000001"])
def test_times_that_are_no_numbers(tmp_path: Path, time: str) -> None:
    path = file(tmp_path, f"{IDS}\ttimestamp:float\nx\ty\t1\nx\tz\t{time}\n")
    with pytest.raises(ValueError, match=f"^{path}, line 3: timestamp is '{time}', not a number with at most"):
        AtomicFiles(str(tmp_path), split="temporal").setup()


def test_the_line_of_a_fault_behind_many_blocks(tmp_path: Path) -> None:
    rows = [f"user {row}\titem {row}\t{row}\n" + "\n" * (row % 3 == 0) for row in range(60_000)]
    rows[55_555] = "user\titem\tbad\n"
    path = file(tmp_path, RATED + "\n" + "".join(rows))
    line = path.read_text().split("\n").index("user\titem\tbad") + 1
    with pytest.raises(ValueError, match=f"line {line}: rating is 'bad'"):
        AtomicFiles(str(tmp_path), rating_threshold=1).setup()


@pytest.mark.parametrize("kind", ["float", "float_seq"])
@pytest.mark.parametrize("name", ["user_id", "item_id"])
def test_identifiers_of_type_float_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = file(tmp_path, IDS.replace(f"{name}:token", f"{name}:{kind}") + "\n1\t1\n")
    with pytest.raises(ValueError, match=f"^{path}: column '{name}' .* is {kind}, .*Write {name}:token in the header"):
        AtomicFiles(str(tmp_path)).setup()
    if name == "item_id":
        file(tmp_path, IDS + "\n1\t1\n")
        path = file(tmp_path, f"item_id:{kind}\n1\n", "data.item")
        with pytest.raises(ValueError, match=f"^{path}: column 'item_id' .*Write item_id:token"):
            AtomicFiles(str(tmp_path)).setup()


def test_float_identifiers_of_the_case_are_refused() -> None:
    if not (CASES / "float-ids").is_dir():
        pytest.skip(f"{CASES / 'float-ids'} is not here.")
    with pytest.raises(ValueError, match="Write user_id:token in the header"):
        AtomicFiles(str(CASES / "float-ids")).setup()


@pytest.mark.parametrize("ending", ["inter", "item"])
def test_folders_and_broken_links_in_the_place_of_a_file(tmp_path: Path, ending: str) -> None:
    if ending == "item":
        file(tmp_path, IDS + "\nu\ti\n")
    path = tmp_path / f"x.{ending}"
    path.mkdir()
    with pytest.raises(ValueError, match=rf"^{path} is a folder or a link that leads nowhere.*Put the \.{ending} file"):
        AtomicFiles(str(tmp_path)).setup()
    path.rmdir()
    path.symlink_to(path)
    with pytest.raises(ValueError, match=f"^{path} is a folder or a link"):
        AtomicFiles(str(tmp_path)).setup()
    with pytest.raises(FileNotFoundError, match=r"missing\.inter is missing"):
        AtomicFile(tmp_path / "missing.inter")


def test_a_large_file_shows_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    path = file(tmp_path, IDS + "\nu\ti\n")
    shown: list[bool] = []
    original = module.wrap_file
    monkeypatch.setattr(module, "wrap_file", lambda *a, **k: shown.append(not k["disable"]) or original(*a, **k))
    names(path)
    monkeypatch.setattr(module, "_SHOWN_FROM", 1)
    assert names(path) == (["u"], ["i"]) and shown == [False, True]
