import subprocess
import sys
from collections import Counter
from math import inf, nan
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import naive_k_core, pairs_of
from torch import Tensor

from llmhd_pl.datamodules import AtomicFiles, Interactions

DATA = Path(__file__).parents[3] / "shared" / "data"
CASES = Path(__file__).parents[3] / "shared" / "cases"
BOUNDS = ("rating_threshold", "noise_below", "held_out_from")
WHOLE = ("batch_size", "eval_batch_size", "seed")
HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
Row = tuple[str, str, float, int]
raw_rows = st.lists(
    st.tuples(
        st.sampled_from("abcdef"), st.sampled_from("uvwxyz"), st.sampled_from([1.0, 2.5, 3.0, 5.0]), st.integers(0, 9)
    ),
    max_size=40,
)


def write(folder: Path, rows: list[Any], header: str = HEADER, name: str = "data.inter") -> Path:
    path = folder / name
    text = "\n".join([header, *("\t".join(map(str, row)) for row in rows)])
    path.write_text(text + "\n", encoding="utf-8")
    return path


def load(rows: list[Any], header: str = HEADER, **arguments: Any) -> Interactions:
    with TemporaryDirectory() as folder:
        write(Path(folder), rows, header)
        return AtomicFiles(folder, **arguments).interactions


def named(data: Interactions, split: str) -> list[tuple[str, str]]:
    """The pairs of a split by the names of the source."""
    assert data.user_names is not None and data.item_names is not None
    return [(data.user_names[user], data.item_names[item]) for user, item in pairs_of(getattr(data, split))]


# The files


def test_missing_and_ambiguous_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    wrong = {"": "No \\.inter file is in {}", "nowhere": "{} does not exist", "file": "{} is a file"}
    for name, message in wrong.items():
        folder = tmp_path / name
        with pytest.raises(FileNotFoundError, match=rf"{message.format(folder)}\. Set data_dir"):
            AtomicFiles(str(folder)).setup()
    write(tmp_path, [], name="b.inter"), write(tmp_path, [], name="a.inter")
    with pytest.raises(ValueError, match=rf"{tmp_path} holds several \.inter files: a\.inter, b\.inter"):
        AtomicFiles(str(tmp_path)).setup()


@pytest.mark.parametrize(
    ("header", "arguments", "message"),
    [
        ("user:token\titem_id:token", {}, "has no column 'user_id' for the user; it has user, item_id. .*user_field"),
        ("user_id:token\titem:token", {}, "no column 'item_id' for the item; .*Set item_field"),
        (
            "user_id:token\titem_id:token",
            {"rating_threshold": 3},
            "for the rating; .*rating_field, or leave out",
        ),
        (
            "user_id:token\titem_id:token",
            {"split": "temporal"},
            "for the time; .*time_field, or split at random",
        ),
        ("user_id:token\titem_id:token", {"item_field": "isbn"}, "no column 'isbn' for the item"),
        ("rating:token\titem_id:token\tuser_id:token", {"rating_threshold": 3}, "'rating' must have the type float"),
    ],
)
def test_missing_columns(tmp_path: Path, header: str, arguments: dict[str, Any], message: str) -> None:
    path = write(tmp_path, [], header)
    with pytest.raises(ValueError, match=f"^{path}.*{message}"):
        AtomicFiles(str(tmp_path), **arguments).setup()


