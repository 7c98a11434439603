"""An audit of interactions: how many came about by chance, and which."""

from collections.abc import Mapping, Sequence

import numpy as np

from llmhd_pl.audit.advice import advice
from llmhd_pl.audit.chance import chance, cut_at, intervals, p_values, preferred, share_of_chance, slope, tail
from llmhd_pl.audit.findings import Audit, Cut, Share
from llmhd_pl.audit.judging import judge
from llmhd_pl.llm.scorer import Scorer, check_scorer

SURE = 0.815
"""How often a judge that can tell prefers the user of an interaction: with 20 references, the mean p-value is .2."""
FEWEST_REFERENCES = 3
"""The fewest references: the steps of p-values with fewer are too coarse to see whether their density falls."""
FLAT = 0.03
"""How much the density of the p-values may still fall before the tail, for a judge that can tell."""
RIGHT = (0.01, 0.05, 0.1, 0.2, 0.5)
"""The shares of what is dropped that are expected to fit their users after all, for the cuts that are shown."""
BOUNDS = (1, 3, 6, 11, 21, 51, 101, 501)
"""The lowest numbers of interactions of the groups by popularity and activity."""
FEWEST = 50
"""The fewest interactions of a group that is shown."""


def audit(
    scorer: Scorer,
    items: Sequence[Mapping[str, str]],
    users: np.ndarray,
    numbers: np.ndarray,
    name: str = "",
    sample: int | None = None,
    references: int | None = None,
    seed: int = 0,
) -> Audit:
    """Estimate which share of interactions came about by chance, and how probable that is for each of them.

    No recommender is trained. Each interaction is judged beside other users with the same item. What a judge learns
    from interactions, it learns from other users than those that it is asked about (``judging``); ``chance`` says how
    scores become a share.

    Args:
        scorer: The judge. Afterwards it is prepared with some of the interactions only, if it learns from them.
        items: The text fields of every item.
        users: The user of each interaction, int64 [n].
        numbers: The number of the item of each interaction, int64 [n].
        name: Where the interactions come from.
        sample: The number of interactions to ask about, drawn at random. None is all, or 500 if the judge counts its
            questions.
        references: The number of other users that each is compared with. None is 20, or 4 if the judge counts its
            questions.
        seed: The seed of all draws.

    Raises:
        TypeError: If the scorer is not a scorer's object.
        ValueError: If there is no text about any item, or too few interactions or references.
    """
    check_scorer(scorer)
    if not any(items):
        raise ValueError(
            f"{name or 'The data'} has no item texts, so there is nothing to judge by. Put an items.jsonl or an .item "
            "file beside the interactions (docs/data.md)."
        )
    if references is not None and references < FEWEST_REFERENCES:
        raise ValueError(f"references is {references}; it must be at least {FEWEST_REFERENCES}.")
    users, numbers = np.asarray(users, np.int64), np.asarray(numbers, np.int64)
    judged = judge(scorer, items, np.stack([users, numbers], axis=1), sample, references, seed)
    p = p_values(judged.scores, judged.references, seed)
    p[(~np.isnan(judged.references)).sum(axis=1) < FEWEST_REFERENCES] = np.nan
    there = ~np.isnan(p)
    if not there.any():
        raise ValueError(
            f"{type(scorer).__name__} has no score for any of {len(users):,} interactions that can be compared with "
            f"those of at least {FEWEST_REFERENCES} other users. Users need at least two items with text, and items "
            "other users without them."
        )
    known, weights, width = p[there], judged.weights[there], tail(judged.references.shape[1])
    masks, names = _groups(users, numbers, there)
    ends = intervals(users[there], known, masks, width, seed, weights)
    shares = [
        Share(group, int(mask.sum()), share_of_chance(known[mask], width, weights[mask]), float(low), float(high))
        for group, mask, (low, high) in zip(names, masks.T, ends, strict=True)
    ]
    auc = preferred(judged.scores[there], judged.references[there], weights)
    falls, error = slope(known, width, weights)
    can_tell = auc >= SURE and falls <= FLAT + 2 * error
    if not can_tell:  # genuine interactions may make up all of it
        shares = [Share(some.name, some.size, some.share, 0.0, some.high) for some in shares]
    probability = np.full(len(users), np.nan)
    probability[there] = chance(known, shares[0].share, weights)
    cuts = [Cut(*cut_at(known, probability[there], right, weights)) for right in RIGHT]
    found = Audit(
        data=name,
        scorer=type(scorer).__name__,
        users=users,
        items=numbers,
        scores=judged.scores,
        p_values=p,
        chance=probability,
        share=shares[0],
        auc=auc,
        can_tell=can_tell,
        judgeable=round(weights.sum()),
        weights=judged.weights,
        groups=shares[1:],
        cuts=[cut for number, cut in enumerate(cuts) if cut.dropped and cut not in cuts[:number]],
    )
    found.advice = advice(found)
    return found


def suspicious(found: Audit, right: float) -> np.ndarray:
    """Return which interactions to drop so that at most a given share of them is expected to fit, bool [n].

    Args:
        found: The audit.
        right: The largest share of the dropped interactions that may be expected to fit their user after all. Each
            counts as often as it stands for others (``Audit.weights``).
    """
    there = ~np.isnan(found.p_values)
    bound, number, _ = cut_at(found.p_values[there], found.chance[there], right, found.weights[there])
    return there & (found.p_values > bound) if number else np.zeros(len(there), dtype=bool)


def _groups(users: np.ndarray, numbers: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """All judged interactions, then groups of them by popularity and by activity: who is in them, and their names."""
    masks, names = [np.ones(int(there.sum()), dtype=bool)], ["all"]
    for what, values in (("items", numbers), ("users", users)):
        count = np.bincount(values)[values][there]
        for low, after in zip(BOUNDS, (*BOUNDS[1:], np.inf), strict=True):
            mask = (count >= low) & (count < after)
            if mask.sum() >= FEWEST:
                masks.append(mask)
                names.append(f"{what} with {_range(low, after)} interactions")
    return np.stack(masks, axis=1), names


def _range(low: int, after: float) -> str:
    return f"{low} or more" if np.isinf(after) else f"{low} to {int(after) - 1}"
