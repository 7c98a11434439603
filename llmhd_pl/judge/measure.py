"""Asks a judge about a sample of pairs: can it tell noise from interactions, and what would a run cost?"""

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.judge.areas import interval, pooled_auc, within_user_auc
from llmhd_pl.judge.cost import Cost, Phase, ask, run_cost
from llmhd_pl.judge.pairs import GENUINE, GROUPS, PLANTED, Sample, compared, draw_sample, popularity
from llmhd_pl.llm.judgements import Judgements
from llmhd_pl.llm.scorer import Scorer
from llmhd_pl.methods import LLMHD

EXAMPLES = 10
"""The number of preferences to read, and of judged pairs."""


class Asked(NamedTuple):
    """What a judge said about a sample, and what that took."""

    judgements: Judgements
    """The judge with its preferences."""
    scores: np.ndarray
    """The score of each pair, float64 [n]; NaN is no answer."""
    prepare_seconds: float
    """The time of ``Scorer.prepare``."""
    summaries: Phase
    """What the preferences took."""
    judging: Phase
    """What the scores took."""


def judge(scorer: Scorer, data: InteractionDataModule, sample: Sample) -> Asked:
    """Let a judge prepare as in a run, form the preferences of the users of a sample, and judge its pairs.

    Args:
        scorer: The judge. Of the interactions, it is given the noisy training interactions alone.
        data: The data module after ``setup``.
        sample: The pairs.
    """
    judgements = Judgements(scorer, data.interactions.items, data.train_users, data.train_items)
    start = time.perf_counter()
    judgements.prepare()
    prepared = time.perf_counter() - start
    users, items = sample.pairs.T
    scores = torch.full((len(users),), torch.nan)

    def score(rows: list[int]) -> None:
        scores[rows] = judgements.score(0, users[rows], items[rows])

    summaries = ask(scorer, users.unique().tolist(), lambda some: judgements.summarize(0, some))
    judging = ask(scorer, list(range(len(users))), score)
    return Asked(judgements, scores.double().numpy(), prepared, summaries, judging)


@dataclass
class Area:
    """How well the judge tells two groups of pairs apart, and how well popularity does.

    Attributes:
        name: What is compared.
        auc: The AUC of the scores, over the pairs that have one. This and what follows is NaN without such pairs.
        low: The lower end of its 95 % interval.
        high: The upper end.
        popularity: The AUC of the popularity of the items, on the same pairs.
        genuine: The number of genuine pairs among them.
        others: The number of the others.
    """

    name: str
    auc: float
    low: float
    high: float
    popularity: float
    genuine: int
    others: int

    @property
    def verdict(self) -> str:
        """What the figures mean, in words."""
        if np.isnan(self.auc):
            return "nothing to compare"
        if self.low <= 0.5 <= self.high:
            return "this judge cannot tell"
        if self.auc < 0.5:
            return "worse than a coin: this judge prefers the wrong ones"
        if self.auc < self.popularity:
            return "below popularity: counting interactions tells more than this judge"
        return "can tell"


@dataclass
class Read:
    """A preference to read.

    Attributes:
        user: The user.
        preference: The text, or what items it is made of.
        items: The titles of some of the user's training items.
    """

    user: int
    preference: str
    items: list[str]


@dataclass
class Judged:
    """A judged pair to read.

    Attributes:
        user: The user.
        item: The title of the item.
        score: The score, 1 to 10.
        group: Which of the groups the pair belongs to.
    """

    user: int
    item: str
    score: float
    group: str


@dataclass
class Findings:
    """What was found out about a judge on some data.

    Attributes:
        data: Where the interactions come from.
        scorer: The class of the judge.
        pairs: The number of pairs that were asked about.
        seed: The seed of the sample.
        planted_here: Whether the planted pairs were drawn for the measurement, because the data has none.
        run: The settings of the run whose cost is estimated.
        prepare_seconds: What ``Scorer.prepare`` took.
        answered: The share of the pairs with a score.
        areas: The AUCs.
        scores: How many pairs of each group have the score 1 to 10, rounded.
        asking: What asking took, for "summaries" and "scores".
        cost: What a run would ask.
        preferences: Some preferences.
        judged: The training interactions that fit most and least.
    """

    data: str
    scorer: str
    pairs: int
    seed: int
    planted_here: bool
    run: dict[str, Any]
    prepare_seconds: float
    answered: float
    areas: list[Area] = field(default_factory=list)
    scores: dict[str, list[int]] = field(default_factory=dict)
    asking: dict[str, Phase] = field(default_factory=dict)
    cost: list[Cost] = field(default_factory=list)
    preferences: list[Read] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)


