"""The identifiers of the source beside RLMRec's matrices."""

import json
from pathlib import Path

import pytest
from pickled import matrix, write

from llmhd_pl.datamodules import Yelp
from llmhd_pl.datamodules.ids import load_ids, write_ids

NAMES = ["A1", "zoë \U0001f600", 'quo"te', "line\nand\u2028line"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three users and four items."""
    for split, cells in (("trn", [(0, 0), (0, 2), (2, 3)]), ("val", [(1, 1)]), ("tst", [(2, 0)])):
        write(tmp_path / f"{split}_mat.pkl", matrix(cells))
    return tmp_path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_ids(tmp_path, "item", NAMES)
    assert load_ids(tmp_path, "item", 4) == NAMES and load_ids(tmp_path, "user", 4) is None
    lines = (tmp_path / "item_ids.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"item": item, "id": name} for item, name in enumerate(NAMES)]


def test_a_data_module_knows_its_identifiers(folder: Path) -> None:
    write_ids(folder, "user", ["anna", "bob", "cleo"])
    data = Yelp(str(folder))
    data.setup()
    assert data.interactions.user_names == ["anna", "bob", "cleo"] and data.interactions.item_names is None
    write(folder / "val_mat.pkl", matrix([(0, 2)]))
    write_ids(folder, "item", NAMES)
    with pytest.raises(ValueError, match=r"""for example user 'anna' with item 'quo"te'"""):
        Yelp(str(folder)).setup()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[1]", 'line 2: expected {"user": 1, "id": "..."}. Write the users in their order'),
        ('{"user": 2, "id": "b"}', 'line 2: expected {"user": 1'),
        ('{"user": true, "id": "b"}', 'line 2: expected {"user": 1'),
        ('{"user": 1, "id": 7}', 'line 2: expected {"user": 1'),
        ('{"user": 1}', 'line 2: expected {"user": 1'),
        ("", "line 2: not JSON"),
    ],
)
def test_lines_that_are_none(folder: Path, line: str, message: str) -> None:
    path = folder / "user_ids.jsonl"
    path.write_text(f'{{"user": 0, "id": "a"}}\n{line}\n{{"user": 2, "id": "c"}}\n')
    with pytest.raises(ValueError) as error:
        Yelp(str(folder)).setup()
    assert f"{path}, {message}" in str(error.value)


@pytest.mark.parametrize(("mark", "ending"), [("\ufeff", ""), ("", "\r\n\n"), ("\ufeff", "\n \n")])
def test_a_byte_order_mark_and_blank_last_lines(folder: Path, mark: str, ending: str) -> None:
    lines = "\n".join(f'{{"user": {user}, "id": "{name}"}}' for user, name in enumerate("abc"))
    (folder / "user_ids.jsonl").write_bytes((mark + lines + ending).encode())
    assert load_ids(folder, "user", 3) == ["a", "b", "c"]


def test_what_items_are_refused_for(folder: Path) -> None:
    path = folder / "user_ids.jsonl"
    path.write_text('{"user": 0, "id": "a", "id": "b"}\n')
    with pytest.raises(ValueError, match=r"line 1: not JSON .the field 'id' occurs twice"):
        load_ids(folder, "user", 1)
    path.unlink()
    path.symlink_to(folder / "nowhere")
    with pytest.raises(ValueError, match="leads nowhere"):
        load_ids(folder, "user", 1)


def test_the_wrong_number_of_lines(folder: Path) -> None:
    write_ids(folder, "user", ["anna", "bob"])
    with pytest.raises(ValueError, match=r"user_ids.jsonl has 2 lines, but the matrices have 3 users. Write one line"):
        Yelp(str(folder)).setup()
