from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmhd_pl import LexicalScorer, SyntheticCatalog
from llmhd_pl.audit import audit, suspicious
from llmhd_pl.audit.judging import FOLDS, judge
from llmhd_pl.llm.accounting import Usage
from llmhd_pl.llm.scorer import Preference, Scorer

USERS, ITEMS, EACH = 400, 200, 15
TASTE = np.arange(USERS) % 4
TOPIC = np.arange(ITEMS) % 4
TEXTS = [{"title": f"book {item}", "topic": "abcd"[item % 4]} for item in range(ITEMS)]


def interactions(planted: float) -> tuple[np.ndarray, np.ndarray]:
    """Users take items of their topic, but for the planted share, which may be any item; distinct pairs, shuffled."""
    rng = np.random.default_rng(1)
    pairs = set()
    noise = set()
    for user in range(USERS):
        for _ in range(EACH):
            if rng.random() < planted:
                pair = (user, int(rng.integers(ITEMS)))
                noise.add(pair)
            else:
                pair = (user, int(rng.choice(np.flatnonzero(TASTE[user] == TOPIC))))
            pairs.add(pair)
    table = np.array(sorted(pairs))
    return table[rng.permutation(len(table))], np.array([pair in noise for pair in sorted(pairs)])


class Knowing(Scorer):
    """Knows every taste, or nothing; remembers what it was asked and told."""

    def __init__(
        self, knows: bool = True, learns: bool = False, leaves_out: bool = True, costs: bool = False, seed: int = 0
    ) -> None:
        self.knows, self.learns, self.leaves_out = knows, learns, leaves_out
        self.usage = Usage() if costs else None
        self.rng = np.random.default_rng(seed)
        self.prepared: list[set[tuple[int, int]]] = []
        self.asked: list[tuple[int, int, int]] = []  # the round, the user, the item
        self.told: dict[int, list[int]] = {}

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        self.prepared.append({(user, item) for user, item in pairs.tolist()})

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        self.told = {user: list(items) for user, items in histories.items()}
        return {user: list(items) for user, items in histories.items()}

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        users, items = pairs.numpy().T
        self.asked += [(len(self.prepared) - 1, user, item) for user, item in pairs.tolist()]
        assert set(users.tolist()) <= set(preferences)
        if not self.knows:
            return torch.from_numpy(1 + 9 * self.rng.random(len(users))).float()
        fits = TASTE[users] == TOPIC[items]
        return torch.from_numpy(np.where(fits, 8, 2) + self.rng.random(len(users))).float()

    def revise(self, *arguments: Any) -> dict[int, Preference]:
        raise AssertionError("an audit revises nothing")


@pytest.mark.parametrize("planted", [0.0, 0.15, 0.4])
def test_a_judge_that_knows_finds_the_planted_share(planted: float) -> None:
    pairs, _ = interactions(planted)
    several = [audit(Knowing(seed=seed), TEXTS, *pairs.T, references=60, seed=seed) for seed in range(5)]
    found = several[0]
    # A random item may be of its user's topic, and this is no noise to anybody. Of the others, such a share is expected
    # in the tail as other users without the item are of another topic.
    fits = TASTE[pairs[:, 0]] == TOPIC[pairs[:, 1]]
    has = np.zeros((USERS, ITEMS), dtype=bool)
    has[pairs[:, 0], pairs[:, 1]] = True
    unlike = (~has & (TASTE[:, None] != TOPIC)).sum(axis=0) / (~has).sum(axis=0)
    expected = (~fits / unlike[pairs[:, 1]]).mean()
    # The standard error of a single estimate is .03 with .4 planted.
    assert np.mean([some.share.share for some in several]) == pytest.approx(expected, abs=0.03)
    assert found.share.low <= found.share.share <= found.share.high
    assert (found.share.low == 0) is (planted in (0.0, 0.4))
    assert found.can_tell is (planted < 0.4)  # the more noise, the less can be said of the judge
    assert found.share.size == len(pairs)
    dropped = suspicious(found, 0.1)
    if planted:
        assert found.chance[~fits].mean() > 0.8 > 0.2 > found.chance[fits].mean()
        assert (~fits)[dropped].mean() > 0.85
        assert dropped.sum() == next(cut.dropped for cut in found.cuts if cut.right <= 0.1 + 1e-6 and cut.right > 0.05)


def test_a_judge_that_knows_nothing_cannot_tell() -> None:
    found = audit(Knowing(knows=False), TEXTS, *interactions(0.1)[0].T)
    assert not found.can_tell
    assert found.auc == pytest.approx(0.5, abs=0.02)
    assert found.share.low == 0
    assert "cannot tell" in found.advice[0]
    assert all(group.low == 0 for group in found.groups)


