import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from small_data import pairs_of

from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.datamodules.synthetic import DESCRIPTIONS, TITLES, TOPICS

SMALL: dict[str, Any] = {"num_readers": 40, "num_books": 60, "num_topics": 4, "books_per_reader": 9}


@cache
def catalog(**arguments: Any) -> SyntheticCatalog:
    data = SyntheticCatalog(**arguments)
    data.setup()
    return data


def everything(data: SyntheticCatalog) -> list[Any]:
    given = data.interactions
    tensors = (given.train, given.valid, given.test, data.train_users, data.train_items, data.train_kinds)
    return [*map(torch.Tensor.tolist, tensors), given.items, data.topics.tolist(), data.tastes.tolist()]  # type: ignore[arg-type]


def test_the_same_arguments_give_the_same_data() -> None:
    first = everything(catalog(**SMALL, seed=3))
    np.random.seed(5)
    torch.manual_seed(5)
    again = SyntheticCatalog(**SMALL, seed=3)
    again.setup()
    assert everything(again) == first


@pytest.mark.parametrize("part", range(9))
def test_another_seed_gives_other_data(part: int) -> None:
    assert everything(catalog(**SMALL, seed=3))[part] != everything(catalog(**SMALL, seed=4))[part]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        SMALL,
        {"num_readers": 200, "num_topics": 5, "hard_share": 0.0},
        {"num_readers": 200, "hard_share": 0.9, "seed": 1},
        {"num_readers": 200, "num_books": 160, "books_per_reader": 100, "misclick_share": 0.9},  # books run out
        {"num_readers": 1, "num_books": 40, "num_topics": 4, "books_per_reader": 5},
    ],
)
def test_every_interaction_has_the_reason_that_is_claimed(arguments: dict[str, Any]) -> None:
    data = catalog(**arguments)
    assert data.train_kinds is not None and data.train_kinds.dtype == torch.int8
    assert data.tastes.shape == (data.num_users, 3) and data.topics.shape == (data.num_items,)
    assert (data.tastes[:, 2] != data.tastes[:, 0]).all() and (data.tastes[:, 2] != data.tastes[:, 1]).all()
    assert set(data.topics) == set(range(data.num_topics)) and data.tastes.max() < data.num_topics

    def in_tastes(users: Any, items: Any) -> tuple[np.ndarray, np.ndarray]:
        """Is each book of a main taste, is it of the minor one?"""
        topic, tastes = data.topics[items], data.tastes[users]
        return (topic[:, None] == tastes[:, :2]).any(axis=1), topic == tastes[:, 2]

    main, minor = in_tastes(data.train_users.numpy(), data.train_items.numpy())
    expected = np.where(main, 0, np.where(minor, 1, 2))
    assert data.train_kinds.tolist() == expected.tolist()
    assert data.noise_mask.tolist() == (expected == 2).tolist()
    for held_out in (data.interactions.valid, data.interactions.test):
        main, minor = in_tastes(*held_out.numpy().T)
        assert (main | minor).all()  # no noise
        assert data.hard_share == 0 or data.num_users == 1 or 0 < minor.mean() < 1