def test_fields_can_have_other_names() -> None:
    header = "when:float\tbook:token\treader:token\tstars:float"
    data = load(
        [(3, "x", "a", 5), (1, "y", "a", 4), (2, "z", "a", 3), (4, "v", "a", 1), (5, "x", "b", 5)],
        header, user_field="reader", item_field="book", rating_field="stars", time_field="when", rating_threshold=2,
        split="temporal",
    )  # fmt: skip
    assert [named(data, split) for split in ("train", "valid", "test")] == [
        [("a", "y"), ("b", "x")],
        [("a", "z")],
        [("a", "x")],
    ]
    assert data.low_rated is not None and len(data.low_rated) == 0  # v is known only from a low rating


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"split": "leave-one-out"},
            "split is 'leave-one-out'; it must be 'random', 'temporal', 'leave-last-out' or 'temporal-global'",
        ),
        ({"split_ratios": (0.5, 0.2, 0.2)}, "split_ratios"),
        ({"split_ratios": (0.0, 0.5, 0.5)}, "split_ratios"),
        ({"split_ratios": (1.2, -0.1, -0.1)}, "split_ratios"),
        ({"split_ratios": (0.8, 0.2)}, "split_ratios .*three shares that sum to 1"),
        ({"split_ratios": (nan, 0.5, 0.5)}, "split_ratios"),
        ({"split_ratios": (0.5, nan, 0.5)}, "split_ratios"),
        ({"split_ratios": (inf, -inf, 1.0)}, "split_ratios"),
        ({"k_core": -1}, "k_core is -1"),
        ({"k_core": nan}, "k_core is nan; it must be at least 0, and whole"),
        ({"k_core": 2.5}, "k_core is 2.5"),
        *(({name: bad}, f"{name} is {bad}; it must be a finite number") for name in BOUNDS for bad in (nan, inf, -inf)),
        *(({name: bad}, f"{name} is {bad}; .*whole") for name in WHOLE for bad in (nan, inf, 1.5, -1)),
        ({"rating_threshold": 3, "noise_below": 3}, r"noise_below is 3, but nothing .* rating_threshold \(3\)"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AtomicFiles("anywhere", **arguments)


# What is kept of it


@settings(max_examples=60)
@given(raw_rows, st.sampled_from([None, 2.5, 3.0]), st.integers(0, 3))
def test_filters_equal_a_plain_reference(rows: list[Row], threshold: float | None, k: int) -> None:
    last = {(user, item): rating for user, item, rating, _ in rows}
    liked = {pair for pair, rating in last.items() if threshold is None or rating >= threshold}
    kept = naive_k_core(liked, k)
    if not rows:
        with pytest.raises(ValueError, match=r"has a header but no rows\. Add the interactions"):
            load(rows, rating_threshold=threshold, k_core=k)
        return
    if not kept:
        with pytest.raises(
            ValueError, match=rf"no interaction is left after rating_threshold={threshold} and k_core={k}"
        ):
            load(rows, rating_threshold=threshold, k_core=k)
        return
    data = load(rows, rating_threshold=threshold, k_core=k)
    found = [pair for split in ("train", "valid", "test") for pair in named(data, split)]
    assert sorted(found) == sorted(kept)
    for names, column in ((data.user_names, 0), (data.item_names, 1)):
        assert names is not None and sorted(names) == sorted({pair[column] for pair in kept})
    if threshold is None:
        assert data.low_rated is None
    else:
        known = {user for user, _ in kept}, {item for _, item in kept}
        low = {(user, item) for user, item in last.keys() - liked if user in known[0] and item in known[1]}
        assert sorted(named(data, "low_rated")) == sorted(low)


def test_users_and_items_are_numbered_by_their_sorted_identifiers() -> None:
    data = load([("b", "y", 5, 0), ("10", "Z", 5, 0), ("9", "y", 5, 0), ("b", "x", 5, 0), ("é", "a", 1, 0)])
    assert data.user_names == ["10", "9", "b", "é"] and data.item_names == ["Z", "a", "x", "y"]


def everything(data: Interactions) -> dict[str, Any]:
    """All that training could depend on, in a form that can be compared."""
    return {key: value.tolist() if isinstance(value, Tensor) else value for key, value in vars(data).items()}


@settings(max_examples=100)
@given(
    raw_rows.filter(bool),
    st.sampled_from(["random", "temporal"]),
    st.sampled_from([{}, {"rating_threshold": 2.5, "k_core": 1}, {"noise_below": 3.0, "held_out_from": 3.0}]),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_rows_changes_nothing(rows: list[Row], split: Any, bounds: Any, random: Random) -> None:
    """Ties in time and repeated pairs included; without times, a pair that is rated twice is the one exception."""
    if split == "random" and bounds:
        rows = list({row[:2]: row for row in rows}.values())
    shuffled = random.sample(rows, len(rows))
    with TemporaryDirectory() as folder:
        found = []
        for order in (rows, shuffled):
            write(Path(folder), order)
            module = AtomicFiles(folder, split=split, noise_ratio=0.2, **bounds)
            try:
                module.setup()
            except ValueError as error:
                found.append((str(error), None))
            else:
                found.append(
                    (
                        everything(module.interactions),
                        torch.stack([module.train_users, module.train_items, module.noise_mask]).tolist(),
                        module.negative_sampler.draw(0).tolist(),
                    )
                )
    assert found[0] == found[1]


def test_the_same_interactions_in_another_order_are_the_same_data() -> None:
    folder = CASES / "renumbered"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here.")
    first, second = (vars(AtomicFiles(str(folder / name)).interactions) for name in "ab")
    assert first.pop("name") != second.pop("name")
    assert {key: str(value) for key, value in first.items()} == {key: str(value) for key, value in second.items()}


def test_a_repeated_pair_counts_once_with_its_latest_row() -> None:
    rows = [("a", "x", 5, 9), ("a", "y", 5, 5), ("a", "x", 1, 1), ("a", "z", 5, 3), ("a", "z", 2, 2)]
    data = load(rows, rating_threshold=3, split="temporal", split_ratios=(0.5, 0, 0.5))
    assert (named(data, "train"), named(data, "test")) == ([("a", "y"), ("a", "z")], [("a", "x")])
    equally_late = [("a", "x", 5, 1), ("a", "x", 1, 1), ("a", "y", 5, 0)]
    for rows in (equally_late, equally_late[::-1]):
        assert len(load(rows, rating_threshold=3, split="temporal").train) == 1
        assert named(load(rows, rating_threshold=3, split="temporal"), "test") == [("a", "x")]


def test_without_times_a_repeated_pair_counts_once_with_its_last_row() -> None:
    rows = [("a", "x", 1, 9), ("a", "y", 5, 5), ("a", "x", 5, 1), ("a", "z", 5, 2), ("a", "z", 2, 3)]
    data = load(rows, rating_threshold=3)
    assert sorted(named(data, "train") + named(data, "test")) == [("a", "x"), ("a", "y")]
    assert named(data, "low_rated") == []  # z is known only from a low rating


def test_low_ratings_become_noise(tmp_path: Path) -> None:
    write(tmp_path, [(f"u{user}", f"i{item}", 1 + (user + item) % 5, 0) for user in range(20) for item in range(20)])
    data = AtomicFiles(str(tmp_path), rating_threshold=3, noise_ratio=0.5, noise_source="low_rating")
    data.setup()
    names = data.interactions
    assert names.user_names is not None and names.item_names is not None
    noise = pairs_of(data.train_users[data.noise_mask], data.train_items[data.noise_mask])
    assert len(noise) == round(0.5 * len(names.train)) > 0
    assert all((int(names.user_names[u][1:]) + int(names.item_names[i][1:])) % 5 < 2 for u, i in noise)


def test_real_noise_stays_in_train_and_what_is_held_out_is_loved(tmp_path: Path) -> None:
    """Ratings 1 to 5: train keeps all that the split puts there, valid and test the fives of what it puts there."""
    write(
        tmp_path, [(f"u{user}", f"i{item}", 1 + (3 * user + item) % 5, 0) for user in range(20) for item in range(20)]
    )
    data = AtomicFiles(str(tmp_path), noise_below=4, held_out_from=5)
    data.setup()
    plain, given = AtomicFiles(str(tmp_path)).interactions, data.interactions

    def rating(pair: tuple[str, str]) -> int:
        return 1 + (3 * int(pair[0][1:]) + int(pair[1][1:])) % 5

    assert named(given, "train") == named(plain, "train")
    for split in ("valid", "test"):
        assert named(given, split) == [pair for pair in named(plain, split) if rating(pair) == 5] != []
    assert given.user_names is not None and given.item_names is not None
    names = [(given.user_names[u], given.item_names[i]) for u, i in pairs_of(data.train_users, data.train_items)]
    assert data.noise_mask.tolist() == [rating(pair) < 4 for pair in names]
    assert data.train_kinds is not None and data.train_kinds.tolist() == [2 * (rating(pair) < 4) for pair in names]
    # Noise can be added to it.
    more = AtomicFiles(str(tmp_path), noise_below=4, held_out_from=5, rating_threshold=2, noise_ratio=0.1)
    more.setup()
    assert int(more.noise_mask.sum()) == int(more.interactions.train_kinds.eq(2).sum()) + round(  # type: ignore[union-attr]
        0.1 * len(more.interactions.train)
    )


# The split


@pytest.mark.parametrize("split", ["random", "temporal"])
@pytest.mark.parametrize(
    ("ratios", "sizes"),
    [
        ((0.6, 0.2, 0.2), {1: (1, 0, 0), 2: (1, 0, 1), 3: (1, 1, 1), 5: (3, 1, 1), 14: (10, 2, 2), 15: (9, 3, 3)}),
        ((0.8, 0.1, 0.1), {2: (1, 0, 1), 3: (1, 1, 1), 9: (7, 1, 1), 10: (8, 1, 1), 20: (16, 2, 2), 29: (25, 2, 2)}),
        ((0.5, 0, 0.5), {1: (1, 0, 0), 2: (1, 0, 1), 5: (3, 0, 2)}),
        ((0.5, 0.5, 0), {1: (1, 0, 0), 2: (1, 1, 0), 5: (3, 2, 0)}),
        ((1, 0, 0), {1: (1, 0, 0), 7: (7, 0, 0)}),
        ((0.1, 0.8, 0.1), {2: (1, 1, 0), 5: (1, 4, 0), 9: (1, 7, 1), 10: (1, 8, 1)}),
    ],
)  # fmt: skip
def test_sizes_of_the_splits_as_recbole_cuts_them(split: Any, ratios: Any, sizes: dict[int, tuple[int, ...]]) -> None:
    rows = [(f"u{size}", f"i{item}", 5, item) for size in sizes for item in range(size)]
    data = load(rows, split=split, split_ratios=ratios)
    counts = [Counter(user for user, _ in named(data, part)) for part in ("train", "valid", "test")]
    assert {size: tuple(count[f"u{size}"] for count in counts) for size in sizes} == sizes


@settings(max_examples=60)
@given(raw_rows.filter(bool), st.tuples(*[st.integers(0, 10)] * 3).filter(lambda r: r[0] > 0), st.booleans())
def test_each_user_is_split_by_the_ratios(rows: list[Row], parts: tuple[int, int, int], temporal: bool) -> None:
    ratios = tuple(part / sum(parts) for part in parts)
    data = load(rows, split="temporal" if temporal else "random", split_ratios=ratios)
    splits = [named(data, split) for split in ("train", "valid", "test")]
    last = {(user, item): time for user, item, _, time in sorted(rows, key=lambda row: row[3])}
    assert sorted(pair for split in splits for pair in split) == sorted(last)
    for user in {user for user, _ in last}:
        times = [[last[pair] for pair in split if pair[0] == user] for split in splits]
        total = sum(map(len, times))
        assert times[0], "a user without training interactions"
        for share, ratio in zip(times[1:], ratios[1:], strict=True):
            # No more than its share, rounded down, but one where it would be nothing.
            assert len(share) <= max(ratio * total + 1e-6, ratio > 0)
            assert len(share) > ratio * total - 1 - 1e-6
            assert share or ratio == 0 or len(times[0]) == 1
        if temporal:
            ordered = [time for share in times for time in (min(share, default=None), max(share, default=None))]
            present = [time for time in ordered if time is not None]
            assert present == sorted(present)


def test_ties_in_time_favour_no_item_and_no_seed() -> None:
    rows = [(f"u{user}", f"i{item}", 5, 1) for user in range(60) for item in range(5)]
    data = load(rows, split="temporal")
    assert named(data, "test") == named(load(rows[::-1], split="temporal", seed=7), "test")
    counts = Counter(item for _, item in named(data, "test"))
    assert len(counts) == 5 and min(counts.values()) > 3


@pytest.mark.parametrize(
    "times",
    [
        ("1700000000000000001", "1700000000000000002", "1700000000000000003"),  # float64 makes them one
        ("9007199254740992.1", "9007199254740992.2", "9007199254740993"),
        ("-1e3", "1463184000.0", "1.4631840005e9"),
        ("-9223372036854775808", "9223372036854775806", "9223372036854775807"),
    ],
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_times_are_compared_exactly(times: tuple[str, ...], order: tuple[int, ...]) -> None:
    data = load([("a", "xyz"[place], 5, times[place]) for place in order], split="temporal")
    assert [item for part in ("train", "valid", "test") for _, item in named(data, part)] == list("xyz")


def test_times_of_which_some_thousandth_row_is_not_whole(tmp_path: Path) -> None:
    """The file is decoded in blocks: those before it hold integers."""
    rows = [("a", f"i{item:06}", 5, item) for item in range(40_000)]
    rows[35_000] = ("a", "i035000", 5, 34_998.5)
    data = load(rows, split="temporal", split_ratios=(0.875, 0.125, 0))
    assert named(data, "train")[-1] == ("a", "i035000") and ("a", "i034999") in named(data, "valid")


def test_the_random_split_depends_on_the_seed_alone() -> None:
    rows = [(f"u{user}", f"i{item}", 5, item) for user in range(10) for item in range(10)]
    first, again, other = (load(rows, seed=seed) for seed in (3, 3, 4))
    for split in ("train", "valid", "test"):
        assert named(first, split) == named(again, split) != named(other, split)
    for part in ("valid", "test"):  # neither the first nor the last of each user's rows
        places = Counter(item for _, item in named(first, part))
        assert len(places) > 5


@pytest.mark.parametrize("split", ["random", "temporal"])
def test_users_with_one_interaction_each_leave_nothing_to_validate_on(split: Any) -> None:
    with TemporaryDirectory() as folder:
        write(Path(folder), [(f"u{user}", f"i{user % 5}", 5, user) for user in range(20)])
        data = AtomicFiles(folder, split=split)
        data.setup()
    assert (len(data.interactions.train), len(data.interactions.valid), len(data.interactions.test)) == (20, 0, 0)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert len(loader) == 0 and list(loader) == []
    (batch,) = data.predict_dataloader()
    assert len(batch["user"]) == 20


def test_a_million_rows_take_60_mb(tmp_path: Path) -> None:
    """As columns of text they would take .5 GB."""
    rng = np.random.default_rng(0)
    columns = (rng.integers(high, size=2 * 10**6).tolist() for high in (50_000, 20_000, 10**9))
    with (tmp_path / "x.inter").open("w") as file:
        file.write(HEADER + "\n")
        file.writelines(f"{user}\t{item}\t{item % 5}.0\t{time}\n" for user, item, time in zip(*columns, strict=True))
    code = f"""if True:
        from pathlib import Path
        from llmhd_pl.datamodules import AtomicFiles
        data = AtomicFiles({str(tmp_path)!r}, split="temporal", rating_threshold=1)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
        peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1000
        base = peak()
        data.load()
        print(peak() - base)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2 * 60


# The text of the items


def test_item_texts_are_matched_by_name(tmp_path: Path) -> None:
    write(tmp_path, [("a", "y", 5, 0), ("a", "x", 5, 1), ("b", "z", 5, 2)])
    items = [("x", "Café", "", 1995), ("?", "nobody has it", "c", 1), ("y", "", "", 7), ("x", "a second row", "", 1)]
    header = "item_id:token\ttitle:token_seq\tclass:token_seq\tyear:float"
    write(tmp_path, items, header, "other.item")
    with pytest.warns(UserWarning, match=r"other\.item has no row for 1 of 3 items, such as 'z'\."):
        texts = AtomicFiles(str(tmp_path)).interactions.items
    assert texts == [{"title": "Café", "year": "1995"}, {"year": "7"}, {}]


def test_item_texts_that_are_absent_or_wrong(tmp_path: Path) -> None:
    write(tmp_path, [("a", "x", 5, 0)])
    assert AtomicFiles(str(tmp_path)).interactions.items == []
    path = write(tmp_path, [("x",)], "item_id:token", "data.item")
    assert AtomicFiles(str(tmp_path)).interactions.items == [{}]
    write(tmp_path, [("m1",), ("m2",)], "item_id:token", "data.item")
    with pytest.raises(ValueError, match=f"{path}: none of its 2 items is in .* such as 'x'; this file names 'm1'"):
        AtomicFiles(str(tmp_path)).setup()
    write(tmp_path, [("x",)], "isbn:token", "data.item")
    with pytest.raises(ValueError, match=f"{path} has no column 'item_id'; it has isbn"):
        AtomicFiles(str(tmp_path)).setup()
    write(tmp_path, [("x",)], "item_id:token\ttitle:token", "data.item")
    with pytest.raises(ValueError, match=f"{path}, line 2: 1 fields, but the header names 2"):
        AtomicFiles(str(tmp_path)).setup()
    write(tmp_path, [], "item_id:token", "more.item")
    with pytest.raises(ValueError, match=r"several \.item files: data\.item, more\.item"):
        AtomicFiles(str(tmp_path)).setup()


# The real data


@pytest.fixture(scope="module")
def ml_100k() -> str:
    if not (DATA / "ml-100k").is_dir():
        pytest.skip(f"{DATA / 'ml-100k'} is not here; docs/data.md says where the data comes from.")
    return str(DATA / "ml-100k")


def test_ml_100k(ml_100k: str) -> None:
    data = AtomicFiles(ml_100k, rating_threshold=3, split="temporal", noise_ratio=0.2, noise_source="low_rating")
    data.setup()
    given = data.interactions
    assert len(given.train) + len(given.valid) + len(given.test) == 82_520  # of 100,000; 17,480 are rated 1 or 2
    assert int(data.noise_mask.sum()) == round(0.2 * len(given.train))
    assert given.user_names is not None and given.item_names is not None
    assert (
        given.user_names[:2] == ["1", "10"] and given.items[given.item_names.index("1")]["movie_title"] == "Toy Story"
    )
    assert all(given.items)
    columns = ["user_id", "item_id", "rating", "timestamp"]
    table = pd.read_csv(Path(ml_100k) / "ml-100k.inter", sep="\t", names=columns, header=0, dtype={0: str, 1: str})
    rows = {(row.user_id, row.item_id): row for row in table.itertuples()}
    assert given.low_rated is not None and 17_000 < len(given.low_rated) <= 17_480
    assert all(rows[pair].rating < 3 for pair in named(given, "low_rated"))
    latest: dict[str, int] = {}
    for split in ("train", "valid", "test"):
        times: dict[str, list[int]] = {}
        for user, item in named(given, split):
            assert rows[user, item].rating >= 3
            times.setdefault(user, []).append(rows[user, item].timestamp)
        assert all(min(times[user]) >= latest.get(user, 0) for user in times)
        latest |= {user: max(times[user]) for user in times}


def test_ml_100k_whole_and_its_core(ml_100k: str) -> None:
    whole = AtomicFiles(ml_100k).interactions
    assert (whole.num_users, whole.num_items, whole.low_rated) == (943, 1682, None)
    core = AtomicFiles(ml_100k, rating_threshold=4, k_core=10).interactions
    pairs = pairs_of(core.train) + pairs_of(core.valid) + pairs_of(core.test)
    for column in (0, 1):
        assert min(Counter(pair[column] for pair in pairs).values()) >= 10
    assert (core.num_users, core.num_items) < (943, 1682)
