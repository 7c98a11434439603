"""TableData: the same interactions from Parquet, CSV and data frames, and what is wrong with a table."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import pairs_of
from torch import Tensor

from llmhd_pl import __main__ as command
from llmhd_pl.datamodules import AtomicFiles, Interactions, TableData

ALL = (1, 0, 0)
SPLITS = ("train", "valid", "test")
rows = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 9), st.sampled_from([1.0, 2.5, 3.0, 5.0]), st.integers(0, 9)),
    min_size=1,
    max_size=40,
)


def frame(*given_rows: tuple[Any, ...], columns: str = "user_id item_id rating time") -> pd.DataFrame:
    return pd.DataFrame(given_rows, columns=columns.split()[: len(given_rows[0])])


def named(data: Interactions, split: str) -> list[tuple[str, str]]:
    assert data.user_names is not None and data.item_names is not None
    return [(data.user_names[user], data.item_names[item]) for user, item in pairs_of(getattr(data, split))]


def everything(data: Interactions) -> dict[str, Any]:
    found = {key: value.tolist() if isinstance(value, Tensor) else value for key, value in vars(data).items()}
    del found["name"]
    return found


class OnlyPandas:
    """A data frame of another library that can become one of pandas."""

    def __init__(self, inner: pd.DataFrame) -> None:
        self.inner = inner

    def to_pandas(self) -> pd.DataFrame:
        return self.inner


# What is read


@settings(max_examples=40, deadline=None)
@given(
    rows,
    st.sampled_from(["random", "temporal", "leave-last-out", "temporal-global"]),
    st.sampled_from([{}, {"rating_threshold": 2.5, "k_core": 2}, {"noise_below": 3.0, "held_out_from": 3.0}]),
)
@pytest.mark.filterwarnings("ignore:.*without training interactions")
def test_the_source_changes_nothing(tmp_path_factory: Any, given_rows: Any, split: Any, bounds: Any) -> None:
    """Parquet, CSV, pandas, Arrow and the atomic files give the same numbers, splits and low ratings."""
    folder = tmp_path_factory.mktemp("sources")
    table = frame(*given_rows)
    table["when"] = pd.to_datetime("2026-01-01") + pd.to_timedelta(table["time"], unit="D")
    table.to_parquet(folder / "x.parquet", row_group_size=7)
    table.to_csv(folder / "x.csv", index=False)
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "x.inter").write_text(header + "".join("\t".join(map(str, row)) + "\n" for row in given_rows))
    texts = table.astype({"user_id": str, "item_id": "category", "rating": "float32"})
    sources = [
        *(
            (source, "time")
            for source in (folder / "x.parquet", str(folder / "x.csv"), table, OnlyPandas(table), texts)
        ),
        *((source, "when") for source in (folder / "x.parquet", folder / "x.csv", pa.Table.from_pandas(table))),
    ]
    modules = [AtomicFiles(str(folder), split=split, **bounds)]
    modules += [TableData(given, rating="rating", time=time, split=split, **bounds) for given, time in sources]
    found = []
    for module in modules:
        try:
            found.append(everything(module.interactions))
        except ValueError as error:
            found.append({"error": str(error).partition(":")[2]})
    for other in found[1:]:
        assert other == found[0]


def test_identifiers_are_kept_and_sorted_as_text() -> None:
    numbers = TableData(frame((10, -1), (9, 2**62), (100, -1)), split_ratios=ALL).interactions
    assert (numbers.user_names, numbers.item_names) == (["10", "100", "9"], ["-1", str(2**62)])
    texts = TableData(frame(("007", "NA"), ("7", "é"), ("null", " a")), split_ratios=ALL).interactions
    assert (texts.user_names, texts.item_names) == (["007", "7", "null"], [" a", "NA", "é"])


def test_csv_is_text_with_quotes(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'\xef\xbb\xbf"item_id",note,user_id\r\n"a, ""b""",,007\r\n\r\nNA,"two\r\nlines",7\r\n')
    assert named(TableData(path, split_ratios=ALL).interactions, "train") == [("007", 'a, "b"'), ("7", "NA")]


