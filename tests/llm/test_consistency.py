import numpy as np
import torch

from llmhd_pl.llm.consistency import SIMILAR, SimilarItems
from llmhd_pl.llm.lexical import vectorizer
from llmhd_pl.llm.prompts import item_profile

ITEMS = [
    {"title": "Blue Door Pizza", "city": "Tucson"},
    {"title": "Blue Door Pizza", "city": "Boise"},
    {"title": "Harbour Books"},
    {"title": "Harbour Books and Maps"},
    {"title": "Sushi"},
]
NAN = float("nan")


def test_similar_items_of_one_user_are_compared() -> None:
    similar = SimilarItems(ITEMS)
    users = torch.tensor([7, 7, 7, 7, 3, 3, 3])
    items = torch.tensor([0, 2, 1, 3, 0, 1, 4])
    #                      fits: user 7's pizzas disagree, its books agree; user 3's pizzas agree
    scores = torch.tensor([9.0, 2.0, 5.4, 1.0, 5.5, 8.0, 1.0])
    assert similar.agreement(users, items, scores, 5.5) == (2, 3)
    order = torch.tensor([4, 0, 5, 1, 6, 2, 3])  # users need not stand together
    assert similar.agreement(users[order], items[order], scores[order], 5.5) == (2, 3)
    scores[2] = NAN  # no answer is no contradiction
    assert similar.agreement(users, items, scores, 5.5) == (2, 2)
    assert similar.agreement(users[:0], items[:0], scores[:0], 5.5) == (0, 0)


def test_similar_is_what_a_dense_loop_finds() -> None:
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(6)]
    items = [{"title": " ".join(sorted(rng.choice(words, 4, replace=False)))} for _ in range(30)]
    users = torch.tensor([0] * 5 + [1] * 5)  # five lags reach every pair
    chosen = torch.from_numpy(rng.permutation(30)[:10])
    scores = torch.from_numpy(rng.uniform(1, 10, 10))
    rows = vectorizer(1000).fit_transform([item_profile(fields) for fields in items]).toarray()
    pairs = [(a, b) for a in range(10) for b in range(a + 1, 10) if users[a] == users[b]]
    alike = [(a, b) for a, b in pairs if rows[chosen[a]] @ rows[chosen[b]] >= SIMILAR]
    agreed = sum(bool((scores[a] >= 5.5) == (scores[b] >= 5.5)) for a, b in alike)
    assert 0 < agreed < len(alike) < len(pairs)
    assert SimilarItems(items).agreement(users, chosen, scores, 5.5) == (agreed, len(alike))


def test_items_without_a_word_are_similar_to_none() -> None:
    similar = SimilarItems([{"title": "!!!"}, {"title": "???"}])
    users, items = torch.tensor([0, 0]), torch.tensor([0, 1])
    assert similar.agreement(users, items, torch.tensor([1.0, 9.0]), 5.5) == (0, 0)


def test_of_many_users_some_are_compared_evenly() -> None:
    users = torch.arange(20_000).repeat_interleave(2)
    items = torch.tensor([0, 1]).repeat(20_000)
    contradicted = users >= 15_000  # by the last quarter
    scores = torch.where(contradicted & (items == 1), 2.0, 9.0)
    agreed, compared = SimilarItems(ITEMS).agreement(users, items, scores, 5.5)
    assert 1_000 < compared <= 20_000
    assert abs(agreed / compared - 0.75) < 0.01
