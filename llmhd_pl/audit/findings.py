"""What an audit has found out about some interactions: plain arrays and numbers, ready to be shown or written."""

from dataclasses import dataclass, field

import numpy as np

UNRELIABLE = " (not to be relied on: this judge cannot tell)"
"""What the titles of tables end in whose figures mean little, because the judge cannot tell."""


@dataclass
class Share:
    """The share of the interactions of a group that came about by chance.

    Attributes:
        name: The group, such as "items with 1 to 5 interactions".
        size: The number of its interactions that were judged.
        share: The estimated share, 0 to 1; NaN if nothing was judged.
        low: The lower end of its 95 % interval.
        high: The upper end.
    """

    name: str
    size: int
    share: float
    low: float
    high: float


@dataclass
class Cut:
    """What to expect when all interactions with a p-value above a bound are dropped.

    Attributes:
        above: The bound.
        dropped: How many interactions that drops.
        right: The share of these, or of what they stand for (``Audit.weights``), that is expected to fit their user
            better than chance would, and so is dropped by mistake, 0 to 1. Right visits that are untypical of their
            user look like chance, and come on top.
    """

    above: float
    dropped: int
    right: float


@dataclass
class Audit:
    """What was found out. Row k of the arrays is training interaction k of the data module.

    Attributes:
        data: Where the interactions come from.
        scorer: The class of the judge.
        users: The user of each interaction, int64 [n].
        items: The item of each interaction, int64 [n].
        scores: What the judge says of each, 1 to 10, float32 [n]; NaN is no answer, as for an item without text.
        p_values: The share of other users whom the item fits at least as well, 0 to 1, float64 [n]; near 1 is
            suspicious. NaN without a score.
        chance: The probability that the interaction came about by chance, 0 to 1, float64 [n]; NaN without a score.
        share: The share of the judged interactions that came about by chance.
        auc: The probability that the judge prefers the user of an interaction to another user drawn at random.
        can_tell: Whether the judge tells them apart well enough for the share to mean something.
        judgeable: The number of interactions that the share speaks of: those that were judged, or, if the judge was
            asked about a sample, an estimate of how many would have been.
        weights: How many interactions each judged one stands for, float64 [n]: one, or more if the judge was asked
            about a sample; 0 for those that were not asked about.
        groups: The share by popularity of the items and by activity of the users.
        cuts: What to expect of several bounds, from the fewest dropped interactions to the most.
        advice: What all of this means, in sentences, the most important one first.
    """

    data: str
    scorer: str
    users: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    p_values: np.ndarray
    chance: np.ndarray
    share: Share
    auc: float
    can_tell: bool
    judgeable: int
    weights: np.ndarray
    groups: list[Share] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