def test_line_breaks_within_quotes_cross_the_blocks_of_a_csv_file(tmp_path: Path) -> None:
    """Arrow reads blocks of 4 MiB, and each line of a review here could pass for a row."""
    rows_of_reviews = [(f"u{row % 5}", f"i{row // 5}", "good, but, dear\n" * 20_000) for row in range(30)]
    path = tmp_path / "reviews.csv"
    pd.DataFrame(rows_of_reviews, columns=["user_id", "item_id", "review"]).to_csv(path, index=False)
    assert path.stat().st_size > 2 * 2**22
    found = named(TableData(path, split_ratios=ALL).interactions, "train")
    assert sorted(found) == sorted((user, item) for user, item, _ in rows_of_reviews)
    items = pd.DataFrame(rows_of_reviews[::5], columns=["user_id", "item_id", "review"])
    items.loc[:, "review"] = "cheap, good\n" * 100_000
    items.drop(columns="user_id").to_csv(tmp_path / "items.csv", index=False)
    texts = TableData(path, tmp_path / "items.csv", split_ratios=ALL).interactions.items
    assert [text["review"] == items["review"][0] for text in texts or ()] == [True] * 6


def test_polars() -> None:
    polars = pytest.importorskip("polars", reason="polars is no dependency; pip install polars to run this")
    table = frame(("a", 1, 5, 1), ("a", 2, 1, 2), ("b", 2, 4, 3))
    items = polars.DataFrame({"item_id": [2, 1], "title": ["Mulch", None], "tags": [["x", "y"], []]})
    given_frame = polars.from_pandas(table).with_columns(
        polars.col("user_id").cast(polars.Categorical), polars.col("time").cast(polars.Datetime)
    )
    data = TableData(
        given_frame, items, rating="rating", time="time", rating_threshold=2, split="temporal"
    ).interactions
    assert sorted(named(data, "train")) == [("a", "1"), ("b", "2")] and named(data, "low_rated") == [("a", "2")]
    assert data.items == [{}, {"title": "Mulch", "tags": "x, y"}]


def test_items_of_any_readable_type(tmp_path: Path) -> None:
    interactions = frame(("a", 1), ("a", 2), ("b", 3), ("b", 4))
    items = pa.table(
        {
            "vector": pa.array([[0.5]] * 5),
            "title": ["Compost", "", None, "again", "unknown"],
            "item_id": [1, 2, 3, 1, 77],
            "year": [1995, None, 7, 1, 1],
            "price": [1.5, float("nan"), None, 1.0, 1.0],
            "genres": [["a", "b"], [], None, ["c"], []],
            "kind": pa.array(["x", None, "y", "z", "z"]).dictionary_encode(),
            "since": pa.array([dt.date(2026, 1, 31), None, None, None, None]),
        }
    )
    pq.write_table(items, tmp_path / "items.parquet")
    with pytest.warns(UserWarning) as caught:
        data = TableData(interactions, tmp_path / "items.parquet", split_ratios=ALL).interactions
    first = {"title": "Compost", "year": "1995", "price": "1.5", "genres": "a, b", "kind": "x", "since": "2026-01-31"}
    assert data.items == [first, {}, {"year": "7", "kind": "y"}, {}]
    said = "\n".join(str(warning.message) for warning in caught)
    assert "vector hold neither text, nor numbers" in said and "has no row for 1 of 4 items, such as '4'" in said


def test_many_items_are_matched_over_many_blocks(tmp_path: Path) -> None:
    count = 150_000
    names = [f"i{number}" for number in np.random.default_rng(0).permutation(count)]
    table = pd.DataFrame({"user_id": np.arange(count) % 7, "item_id": names})
    pd.DataFrame({"item_id": names[::-1], "title": names[::-1]}).to_csv(tmp_path / "items.csv", index=False)
    data = TableData(table, tmp_path / "items.csv").interactions
    assert data.item_names is not None
    assert [row["title"] for row in data.items] == data.item_names


def test_low_ratings_become_noise() -> None:
    table = frame(*((f"u{user}", item, 1 + (user + item) % 5) for user in range(20) for item in range(20)))
    data = TableData(table, rating="rating", rating_threshold=3, noise_ratio=0.5, noise_source="low_rating")
    data.setup()
    assert data.interactions.user_names is not None and data.interactions.item_names is not None
    noise = pairs_of(data.train_users[data.noise_mask], data.train_items[data.noise_mask])
    assert len(noise) == round(0.5 * len(data.interactions.train)) > 0
    for user, item in noise:
        assert (int(data.interactions.user_names[user][1:]) + int(data.interactions.item_names[item])) % 5 < 2


