"""From the owners' dumps to a trained model. What is expected is worked out by hand beside ``REVIEWS``."""

import json
from collections.abc import Callable
from pathlib import Path

import dumps
import pyarrow.parquet as pq
import pytest
import torch
from dumps import Review
from pytorch_lightning import Trainer
from small_data import pairs_of

from llmhd_pl import MF, AmazonBooks, LexicalScorer, Steam, Yelp
from llmhd_pl.__main__ import main
from llmhd_pl.audit import audit
from llmhd_pl.audit.clean_copy import write_clean_copy
from llmhd_pl.datamodules.prepare import Report, prepare
from llmhd_pl.datamodules.rlmrec import RLMRecDataModule

A, B, C, D, F = (f"A{letter}7KZ" for letter in "ABCDF")
V, W, X, Y, Z = (f"00010{letter}" for letter in "VWXYZ")
REVIEWS: list[Review] = [
    (F, X, 5.0, 1),
    (C, Y, 4.0, 2),
    (B, Y, 1.0, 2),
    (A, X, 5.0, 1),
    (A, Y, 3.0, 2),  # the threshold itself is positive
    (A, Z, 2.0, 3),
    (A, V, 5.0, 4),
    (B, Y, 3.0, 5),  # the later review counts: positive
    (B, X, 4.0, 1),
    (B, V, 4.0, 3),
    (C, X, 5.0, 1),
    (C, Y, 2.0, 6),  # the later review counts: low
    (C, Z, 3.0, 3),
    (D, W, 5.0, 1),
    (D, X, 5.0, 2),
    (F, Y, 2.0, 2),
    (F, V, 3.0, 2),
]
# Positives: A X Y V, B X Y V, C X Z, D W X, F X V. With two or more each: Z and W go, then C and D. Low: F Y alone
# is of a user and an item that are left.
USERS, ITEMS = [A, B, F], [V, X, Y]
LIKED = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
# By time: A X Y V, B X V Y, F X V; a user with two interactions has none in validation.
TEMPORAL = [(0, 1), (1, 1), (2, 1)], [(0, 2), (1, 0)], [(0, 0), (1, 2), (2, 0)]

FORMATS = {
    "amazon-2014": ("amazon-books", dumps.amazon_2014, AmazonBooks),
    "amazon-2018": ("amazon", dumps.amazon_2018, AmazonBooks),
    "amazon-2023": ("amazon-books", dumps.amazon_2023, AmazonBooks),
    "yelp": ("yelp", dumps.yelp, Yelp),
    "yelp-tar": ("yelp", dumps.yelp_tar, Yelp),
}
each_rated_format = pytest.mark.parametrize(("source", "dump", "module"), FORMATS.values(), ids=FORMATS)
Dump = Callable[[Path, list[Review]], Path]


def loaded(folder: Path, module: type[RLMRecDataModule] = Yelp) -> RLMRecDataModule:
    data = module(str(folder))
    data.setup()
    return data


def liked(data: RLMRecDataModule) -> list[tuple[int, int]]:
    inter = data.interactions
    return sorted(pairs_of(torch.cat([inter.train, inter.valid, inter.test])))


def prepared(tmp_path: Path, source: str = "yelp", **options: object) -> Report:
    return prepare(source, str(tmp_path / "raw"), str(tmp_path / "out"), **options)  # type: ignore[arg-type]


@each_rated_format
def test_threshold_core_and_split_by_time(
    tmp_path: Path, source: str, dump: Dump, module: type[RLMRecDataModule]
) -> None:
    dump(tmp_path / "raw", REVIEWS)
    report = prepared(tmp_path, source, k_core=2, split="temporal")
    inter = loaded(tmp_path / "out", module).interactions
    assert inter.user_names == USERS and inter.item_names == ITEMS
    assert [sorted(pairs_of(part)) for part in (inter.train, inter.valid, inter.test)] == [
        sorted(part) for part in TEMPORAL
    ]
    assert inter.low_rated is not None and pairs_of(inter.low_rated) == [(2, 2)]
    assert (report.reviews, report.repeated, report.below, report.positives) == (17, 2, 3, 12)
    assert (report.core, report.core_users, report.num_users, report.num_items) == (8, 3, 3, 3)
    assert (report.train, report.valid, report.test, report.low, report.described) == (3, 2, 3, 1, 3)
    assert report.broken == []


def test_every_review_of_steam_is_an_interaction(tmp_path: Path) -> None:
    dumps.steam(tmp_path / "raw", REVIEWS)
    report = prepared(tmp_path, "steam", k_core=2)
    data = loaded(tmp_path / "out", Steam)
    # Only W, of one user, goes, and then D. The ratings of the list are not in the dump.
    assert data.interactions.user_names == [A, B, C, F] and data.interactions.item_names == [V, X, Y, Z]
    assert liked(data) == [
        *((0, item) for item in range(4)),
        *((1, item) for item in (0, 1, 2)),
        *((2, item) for item in (1, 2, 3)),
        *((3, item) for item in (0, 1, 2)),
    ]
    assert data.interactions.low_rated is None and not (tmp_path / "out" / "low_mat.pkl").exists()
    assert (report.repeated, report.below, report.positives, report.low) == (2, None, 15, None)
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "there are no ratings" in readme and "rating_threshold" not in readme


