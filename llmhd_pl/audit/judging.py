"""What a judge says about interactions, and about other users in the place of their users."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmhd_pl.items_by_user import ItemsByUser
from llmhd_pl.llm.prompts import NO_TEXT, item_profile
from llmhd_pl.llm.scorer import Scorer, check_scores
from llmhd_pl.scale import AUDIT_INTERACTIONS, AUDIT_REFERENCES

FOLDS = 5
"""The parts that the users are divided into. What learns from interactions learns from those of the other parts."""
NEIGHBOURS = 100
"""The references of a user are drawn from so many users that are just less active, and as many that are just more."""
ASKED_ALL = 20
"""The references of an interaction, if the judge costs nothing."""

_REDRAWN = 10
"""How often a reference is drawn again that has the item. A user of an item that nearly everybody has needs it."""
AT_ONCE = 4_000_000
"""The references that are scored at once, which takes about a gigabyte."""

Floats = NDArray[np.float32]


@dataclass
class Judged:
    """What a judge says.

    Attributes:
        scores: The score of each interaction, 1 to 10, float32 [n]; NaN is no answer.
        references: The scores of the same item for other users, who do not have it, float32 [n, references]; NaN is no
            answer.
        weights: How many of the interactions that the judge could be asked about each one stands for, float64 [n]; 0
            for those that it was not asked about.
    """

    scores: Floats
    references: Floats
    weights: NDArray[np.float64]


def judge(
    scorer: Scorer,
    items: Sequence[Mapping[str, str]],
    interactions: np.ndarray,
    sample: int | None = None,
    references: int | None = None,
    seed: int = 0,
) -> Judged:
    """Ask a judge about interactions, and about other users in the place of their users.

    The judge knows the other users by about as many items, because longer histories resemble more. If the judge learns
    from interactions (``Scorer.learns``), the users are divided into ``FOLDS``, and each fold is judged after the
    others were learned from, its references among itself: a model would recognise what it has seen. If it does not
    leave the judged item out of a preference (``Scorer.leaves_out``), one interaction of each user is judged, by a
    preference formed from the others; it stands for all of this user's. Afterwards the judge is prepared with the last
    fold's interactions.

    Args:
        scorer: The judge.
        items: The text fields of every item.
        interactions: The interactions (user, item), int64 [n, 2].
        sample: The number of interactions to ask about, drawn at random. None is all of them, or
            ``AUDIT_INTERACTIONS`` if the judge counts its questions.
        references: The number of other users for each. None is ``ASKED_ALL``, or ``AUDIT_REFERENCES`` if the judge
            counts its questions.
        seed: The seed of all draws.
    """
    costs = scorer.usage is not None
    sample = AUDIT_INTERACTIONS if sample is None and costs else sample
    references = references or (AUDIT_REFERENCES if costs else ASKED_ALL)
    rng = np.random.default_rng([seed, 0xA0D1])
    users, numbers = interactions.T
    described = np.array([item_profile(fields) != NO_TEXT for fields in items], dtype=bool)
    rows = rng.permutation(np.flatnonzero(described[numbers]))  # without text there is nothing to ask
    if not scorer.leaves_out:
        rows = rows[np.bincount(users)[users[rows]] > 1]
    weights = np.zeros(len(users))
    if scorer.leaves_out:
        weights[rows[:sample]] = len(rows) / max(1, len(rows[:sample]))
    else:
        drawn, stands_for = _one_of_each_user(rows, users, sample, rng)
        weights[drawn] = stands_for
    rows = np.flatnonzero(weights)
    asking = _Asking(scorer, items, interactions, rows, rng)
    again = np.random.default_rng([seed, 0xA0D2])
    scores, beside = np.full(len(users), np.nan, np.float32), np.full((len(users), references), np.nan, np.float32)
    found = Judged(scores, beside, weights)
    for members in asking.folds():
        chosen = rows[members[users[rows]]]
        found.scores[chosen] = asking.scores(users[chosen], numbers[chosen])
        chosen = chosen[~np.isnan(found.scores[chosen])]
        for some in np.array_split(chosen, 1 + len(chosen) * references // AT_ONCE):
            others, asked = asking.draw(users[some], references, rng), numbers[some][:, None].repeat(references, 1)
            free = ~asking.has(others, asked)
            for _ in range(_REDRAWN):  # those who have the item are no reference
                if free.all():
                    break
                rows_left, places = np.nonzero(~free)
                others[rows_left, places] = asking.draw(users[some][rows_left], 1, again)[:, 0]
                free[rows_left, places] = ~asking.has(others[rows_left, places], asked[rows_left, places])
            answers = np.full(free.shape, np.nan, np.float32)
            answers[free] = asking.scores(others[free], asked[free])
            found.references[some] = answers
    return found


class _Asking:
    """A judge, the interactions, and which of them it is asked about."""

    def __init__(
        self,
        scorer: Scorer,
        items: Sequence[Mapping[str, str]],
        interactions: np.ndarray,
        rows: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        self._scorer, self._items, self._rng = scorer, items, rng
        self._interactions, self._users = interactions, interactions[:, 0]
        self._keys = self._key(*interactions.T)
        if scorer.leaves_out:
            known = interactions
            self._candidates = np.unique(self._users)
        else:  # a preference is formed from all but the judged interaction, and who has no preference is no reference
            known = np.delete(interactions, rows, axis=0)
            known = known[np.isin(known[:, 0], self._users[rows])]
            self._candidates = np.unique(self._users[rows])
        self._histories = ItemsByUser(*torch.from_numpy(known).unbind(1)) if len(known) else {}
        self._activity = np.bincount(self._users)
        self._preferences: dict[int, Any] = {}
        self._members = self._candidates

    def _key(self, users: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        keys: np.ndarray = users * len(self._items) + numbers
        return keys

    def folds(self) -> Iterator[np.ndarray]:
        """Prepare the judge for each fold, and yield whether each user is in it, bool [users]."""
        size = len(self._activity)
        fold = self._rng.permutation(size) % FOLDS if self._scorer.learns else np.zeros(size, np.int64)
        for number in range(int(fold.max()) + 1):
            members = fold == number
            learned = self._interactions[~members[self._users]] if self._scorer.learns else self._interactions
            self._scorer.prepare(self._items, torch.from_numpy(learned))
            among = self._candidates[members[self._candidates]]
            self._preferences = self._scorer.summarize({user: self._histories[user] for user in among.tolist()})
            # The least active first; users of the same activity are in a random order.
            self._members = among[np.lexsort((self._rng.random(len(among)), self._activity[among]))]
            yield members

    def has(self, users: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return whether each user has the item, bool [n]."""
        return np.isin(self._key(users, numbers), self._keys)

    def scores(self, users: np.ndarray, numbers: np.ndarray) -> Floats:
        """Return the scores of some pairs, float32 [n]."""
        if not len(users):
            return np.empty(0, np.float32)
        pairs = torch.from_numpy(np.stack([users, numbers], axis=1))
        return check_scores(self._scorer, self._scorer.score(self._preferences, pairs), pairs).numpy()

    def draw(self, users: np.ndarray, references: int, rng: np.random.Generator) -> np.ndarray:
        """Draw so many users of the fold for each user, known to the judge by as many items, [n, references]."""
        width = min(2 * NEIGHBOURS + 1, len(self._members))
        sizes = self._activity[self._members]
        # One that leaves the item out knows a user by one item fewer than it knows a reference of the same activity.
        size = _nearest(self._activity[users] - self._scorer.leaves_out, np.unique(sizes))
        low, high = (np.searchsorted(sizes, size, side) for side in ("left", "right"))
        first = (rng.integers(low, high) - NEIGHBOURS).clip(0, len(self._members) - width)
        return np.asarray(self._members[first[:, None] + rng.integers(width, size=(len(users), references))])