def test_the_last_row_of_a_pair_counts_or_the_latest() -> None:
    table = frame(("a", "x", 5, 9), ("a", "y", 5, 2), ("a", "z", 5, 1), ("a", "x", 1, 3))
    given_arguments: dict[str, Any] = {"rating": "rating", "time": "time", "rating_threshold": 2}
    assert named(TableData(table, **given_arguments).interactions, "low_rated") == []  # x is known from nothing else
    assert TableData(table, **given_arguments).interactions.num_items == 2
    latest = TableData(table, split="leave-last-out", **given_arguments).interactions
    assert [named(latest, split) for split in SPLITS] == [[("a", "z")], [("a", "y")], [("a", "x")]]


# The command line


def test_fit_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    when = pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(100, size=2000), unit="D")
    table = pd.DataFrame({"user": rng.integers(50, size=2000), "isbn": rng.integers(40, size=2000), "when": when})
    table.to_parquet("x.parquet")
    pd.DataFrame({"isbn": range(40), "title": [f"Book {number}" for number in range(40)]}).to_csv("items.csv")
    command.main(
        [
            *("fit", "--data", "TableData", "--data.interactions", "x.parquet", "--data.items", "items.csv"),
            *("--data.user", "user", "--data.item", "isbn", "--data.time", "when", "--data.split", "temporal-global"),
            *("--data.split_times", "[2026-03-01, 2026-03-20]", "--model", "MF", "--trainer.max_epochs", "1"),
        ]
    )
    written = Path("runs/version_0/config.yaml").read_text()
    assert "interactions: x.parquet" in written and "2026-03-20" in written
    assert "test/recall@20" in Path("runs/version_0/metrics.csv").read_text()