TEXTS = {
    "amazon-2014": {
        "title": 'It\'s "Book" 2',
        "categories": "Books, Shelf 2, Classics",
        "description": 'A café "story"\\ about love .',
        "price": "$5.17",
    },
    "amazon-2018": {
        "title": "Puzzle 2",
        "brand": "Dr. Seuss",
        "categories": "Toys & Games, Puzzles & Games",
        "description": "Three puzzles. For everybody",
        "price": "$12.99",
    },
    "amazon-2023": {
        "title": "Book 2",
        "brand": "Jane Roe (Author)",
        "categories": "Books, Literature & Fiction",
        "description": "A tale. It ends well.",
    },
    "yelp": {
        "title": "St Mary's Café 2",
        "city": "Tucson",
        "state": "AZ",
        "categories": "Restaurants, Coffee & Tea, Mexican",
    },
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_of_an_item(tmp_path: Path, name: str) -> None:
    source, dump, module = FORMATS[name]
    dump(tmp_path / "raw", REVIEWS)
    prepared(tmp_path, source, k_core=0, rating_threshold=0)
    items = loaded(tmp_path / "out", module).interactions.items
    assert items[2] == TEXTS[name]  # X is the third item
    assert len(items) == 5


def test_texts_that_are_missing_or_no_texts(tmp_path: Path) -> None:
    first: dict[str, dict[str, str]] = {}
    second: dict[str, dict[str, str]] = {}
    for name in ("amazon-2014", "amazon-2018", "amazon-2023", "yelp"):
        source, dump, _ = FORMATS[name]
        dump(tmp_path / name, REVIEWS)
        prepare(source, str(tmp_path / name), str(tmp_path / "out" / name), k_core=0)  # type: ignore[arg-type]
        first[name], second[name], *_ = loaded(tmp_path / "out" / name).interactions.items
    assert first["amazon-2014"].keys() == {"categories", "description"}  # no title, no price
    assert first["amazon-2018"].keys() == {"brand", "categories", "description"}  # a script and a style sheet
    assert second["amazon-2018"]["author"] == "Paulo Coelho" and "brand" not in second["amazon-2018"]
    assert second["amazon-2018"]["title"] == "Puzzle 1"  # the first of two lines
    assert second["amazon-2023"]["author"] == "Kathleen Duey" and "price" not in second["amazon-2023"]
    assert "categories" not in first["yelp"]  # null


def test_the_text_of_a_game(tmp_path: Path) -> None:
    dumps.steam(tmp_path / "raw", REVIEWS)
    prepared(tmp_path, "steam", k_core=0)
    items = loaded(tmp_path / "out", Steam).interactions.items
    assert items[2] == {
        "title": "Lost Kitty™ 2",
        "genres": "Action, Animation & Modeling",
        "tags": "Strategy, Action",
        "specs": "Single-player",
        "developer": "Kotoshiro",
        "publisher": "Kotoshiro",
        "price": "Free To Play",
    }
    assert items[1]["title"] == "Lost Kitty™ 1" and items[1]["price"] == "$4.99"


def many(users: int = 24, items: int = 12) -> list[Review]:
    """Reviews of a catalog: half of all pairs, a fifth of them rated 1 or 2."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.rand(users, items, 2, generator=generator)
    return [
        (f"AU{user:02d}", f"000{item:02d}", 1.0 + int(4.99 * drawn[user, item, 1]), int(9 * drawn[user, item, 1]))
        for user in range(users)
        for item in range(items)
        if drawn[user, item, 0] < 0.6
    ]


@pytest.mark.parametrize(
    ("source", "dump", "module", "noise"),
    [*((*one, "low_rating") for one in FORMATS.values()), ("steam", dumps.steam, Steam, "random")],
    ids=[*FORMATS, "steam"],
)
def test_from_the_files_to_a_trained_model(
    tmp_path: Path, source: str, dump: Dump, module: type[RLMRecDataModule], noise: str
) -> None:
    dump(tmp_path / "raw", many())
    main(["prepare", source, str(tmp_path / "raw"), str(tmp_path / "out"), "--k_core", "3"])
    data = module(str(tmp_path / "out"), batch_size=32, noise_ratio=0.2, noise_source=noise)  # type: ignore[arg-type]
    data.setup()
    planted = set(pairs_of(data.train_users[data.noise_mask], data.train_items[data.noise_mask]))
    assert len(planted) == round(0.2 * len(data.interactions.train)) > 5
    low = data.interactions.low_rated
    assert (low is None) == (source == "steam")
    if low is not None:
        assert planted <= set(pairs_of(low))
    model = MF(num_users=data.num_users, num_items=data.num_items, embedding_dim=8)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, data)
    (found,) = trainer.test(model, data, verbose=False)
    assert 0 < found["test/recall@10"] <= 1


def test_the_same_reviews_in_another_order_give_the_same_files(tmp_path: Path) -> None:
    dumps.yelp(tmp_path / "raw", many())
    dumps.yelp(tmp_path / "turned", [])
    names = ["yelp_academic_dataset_business.json", "yelp_academic_dataset_review.json"]
    for name in names:
        lines = (tmp_path / "raw" / name).read_bytes().splitlines(keepends=True)
        (tmp_path / "turned" / name).write_bytes(b"".join(lines[::-1]))
    options = {"k_core": 3, "users": 10, "seed": 4}
    for raw, out in (("raw", "one"), ("turned", "other")):
        prepare("yelp", str(tmp_path / raw), str(tmp_path / out), **options)  # type: ignore[arg-type]
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(
        ["README.md", "item_ids.jsonl", "items.jsonl", "user_ids.jsonl"]
        + [f"{part}_mat.pkl" for part in ("trn", "val", "tst", "low")]
    )
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes() for name in files)


def test_users_are_drawn_by_the_seed_and_the_core_is_taken_again(tmp_path: Path) -> None:
    dumps.yelp(tmp_path / "raw", many())
    chosen = []
    for seed in (0, 1):
        report = prepare("yelp", str(tmp_path / "raw"), str(tmp_path / str(seed)), k_core=3, users=16, seed=seed)
        data = loaded(tmp_path / str(seed))
        pairs = torch.tensor(liked(data))
        assert report.core_users == 22 and 8 < data.num_users <= 16
        assert pairs[:, 0].bincount().min() >= 3 and pairs[:, 1].bincount().min() >= 3
        chosen.append(data.interactions.user_names)
    assert chosen[0] != chosen[1]
    everybody = prepare("yelp", str(tmp_path / "raw"), str(tmp_path / "all"), k_core=3, users=1000)
    assert everybody.num_users == 22


def test_a_random_split_is_three_to_one_to_one_of_each_user(tmp_path: Path) -> None:
    reviews = [(f"U{user}", f"I{item}", 5.0, 1) for user in range(6) for item in range(10)]
    dumps.yelp(tmp_path / "raw", reviews)
    prepared(tmp_path, k_core=6)  # as many users as an item has
    inter = loaded(tmp_path / "out").interactions
    for part, size in ((inter.train, 6), (inter.valid, 2), (inter.test, 2)):
        assert part[:, 0].bincount().tolist() == [size] * 6
    prepare("yelp", str(tmp_path / "raw"), str(tmp_path / "other"), k_core=6, seed=1)
    assert not torch.equal(loaded(tmp_path / "other").interactions.test, inter.test)


def test_of_equally_late_reviews_the_best_counts(tmp_path: Path) -> None:
    dumps.amazon_2014(
        tmp_path / "raw", [(A, X, 5.0, 1), (A, X, 1.0, 1), (A, Y, 2.0, 1), (A, Y, 4.0, 1), (B, X, 4.0, 1)]
    )
    report = prepared(tmp_path, "amazon", k_core=0)
    assert liked(loaded(tmp_path / "out")) == [(0, 0), (0, 1), (1, 0)]
    assert (report.repeated, report.low) == (2, 0)


def test_the_readme_and_the_identifiers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dumps.yelp_tar(tmp_path / "raw", REVIEWS)
    main(["prepare", "yelp", str(tmp_path / "raw"), str(tmp_path / "out"), "--k_core=2", "--seed=7"])
    printed = " ".join(capsys.readouterr().out.split())
    readme = (tmp_path / "out" / "README.md").read_text()
    for text in (
        "12 positive interactions, and 3 more are rated below",
        "3 users, 3 items (3 with text)",
        "1 low rating",
    ):
        assert text in printed and text in readme
    assert "--rating_threshold 3.0 --k_core 2 --split random --seed 7 --broken_share 0.01" in readme
    assert "--data Yelp" in readme
    lines = (tmp_path / "out" / "user_ids.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"user": user, "id": name} for user, name in enumerate(USERS)]


def test_the_clean_copy_of_an_audit_has_the_identifiers(tmp_path: Path) -> None:
    dumps.amazon_2018(tmp_path / "raw", many())
    prepared(tmp_path, "amazon", k_core=3)
    data = loaded(tmp_path / "out", AmazonBooks)
    found = audit(LexicalScorer(), data.interactions.items, data.train_users.numpy(), data.train_items.numpy())
    write_clean_copy(tmp_path / "clean", found, data)  # the command refuses, because the judge cannot tell
    suspicious = pq.read_table(tmp_path / "clean" / "suspicious.parquet").to_pydict()
    assert set(suspicious["user"]) <= {user for user, *_ in many()}
    assert set(suspicious["item"]) <= {item for _, item, *_ in many()} and len(suspicious["item"]) > 20
    clean, given = (loaded(tmp_path / name, AmazonBooks).interactions for name in ("clean", "out"))
    assert clean.user_names == given.user_names and clean.item_names == given.item_names and clean.items == given.items