def test_no_interaction_is_judged_by_what_has_learned_from_its_user_and_references_neither() -> None:
    pairs, _ = interactions(0.1)
    judging = Knowing(learns=True)
    judged = judge(judging, TEXTS, pairs, references=3)
    assert len(judging.prepared) == FOLDS
    everything = {(user, item) for user, item in pairs.tolist()}
    for learned in judging.prepared:
        assert learned < everything
    for fold, user, _ in judging.asked:
        assert user not in {learner for learner, _ in judging.prepared[fold]}
    assert not np.isnan(judged.scores).any()
    observed = {(user, item) for _, user, item in judging.asked} & everything
    assert observed == everything
    assert len(judging.asked) == len(everything) + (~np.isnan(judged.references)).sum()  # none has the item


def test_a_judge_that_does_not_leave_the_item_out_is_told_the_others_only() -> None:
    pairs, _ = interactions(0.1)
    judging = Knowing(leaves_out=False)
    judged = judge(judging, TEXTS, pairs, references=3)
    rows = np.flatnonzero(~np.isnan(judged.scores))
    assert len(rows) == len(np.unique(pairs[rows, 0])) == USERS
    for user, item in pairs[rows].tolist():
        assert item not in judging.told[user]
        assert len(judging.told[user]) == (pairs[:, 0] == user).sum() - 1


def test_a_judge_that_counts_its_questions_is_asked_about_a_sample() -> None:
    pairs, _ = interactions(0.1)
    judging = Knowing(costs=True)
    assert audit(judging, TEXTS, *pairs.T).share.size == 500
    assert len(judging.asked) <= 500 * 5
    assert audit(Knowing(), TEXTS, *pairs.T, sample=70).share.size == 70


@pytest.mark.parametrize("sample", [None, 300])
def test_one_interaction_of_each_user_stands_for_all_of_theirs(sample: int | None) -> None:
    """Half of what inactive users have is noise, and nothing of what active ones have, which is most."""
    sizes = np.repeat([6, 45], [600, 60])
    users = np.repeat(np.arange(660), sizes)
    rng = np.random.default_rng(5)
    global TASTE
    kept, TASTE = TASTE, np.arange(660) % 4
    try:
        of_taste = [rng.permutation(np.flatnonzero(taste == TOPIC)) for taste in range(4)]
        items = np.concatenate(
            [
                np.r_[rng.permutation(of_taste[user % 4])[: size - 3], rng.permutation(of_taste[(user + 1) % 4])[:3]]
                if size == 6
                else rng.permutation(of_taste[user % 4])[:size]
                for user, size in enumerate(sizes)
            ]
        )
        noise = (TASTE[users] != TOPIC[items]).mean()
        found = [
            audit(Knowing(leaves_out=False, seed=seed), TEXTS, users, items, sample=sample, seed=seed)
            for seed in range(30)
        ]
    finally:
        TASTE = kept
    number = 660 if sample is None else sample
    assert [(some.share.size, some.judgeable) for some in found] == 30 * [(number, len(users))]
    assert [(some.weights > 0).sum() for some in found] == 30 * [number]
    shares = [some.share.share for some in found]
    # Of the others, three quarters have another taste than that of the item: an unfitting item is so much likelier in
    # the tail than by chance.
    assert np.mean(shares) == pytest.approx(noise / 0.75, abs=4 * np.std(shares) / 30**0.5)
    assert noise == 600 * 3 / 6300 and np.std(shares) < 0.2


def test_an_item_that_nearly_everybody_has_is_judged_beside_as_many_others() -> None:
    rng = np.random.default_rng(0)
    sizes = [10 + (user % 20 == 0) for user in range(USERS)]  # with item 0, all have 11
    pairs = {(user, int(item)) for user in range(USERS) for item in 1 + rng.permutation(ITEMS - 1)[: sizes[user]]}
    pairs |= {(user, 0) for user in range(USERS) if user % 20}  # item 0: all but a twentieth of the users
    table = np.array(sorted(pairs))
    judging = Knowing()
    judged = judge(judging, TEXTS, table)
    number = (~np.isnan(judged.references)).sum(axis=1)
    assert number[table[:, 1] > 0].min() == 20
    # One of 20 draws finds somebody without the item; each of 20 references has 11 of them.
    expected = 20 * (1 - 0.95**11)
    assert number[table[:, 1] == 0].mean() == pytest.approx(expected, abs=0.5)
    beside = {user for _, user, item in judging.asked[len(table) :] if item == 0}
    assert beside == set(range(0, USERS, 20))  # nobody who has the item