# What is wrong


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        (frame((1.0, 2)), {}, "column 'user_id' holds identifiers, but its type is double, in which long identifiers"),
        (frame((1, None), (2, 3.0)), {}, "column 'item_id' holds identifiers, .*missing values becomes float"),
        (frame(("a", "x"), ("b", None)), {}, "row 2: item_id is missing. Correct it or remove the row"),
        (frame(("a", "x"), ("", "x")), {}, "row 2: user_id is empty"),
        (frame(("a", "x"), ("a", "x\0")), {}, "row 2: item_id holds a NUL character"),
        (frame(("a", 1), (2, 1)), {}, "cannot be read .*user_id.*Give each column values of one type"),
        (frame((True, 1)), {}, "column 'user_id' holds identifiers, but its type is bool"),
        (frame((2**63 + 5, 1)), {}, f"row 1: user_id is {2**63 + 5}, which is more than"),
        (frame(("a", "x")), {"user": "reader"}, "no column 'reader' for the user; it has user_id, item_id. Set user"),
        (frame(("a", "x")), {"rating": "stars", "noise_below": 2}, "no column 'stars' for the rating"),
        (frame(("a", "x", 1.0), ("b", "x", float("nan"))), {"rating_threshold": 1}, "row 2: rating is missing"),
        (frame(("a", "x", 1.0), ("b", "x", float("inf"))), {"rating_threshold": 1}, "row 2: rating is inf, not a fin"),
        (frame(("a", "x", "5"), ("b", "x", "-")), {"rating_threshold": 1}, "row 2: rating is '-', not a finite number"),
        (frame(("a", "x", [1])), {"rating_threshold": 1}, r"row 1: rating is \[1\], not a finite number"),
        (frame(("a", "x", 1, None), ("b", "x", 1, 2)), {"split": "temporal"}, "row 1: time is missing"),
        (frame(("a", "x", 1, float("-inf"))), {"split": "temporal"}, "row 1: time is -inf, not a finite number"),
        (frame(("a", "x", 1, "soon")), {"split": "temporal"}, "row 1: time is 'soon', neither a number nor a date"),
        (
            frame(("a", "x", 1, "2026-01-31"), ("b", "x", 1, "31/1/2026")),
            {"split": "temporal"},
            "row 2: time is '31/1/2026', not a date in the form of the first row's",
        ),
        (frame(("a", "x", 1, True)), {"split": "temporal"}, "column 'time' holds times, but its type is bool"),
        (frame(("a", "x")).iloc[:0].astype(str), {}, "has no rows. Add"),
        (frame(("a", "x")).iloc[:0].astype(object), {}, "has no rows. Add"),
        (frame(("a", "x")).assign(user_id=None), {}, "row 1: user_id is missing"),
        (frame(("a", "x", 1)), {"rating_threshold": 3}, "no interaction is left after rating_threshold=3"),
    ],
)
def test_a_wrong_table(table: pd.DataFrame, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^The DataFrame of interactions.*{message}"):
        TableData(table, **{"rating": "rating", "time": "time"} | arguments).setup()


def test_the_row_behind_many_blocks_is_named(tmp_path: Path) -> None:
    table = pd.DataFrame({"user_id": np.arange(200_000), "item_id": 1, "rating": 1.0})
    table.loc[150_000, "rating"] = np.nan
    table.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x\.parquet, row 150001: rating is missing"):
        TableData(tmp_path / "x.parquet", rating="rating", rating_threshold=1).setup()


def test_columns_that_nothing_needs_may_hold_anything(tmp_path: Path) -> None:
    table = pa.table({"user_id": ["a"], "item_id": ["x"], "rating": [None], "other": pa.array([[{"k": 1}]])})
    assert TableData(table, rating="rating", time="nowhere", split_ratios=ALL).interactions.num_users == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "cannot be read .*Empty CSV"),
        ("x.csv", b"user_id;item_id\na;b\n", "no column 'user_id' for the user; it has user_id;item_id"),
        ("x.csv", b"user_id,item_id\na,x\n\nb\n", r"cannot be read \(CSV parse error: row 2: Expected 2 columns"),
        ("x.csv", b"user_id,item_id\na,x\nb,\xff\n", "cannot be read .*row 2: .*invalid UTF8"),
        ("x.csv", b"user_id,item_id\n", "has no rows"),
        ("x.csv", b"user_id,item_id\na,x\n,y\n", "row 2: user_id is empty"),
        ("x.csv", b"user_id,item_id,user_id\na,x,a\n", "column 'user_id' is there twice"),
        ("x.parquet", b"PAR1 and no more", "cannot be read"),
        ("x.tsv", b"", r"ends neither in \.parquet nor in \.csv"),
    ],
)
def test_a_broken_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{tmp_path / name}.*{message}"):
        TableData(tmp_path / name).setup()


def test_what_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv does not exist\. Set interactions"):
        TableData(tmp_path / "nowhere.csv").setup()
    with pytest.raises(FileNotFoundError, match=r"is no file\. Set items"):
        TableData(frame(("a", "x")), tmp_path).setup()
    with pytest.raises(TypeError, match=r"interactions is a dict\. Give the path"):
        TableData({"user_id": ["a"]}).setup()
    with pytest.raises(ValueError, match="none of its 1 items is in the interactions, which name items such as 'x'"):
        TableData(frame(("a", "x")), frame(("y", "t"), columns="item_id title")).setup()
    with pytest.raises(ValueError, match="no column 'item_id' for the item"):
        TableData(frame(("a", "x")), frame(("y",), columns="isbn")).setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rating_threshold": 3}, "rating is None, but rating_threshold"),
        ({"split": "leave-last-out"}, "time is None, but split is 'leave-last-out'. Set time"),
        ({"user": "item_id"}, "user and item are both 'item_id'"),
        ({"split": "by hand"}, "split is 'by hand'; it must be 'random', 'temporal', 'leave-last-out' or"),
        ({"split_times": (1, 2)}, "split_times is .*but split is 'random'. Set split to 'temporal-global'"),
        *(
            ({"split": "temporal-global", "time": "time", "split_times": wrong}, "it must be two times")
            for wrong in ((1,), (1, float("nan")), ("", "x"), "ab")
        ),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableData("anywhere.parquet", **arguments)


def test_numbers_are_those_of_the_model() -> None:
    data = TableData(frame(("a", "x"), ("b", "y"), ("b", "x")))
    data.setup()
    assert (data.num_users, data.num_items) == (2, 2) and data.train_users.dtype == torch.int64