def measure(
    data: InteractionDataModule,
    method: LLMHD,
    size: int = 200,
    seed: int = 0,
    epochs: int = 200,
    pointwise: bool = False,
) -> Findings:
    """Measure a judge. No recommender is trained, and ``prepare`` is given the noisy training interactions alone.

    Args:
        data: The data module.
        method: The method with the judge; its settings say what a run would ask.
        size: The number of planted pairs, and the most pairs of the other groups.
        seed: The seed of the sample.
        epochs: The number of epochs of the run whose cost is estimated.
        pointwise: Whether that run's objective is pointwise, so that sampled items are judged too.

    Raises:
        ValueError: If the data has no item texts.
    """
    data.setup("fit")
    if not data.interactions.items:
        raise ValueError(
            f"{data.interactions.name} has no item texts, so there is nothing to judge by. Put an items.jsonl or an "
            ".item file beside the interactions (docs/data.md)."
        )
    sample = draw_sample(data, size, seed)
    asked = judge(method.scorer, data, sample)
    settings = {
        **{"epochs": epochs, "objective": "pointwise" if pointwise else "pairwise", "rule": method.rule},
        **{"scored": method.scored, "drop_rate": method.drop_rate, "confidence_epochs": method.confidence_epochs},
    }
    values = asked.scores
    answered = ~np.isnan(values)
    rounded = np.floor(values + 0.5)
    return Findings(
        data=data.interactions.name,
        scorer=type(method.scorer).__name__,
        pairs=len(values),
        seed=seed,
        planted_here=sample.planted_here,
        run=settings,
        prepare_seconds=asked.prepare_seconds,
        answered=float(answered.mean()) if len(values) else 0.0,
        areas=areas(sample, values, popularity(sample.pairs, data).numpy(), seed),
        scores={
            name: [int((rounded[sample.group == name] == point).sum()) for point in range(1, 11)] for name in GROUPS
        },
        asking={"summaries": asked.summaries, "scores": asked.judging},
        cost=run_cost(data, method, asked.judgements, asked.summaries, asked.judging, epochs, pointwise),
        preferences=_to_read(asked.judgements, sample.pairs[:, 0].unique(), seed),
        judged=_most_and_least(asked.judgements, sample, values),
    )


def areas(sample: Sample, scores: np.ndarray, counts: np.ndarray, seed: int = 0) -> list[Area]:
    """Compare the groups of a sample, over all pairs and within users, by the scores and by popularity.

    Args:
        sample: The pairs.
        scores: The score of each pair, [n]; NaN is no answer.
        counts: The popularity of the item of each pair, [n].
        seed: The seed of the intervals.
    """
    found = []
    for name, (rows, genuine) in compared(sample, scores).items():
        users, ours, theirs = sample.pairs[rows, 0].numpy(), scores[rows], counts[rows]
        sizes = int(genuine.sum()), int((~genuine).sum())
        ends = interval(users, ours, genuine, seed=seed)
        found.append(Area(name, pooled_auc(ours, genuine), *ends, pooled_auc(theirs, genuine), *sizes))
        ends = interval(users, ours, genuine, within=True, seed=seed)
        within = (within_user_auc(users, some, genuine) for some in (ours, theirs))
        found.append(Area(f"{name}, within users", next(within), *ends, next(within), *sizes))
    return found


def _to_read(judgements: Judgements, users: torch.Tensor, seed: int) -> list[Read]:
    """Some preferences, with some of the items of their users."""
    known = [user for user in users.tolist() if user in judgements.preferences.current]
    chosen = np.random.default_rng([seed, 0x4EAD]).permutation(known)[:EXAMPLES].tolist()
    some = []
    for user in chosen:
        preference = judgements.preferences.current[user]
        if not isinstance(preference, str):
            titles = "; ".join(judgements.titles[item] for item in preference[:3])
            preference = f"the mean of {len(preference)} items: {titles}, ..."
        some.append(Read(user, preference, [judgements.titles[item] for item in judgements.histories[user][:5]]))
    return some


def _most_and_least(judgements: Judgements, sample: Sample, scores: np.ndarray) -> list[Judged]:
    """The training interactions with the highest and the lowest scores, best first."""
    rows = np.flatnonzero(np.isin(sample.group, (GENUINE, PLANTED)) & ~np.isnan(scores))
    rows = rows[(-scores[rows]).argsort(kind="stable")]
    rows = rows if len(rows) <= EXAMPLES else np.concatenate([rows[: EXAMPLES // 2], rows[-EXAMPLES // 2 :]])
    pairs = sample.pairs[rows].tolist()
    return [
        Judged(user, judgements.titles[item], float(scores[row]), str(sample.group[row]))
        for row, (user, item) in zip(rows, pairs, strict=True)
    ]
