import numpy as np
import pytest
import torch
from scipy.special import expit

from llmhd_pl.llm.lexical import LexicalScorer, tf_idf, vectorizer
from llmhd_pl.llm.prompts import item_profile

CITIES = ("Tucson", "Boise", "Reno")
KINDS = ("Pizza", "Hardware", "Books", "Sushi", "5th Ave")


def catalog() -> list[dict[str, str]]:
    items = [{"title": f"{kind} {number}", "city": city} for city in CITIES for kind in KINDS for number in range(4)]
    items[7] = {}
    return items


def visits() -> torch.Tensor:
    """Users go out in one city: its items are 20 c to 20 c + 19."""
    rng = np.random.default_rng(0)
    return torch.tensor(
        [[user, user % 3 * 20 + item] for user in range(30) for item in sorted(rng.choice(20, 6, replace=False))]
    )


def prepared() -> LexicalScorer:
    scorer = LexicalScorer()
    scorer.prepare(catalog(), visits())
    return scorer


def test_scores_equal_a_dense_loop_that_leaves_the_judged_item_out() -> None:
    scorer, items = prepared(), catalog()
    with_text = [item for item, fields in enumerate(items) if fields]
    rows = vectorizer(scorer.max_features).fit_transform([item_profile(items[item]) for item in with_text]).toarray()
    vectors = dict(zip(with_text, rows, strict=True))
    histories = {user: visits()[visits()[:, 0] == user, 1].tolist() for user in range(30)}
    pairs = torch.cartesian_prod(torch.arange(30), torch.arange(60))
    expected = []
    for user, item in pairs.tolist():
        others = [vectors[other] for other in histories[user] if other != item and other in vectors]
        if item not in vectors:
            expected.append(float("nan"))
            continue
        mean = np.mean(others, axis=0)
        cosine = mean @ vectors[item] / np.linalg.norm(mean) / np.linalg.norm(vectors[item])
        intercept, slope = scorer.curve
        expected.append(1 + 9 * expit(intercept + slope * cosine))
    scores = scorer.score({**histories}, pairs)
    torch.testing.assert_close(scores, torch.tensor(expected).float(), atol=1e-5, rtol=0, equal_nan=True)


def test_shared_words_make_a_fit() -> None:
    same_city, other_city = prepared().score({0: [0, 5, 9]}, torch.tensor([[0, 12], [0, 53]])).tolist()
    assert same_city > 6.5
    assert other_city < 3


def test_short_words_and_numbers_count() -> None:
    assert list(vectorizer(100).build_analyzer()("5th A, B2")) == ["5th", "a", "b2", "5th a", "a b2"]


def test_texts_without_a_single_word_are_refused() -> None:
    items = [{"title": mark * 3} for mark in "!?.-+*" * 5]
    with pytest.raises(ValueError, match=r"None of the 30 items with text has a letter or a digit .*'!!!'"):
        LexicalScorer().prepare(items, visits() % 30)
    assert tf_idf(["!!!", "???"], 100).nnz == 0 and tf_idf(["!!!", "otter"], 100).nnz == 1
