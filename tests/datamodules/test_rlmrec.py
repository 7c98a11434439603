import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pickled import call, matrix, write
from small_data import pairs_of, within_100_mb

from llmhd_pl.datamodules import AmazonBooks, InteractionDataModule, Steam, Yelp
from llmhd_pl.datamodules.rlmrec import load_item_texts

DATA = Path(__file__).parents[3] / "shared" / "data"
TRAIN, VALID, TEST = [(0, 0), (0, 2), (2, 3)], [(0, 1), (1, 1)], [(2, 0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three users and four items."""
    for split, cells in (("trn", TRAIN), ("val", VALID), ("tst", TEST)):
        write(tmp_path / f"{split}_mat.pkl", matrix(cells))
    return tmp_path


# Folders


@pytest.mark.parametrize("module", [AmazonBooks, Yelp, Steam])
def test_a_folder_loads(folder: Path, module: type[AmazonBooks]) -> None:
    data = module(str(folder), eval_batch_size=9)
    data.setup()
    assert (data.num_users, data.num_items) == (3, 4)
    assert pairs_of(data.train_users, data.train_items) == TRAIN
    (batch,) = data.test_dataloader()
    assert batch["user"].tolist() == [2] and batch["seen"].tolist() == [[0], [3]]
    assert data.interactions.items == [] and data.interactions.low_rated is None
    assert data.noise_mask.sum() == 0


@pytest.mark.parametrize("name", ["trn_mat.pkl", "val_mat.pkl", "tst_mat.pkl"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{folder / name} is missing\. docs/data\.md"):
        Yelp(str(folder)).setup()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no folder {tmp_path / 'yelp'}. Set --data.data_dir"):
        Yelp(str(tmp_path / "yelp")).setup()


@pytest.mark.parametrize("name", ["val_mat.pkl", "tst_mat.pkl", "low_mat.pkl"])
@pytest.mark.parametrize("shape", [(4, 4), (3, 5)])
def test_shapes_that_disagree(folder: Path, name: str, shape: tuple[int, int]) -> None:
    write(folder / name, matrix([(1, 1)], shape))
    with pytest.raises(ValueError, match=rf"{folder / name} is {shape[0]} users x {shape[1]} items, but .* 3 x 4"):
        Yelp(str(folder)).setup()


@pytest.mark.parametrize(
    ("name", "cells", "message"),
    [
        ("val_mat.pkl", [(1, 1), (0, 2)], "both train and valid, for example user 0 with item 2"),
        ("tst_mat.pkl", [(2, 3)], "both train and test, for example user 2 with item 3"),
        ("tst_mat.pkl", [(1, 1)], "both valid and test, for example user 1 with item 1"),
        ("trn_mat.pkl", [], "no training interaction"),
    ],
)
def test_splits_that_contradict_each_other(folder: Path, name: str, cells: Any, message: str) -> None:
    write(folder / name, matrix(cells))
    with pytest.raises(ValueError, match=f"^{folder}: .*{message}"):
        Yelp(str(folder)).setup()


def test_repeated_entries_count_once(folder: Path) -> None:
    write(folder / "trn_mat.pkl", matrix([*TRAIN, *TRAIN[:2]]))
    assert pairs_of(Yelp(str(folder)).interactions.train) == TRAIN


@pytest.mark.parametrize("shape", [(10**9, 1000), (3, 10**9), (2 * 10**5, 10)])
@pytest.mark.parametrize("texts", [None, "items.jsonl", "itm_prf.pkl"])
def test_a_shape_out_of_proportion_to_its_entries_takes_no_memory(
    folder: Path, shape: tuple[int, int], texts: str | None
) -> None:
    for split, cells in (("trn", TRAIN), ("val", VALID), ("tst", TEST)):
        write(folder / f"{split}_mat.pkl", matrix(cells, shape))
    if texts:
        write(folder / texts, b'{"item": 0}' if texts == "items.jsonl" else {0: {"profile": "a"}})
    with pytest.raises(ValueError, match=rf"trn_mat.pkl is {shape[0]} users x {shape[1]} items for 3 .*Number those"):
        within_100_mb(lambda: Yelp(str(folder)).setup())


def test_users_and_items_without_interactions_are_fine(folder: Path) -> None:
    for split, cells in (("trn", TRAIN), ("val", VALID), ("tst", TEST)):
        write(folder / f"{split}_mat.pkl", matrix(cells, (50_000, 40_000)))
    data = Yelp(str(folder))
    data.setup()
    assert (data.num_users, data.num_items) == (50_000, 40_000)


@pytest.mark.parametrize("name", ["low_mat.pkl", "items.jsonl", "itm_prf.pkl"])
def test_an_optional_file_that_is_a_folder_or_a_broken_link_is_not_passed_over(folder: Path, name: str) -> None:
    (folder / name).symlink_to("nowhere")
    with pytest.raises((ValueError, FileNotFoundError), match=f"{folder / name} is a folder or a link that leads"):
        Yelp(str(folder)).setup()


def test_low_rated_interactions_become_noise(folder: Path) -> None:
    write(folder / "low_mat.pkl", matrix([(1, 0), (2, 2), *VALID]))
    data = Yelp(str(folder), noise_ratio=2 / 3, noise_source="low_rating")
    data.setup()
    noise = torch.stack([data.train_users, data.train_items], dim=1)[data.noise_mask]
    assert pairs_of(noise) == [(1, 0), (2, 2)]
    with pytest.raises(ValueError, match="asks for 3 pairs"):
        Yelp(str(folder), noise_ratio=1, noise_source="low_rating").setup()


# The text of the items


def test_items_jsonl(folder: Path) -> None:
    lines = [
        {"item": 0, "title": "Café & Bar", "city": "", "stars": 4.5},
        {"title": "Second", "item": 1},
        {"item": 2},
        {"item": 3, "title": None, "genres": "a\tb\u2028c"},
    ]
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "items.jsonl").write_bytes(text.encode())
    write(folder / "itm_prf.pkl", b"")  # not looked at
    expected = [{"title": "Café & Bar", "stars": "4.5"}, {"title": "Second"}, {}, {"genres": "a\tb\u2028c"}]
    assert Yelp(str(folder)).interactions.items == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"item": 0}\n{"item": 1\n', "line 2: not JSON"),
        ('{"item": 0}\n\n{"item": 1}', "line 2: not JSON"),
        (b'{"item": 0}\n{"item": 1, "title": "\xff"}', "line 2: not JSON .*utf-8"),
        ("[" * 100_000, "line 1: not JSON .*recursion"),
        ('{"item": 0}\n["item"]', 'line 2: expected an object with "item": 1'),
        ('{"item": 0}\n{"item": 2}', 'line 2: expected an object with "item": 1'),
        ('{"item": 1}\n{"item": 0}', 'line 1: expected an object with "item": 0'),
        ('{"item": "0"}', 'line 1: expected an object with "item": 0'),
        ('{"title": "a"}', 'line 1: expected an object with "item": 0'),
        ('{"item": 0}', "has 1 lines, but the matrices have 2 items"),
        ('{"item": 0}\n{"item": 1}\n{"item": 2}', "has 3 lines, but the matrices have 2 items"),
        ("", "has 0 lines"),
        ('{"item": 0}\n{"item": 1, "year": NaN}', "line 2: not JSON .*NaN is none of JSON's values; write null"),
        ('{"item": 0, "year": -Infinity}', "line 1: not JSON .*-Infinity"),
        ('{"item": 0, "a": "b", "a": "c"}', "line 1: not JSON .*'a' occurs twice"),
        ('{"item": 0.0}', 'line 1: expected an object with "item": 0'),
        ('{"item": false}', 'line 1: expected an object with "item": 0'),
    ],
)
def test_items_jsonl_that_is_wrong(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"^{path}.*{message}"):
        load_item_texts(tmp_path, 2)


def test_items_jsonl_keeps_numbers_as_they_are_written(tmp_path: Path) -> None:
    line = (
        '{"item": 0, "year": 1995.0, "big": 1e400, "id": 123456789012345678901234567890, "none": 0, "list": [1.0, "a"]}'
    )
    (tmp_path / "items.jsonl").write_text(line)
    assert load_item_texts(tmp_path, 1) == [
        {"year": "1995.0", "big": "1e400", "id": "123456789012345678901234567890", "none": "0", "list": "[1.0, 'a']"}
    ]


@pytest.mark.parametrize("ending", ["", "\n", "\n\n", "\r\n\r\n \n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_items_jsonl_with_a_byte_order_mark_and_blank_last_lines(tmp_path: Path, ending: str, mark: str) -> None:
    (tmp_path / "items.jsonl").write_bytes((mark + '{"item": 0, "a": "b"}\n{"item": 1}' + ending).encode())
    assert load_item_texts(tmp_path, 2) == [{"a": "b"}, {}]


def test_half_a_surrogate_pair_becomes_text_that_can_be_encoded(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"item": 0, "a\\ud800": "b\\udfffc", "d": ["\\ud800\\udc00", "\\ud801"]}')
    assert load_item_texts(tmp_path, 1) == [{"a\ufffd": "b\ufffdc", "d": "['\U00010000', '\\ud801']"}]
    (tmp_path / "items.jsonl").unlink()
    write(tmp_path / "itm_prf.pkl", {0: {"profile": "b\ud800"}})
    assert load_item_texts(tmp_path, 1) == [{"profile": "b\ufffd"}]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_item_profiles(folder: Path, protocol: int) -> None:
    profiles = {2: {"profile": "For cooks.", "reasoning": "..."}, 0: {"profile": "Für alle"}}
    write(folder / "itm_prf.pkl", profiles, protocol)
    assert Yelp(str(folder)).interactions.items == [{"profile": "Für alle"}, {}, {"profile": "For cooks."}, {}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"profile": "a"}], "holds a list; a dict"),
        ({2: {"profile": "a"}}, "names item 2, but the items are numbered 0 to 1"),
        ({-1: {"profile": "a"}}, "names item -1"),
        ({"0": {"profile": "a"}}, "names item '0'"),
        ({True: {"profile": "a"}}, "names item True"),
        ({10**5000: {"profile": "a"}}, "names item <int>"),
        ({((1, 2), 3): {"profile": "a"}}, "names item <tuple>"),
        ({0: "a"}, 'item 0: expected a dict with a text under "profile"'),
        ({0: {"profile": 3}}, 'item 0: expected a dict with a text under "profile"'),
        ({0: {"text": "a"}}, 'item 0: expected a dict with a text under "profile"'),
        (pickle.dumps({0: {"profile": "a"}})[:-4], "is truncated"),
        (b"", "is truncated"),
        (call("builtins", "dict"), r"wants to load builtins\.dict"),
    ],
)
def test_item_profiles_that_are_wrong(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "itm_prf.pkl", content)
    with pytest.raises(ValueError, match=f"^{path}.*{message}"):
        load_item_texts(tmp_path, 2)


# The real data


@pytest.mark.parametrize(
    ("module", "name", "users", "items", "sizes", "first_title"),
    [
        (AmazonBooks, "amazon-books", 11_000, 9_332, (120_464, 40_290, 40_106), None),
        (Yelp, "yelp", 11_091, 11_010, (166_620, 55_479, 55_436), "St Mary's Mexican Food"),
        (Steam, "steam", 23_310, 5_237, (125_468, 42_132, 42_132), "Gunspell - Steam Edition"),
    ],
)
def test_the_real_data(
    module: type[AmazonBooks], name: str, users: int, items: int, sizes: tuple[int, ...], first_title: str | None
) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not here; docs/data.md says where the data comes from.")
    data: InteractionDataModule = module(str(DATA / name))
    given = data.interactions
    assert (given.num_users, given.num_items) == (users, items)
    assert tuple(map(len, (given.train, given.valid, given.test))) == sizes
    assert len(given.items) == items and given.items[0].get("title") == first_title
    data.setup()
    truth = pickle.loads((DATA / name / "trn_mat.pkl").read_bytes()).tocsr()
    truth.sort_indices()
    assert data.train_items.tolist() == truth.indices.tolist()
    assert torch.bincount(data.train_users, minlength=users).tolist() == np.diff(truth.indptr).tolist()