def test_without_enough_others_to_compare_with_nothing_is_said() -> None:
    pairs, _ = interactions(0.1)
    others = pairs[pairs[:, 1] > 0]
    everybody = np.stack([np.arange(USERS), np.zeros(USERS, int)], axis=1)
    found = audit(Knowing(), TEXTS, *np.concatenate([others, everybody]).T)
    assert np.isnan(found.p_values[found.items == 0]).all()
    assert found.share.size == len(others)


@given(st.lists(st.integers(2, 30), min_size=5, max_size=12), st.integers(2, 11), st.integers(0, 2**16))
def test_every_interaction_is_as_likely_to_be_drawn_and_together_they_stand_for_all(
    sizes: list[int], sample: int, seed: int
) -> None:
    users = np.repeat(np.arange(len(sizes)), sizes)
    items = np.concatenate([np.arange(size) for size in sizes])
    judged = judge(Knowing(leaves_out=False), TEXTS, np.stack([users, items], axis=1), sample, 3, seed)
    drawn = judged.weights > 0
    assert len(np.unique(users[drawn])) == drawn.sum() == min(sample, len(sizes))
    assert judged.weights.sum() == pytest.approx(len(users))
    # A user who must be drawn stands for their own interactions, all others for as many each.
    own = judged.weights[drawn] == np.array(sizes)[users[drawn]]
    assert len(np.unique(judged.weights[drawn][~own].round(6))) <= 1


def test_references_are_about_as_active() -> None:
    sizes = np.repeat([2, 40], [2000, 2000])
    users = np.repeat(np.arange(4000), sizes)
    items = np.concatenate([np.random.default_rng(user).permutation(ITEMS)[:size] for user, size in enumerate(sizes)])
    judging = Knowing()
    global TASTE
    kept, TASTE = TASTE, np.zeros(4000, int)
    try:
        judge(judging, TEXTS, np.stack([users, items], axis=1), sample=200, references=5)
    finally:
        TASTE = kept
    asked = np.array(judging.asked)[200:, 1]
    observed = np.array(judging.asked)[:200, 1]
    # In the middle the two kinds of users meet, within NEIGHBOURS.
    assert (asked >= 2000).mean() == pytest.approx((observed >= 2000).mean(), abs=0.05)


class Resembling(Knowing):
    """Scores by the best resemblance to what else the user has, so the more a user has, the higher."""

    resemblance = np.random.default_rng(2).random((ITEMS, ITEMS))

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        told = [[other for other in self.told[user] if other != item] for user, item in pairs.tolist()]
        best = [self.resemblance[item, others].max() for (_, item), others in zip(pairs.tolist(), told, strict=True)]
        return torch.tensor(best).float() * 9 + 1


@pytest.mark.parametrize("leaves_out", [True, False])
def test_references_know_as_many_items_as_the_user_without_the_judged_one(leaves_out: bool) -> None:
    # All is chance. A user of 3 items is known by 2; references that were known by 3 would fit better.
    rng = np.random.default_rng(0)
    pairs = np.array([(user, item) for user in range(2000) for item in rng.permutation(ITEMS)[: rng.integers(2, 6)]])
    p = audit(Resembling(leaves_out=leaves_out), TEXTS, *pairs.T).p_values
    size = np.bincount(pairs[:, 0])[pairs[:, 0]]
    for known in range(2 + leaves_out, 6):  # nobody has one item less than the least active
        some = p[(size == known) & ~np.isnan(p)]
        assert some.mean() == pytest.approx(0.5, abs=3 * (1 / 12 / len(some)) ** 0.5), known


def test_the_same_seed_gives_the_same_audit_and_items_without_text_are_left_out() -> None:
    data = SyntheticCatalog(100, 60, num_topics=5, noise_ratio=0.3)
    data.setup("fit")
    users, items = data.train_users.numpy(), data.train_items.numpy()
    texts: list[dict[str, str]] = [{} if number < 10 else text for number, text in enumerate(data.interactions.items)]
    first, second, other = (audit(LexicalScorer(), texts, users, items, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.p_values, second.p_values, equal_nan=True)
    assert not np.array_equal(first.p_values, other.p_values, equal_nan=True)
    assert np.isnan(first.scores[items < 10]).all() and np.isnan(first.chance[items < 10]).all()
    assert any("not judged" in sentence for sentence in first.advice)


def test_what_cannot_be_audited_is_refused() -> None:
    with pytest.raises(ValueError, match="no item texts"):
        audit(Knowing(), [{}] * ITEMS, *interactions(0.1)[0].T)
    with pytest.raises(TypeError, match="scorer is"):
        audit("LexicalScorer", TEXTS, *interactions(0.1)[0].T)  # type: ignore[arg-type]
    alone = np.arange(10)
    with pytest.raises(ValueError, match="at least two items"):
        audit(LexicalScorer(), TEXTS, np.zeros(10, int), alone)