def test_the_shares_are_near_their_arguments() -> None:
    data = catalog(num_books=1600, hard_share=0.3, misclick_share=0.15, books_per_reader=20)
    given = data.interactions
    assert data.train_kinds is not None
    easy, hard, noise = torch.bincount(data.train_kinds, minlength=3).tolist()
    assert hard / (easy + hard) == pytest.approx(0.3, abs=0.02)
    assert noise / (easy + hard) == pytest.approx(0.15, abs=0.02)
    right = easy + hard + len(given.valid) + len(given.test)
    assert right / data.num_readers == pytest.approx(20, abs=0.5)
    right_train = torch.bincount(data.train_users[~data.noise_mask], minlength=data.num_readers)
    valid, test = (torch.bincount(split[:, 0], minlength=data.num_readers) for split in (given.valid, given.test))
    assert torch.equal(valid, test) and torch.equal(valid, (right_train + valid + test) // 5)
    for split in (given.valid, given.test):
        minor = data.topics[split[:, 1]] == data.tastes[split[:, 0], 2]
        assert minor.mean() == pytest.approx(0.3, abs=0.02)
    two_tastes = (data.tastes[:, 0] != data.tastes[:, 1]).mean()
    assert two_tastes == pytest.approx(0.5, abs=0.05)


def test_a_share_of_zero_is_exact() -> None:
    data = catalog(num_readers=100, hard_share=0.0, misclick_share=0.0)
    assert data.train_kinds is not None and not data.train_kinds.any() and not data.noise_mask.any()


def test_misclicks_hit_popular_books() -> None:
    """Popularity is counted in right interactions, on which misclicks have no influence."""
    data = catalog(num_readers=2000)
    given = data.interactions
    right = torch.cat([data.train_items[~data.noise_mask], given.valid[:, 1], given.test[:, 1]])
    popularity = torch.bincount(right, minlength=data.num_items).float()
    assert popularity[data.train_items[data.noise_mask]].mean() > 1.5 * popularity.mean()


def test_every_reader_can_be_trained_and_evaluated() -> None:
    data = catalog(**SMALL)
    for split in (data.interactions.train, data.interactions.valid, data.interactions.test):
        assert set(split[:, 0].tolist()) == set(range(40))
    assert len(set(pairs_of(data.interactions.train))) == len(data.interactions.train)


def test_texts_are_written_from_the_words_of_the_topic_alone() -> None:
    data = catalog()
    frame = set(re.findall(r"[a-z]+", " ".join(TITLES + DESCRIPTIONS).lower()))
    everywhere = set(" ".join(TOPICS.values()).split())
    texts = data.interactions.items
    assert len(texts) == data.num_items and {key for text in texts for key in text} == {"title", "description"}
    for topic, text in zip(data.topics, texts, strict=True):
        words = set(list(TOPICS.values())[topic].split())
        title, description = (set(re.findall(r"[a-z]+", text[key].lower())) for key in ("title", "description"))
        assert title - frame <= words and description - frame <= words
        assert 1 <= len(title & words) <= 2 and len(description & words) == 4
        assert not (title | description) & (everywhere - words)
    assert len({text["description"] for text in texts}) > 0.95 * len(texts)


def test_no_word_belongs_to_two_topics_or_to_the_frame() -> None:
    words = " ".join(TOPICS.values()).split()
    assert len(set(words)) == len(words) == 12 * 16
    assert not set(words) & set(re.findall(r"[a-z]+", " ".join(TITLES + DESCRIPTIONS).lower()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_topics": 3}, "num_topics is 3; it must be 4 to 16"),
        ({"num_topics": 17}, "num_topics is 17"),
        ({"num_books": 159}, "num_books is 159; 16 topics need at least 160"),
        ({"num_readers": 0}, "num_readers must be at least 1"),
        ({"books_per_reader": 4}, "books_per_reader at least 5"),
        ({"hard_share": -0.1}, "hard_share is -0.1; it must be at least 0 and below 1"),
        ({"hard_share": 1.0}, "hard_share is 1.0"),
        ({"misclick_share": 1.0}, "misclick_share is 1.0"),
        ({"misclick_share": float("nan")}, "misclick_share is nan"),
        ({"eval_batch_size": 0}, "eval_batch_size is 0"),
        *(
            ({name: bad}, f"{name} is {bad}")
            for name in ("num_readers", "num_books", "num_topics", "books_per_reader", "batch_size", "seed")
            for bad in (float("nan"), float("inf"), 20.5)
        ),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticCatalog(**arguments)


def test_there_are_no_low_ratings() -> None:
    with pytest.raises(ValueError, match="SyntheticCatalog: noise_source is 'low_rating', but this data holds no low"):
        SyntheticCatalog(**SMALL, noise_ratio=0.1, noise_source="low_rating").setup()