def _one_of_each_user(
    rows: np.ndarray, users: np.ndarray, sample: int | None, rng: np.random.Generator
) -> tuple[np.ndarray, NDArray[np.float64]]:
    """Draw one interaction of each user, or of so many users: the more interactions a user has, the likelier.

    Users are drawn systematically (Madow, "On the theory of systematic sampling, II", 1949), so that all interactions
    but those of the most active users are equally likely.

    Args:
        rows: The interactions that can be drawn, in a random order.
        users: The user of each interaction.
        sample: The number of users; None is all.
        rng: Draws.

    Returns:
        The interactions, and how many each stands for.
    """
    who, first, number = np.unique(users[rows], return_index=True, return_counts=True)
    likely = np.ones(len(who))
    certain = np.full(len(who), sample is None or sample >= len(who))
    while sample is not None and not certain.all():
        likely[~certain] = number[~certain] * (sample - certain.sum()) / number[~certain].sum()
        if not (likely[~certain] > 1).any():
            break
        certain |= likely > 1
        likely[certain] = 1
    order = rng.permutation(len(who))
    ends = likely[order].cumsum() + rng.random()
    chosen = order[np.floor(ends) > np.floor(ends - likely[order])]
    return rows[first[chosen]], number[chosen] / likely[chosen]


def _nearest(wanted: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return the nearest of the values that are there, which rise; of two that are as near, the larger."""
    above = np.searchsorted(there, wanted).clip(max=len(there) - 1)
    below = there[(above - 1).clip(0)]
    nearest: np.ndarray = np.where(wanted - below < there[above] - wanted, below, there[above])
    return nearest
