"""The pairs of users and items that a judge is measured on."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.datamodules.interactions import pair_keys
from llmhd_pl.datamodules.noise import draw_noise

GENUINE, PLANTED, HELD_OUT, UNKNOWN = GROUPS = ("genuine", "planted", "held-out", "unknown")
COMPARED = {"train": (GENUINE, PLANTED), "held-out": (HELD_OUT, UNKNOWN)}
"""Which groups are compared: the pairs that should have high scores, and the others."""
TOLERANCE = 0.1
"""How far the popularity of a matched item may be from that of the held-out one, as a share of the latter."""


class Sample(NamedTuple):
    """Pairs of four groups."""

    pairs: Tensor
    """The pairs (user, item), int64 [n, 2]."""
    group: np.ndarray
    """The group of each pair, one of ``GROUPS``, [n]."""
    planted_here: bool
    """Whether the planted pairs were drawn for the measurement, because the data has none: nobody trains on them."""


def training_pairs(data: InteractionDataModule) -> Tensor:
    """Return the noisy training interactions of a data module after ``setup``, int64 [n, 2]."""
    return torch.stack([data.train_users, data.train_items], dim=1)


def popularity(pairs: Tensor, data: InteractionDataModule) -> Tensor:
    """Count the other noisy training interactions of the item of each pair, leaving the pair itself out.

    Args:
        pairs: The pairs (user, item), int64 [n, 2].
        data: A data module after ``setup``.

    Returns:
        int64 [n].
    """
    count = torch.bincount(data.train_items, minlength=data.num_items)[pairs[:, 1]]
    itself = torch.isin(*(pair_keys(some, data.num_items) for some in (pairs, training_pairs(data))))
    return count - itself.long()


def popularity_matched(pairs: Tensor, data: InteractionDataModule, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw for each held-out pair an unknown item of the same popularity for the same user.

    Of the items that the user has no interaction with, in no split, it is the one whose number of noisy training
    interactions is nearest to that of the held-out item; among equally near ones, a random one. No item is drawn twice
    for a user. Where the nearest is farther than ``TOLERANCE``, the pair has no match, so that popularity alone tells
    the two groups apart no better than a coin.

    Args:
        pairs: Held-out pairs (user, item), int64 [n, 2].
        data: A data module after ``setup``.
        seed: The seed of the draws.

    Returns:
        Whether each pair has a match, bool [n], and the matches (user, item) of those that have one, int64 [m, 2].
    """
    inter = data.interactions
    known = torch.cat([training_pairs(data), inter.train, inter.valid, inter.test]).numpy()
    known = known[known[:, 0].argsort(kind="stable")]
    first = np.searchsorted(known[:, 0], np.arange(data.num_users + 1))
    count = torch.bincount(data.train_items, minlength=data.num_items).double().numpy()
    rng = np.random.default_rng([seed, 0x3A7C])
    match = np.full(len(pairs), -1)
    users, items = pairs.numpy().T
    previous, free = -1, count
    for row in users.argsort(kind="stable"):
        user = users[row]
        if user != previous:
            previous, free = user, count.copy()
            free[known[first[user] : first[user + 1], 1]] = np.inf
        distance = np.abs(free - count[items[row]])
        nearest = distance.min()
        if nearest <= TOLERANCE * count[items[row]]:
            match[row] = rng.choice(np.flatnonzero(distance == nearest))
            free[match[row]] = np.inf
    matched = match >= 0
    return torch.from_numpy(matched), torch.from_numpy(np.stack([users[matched], match[matched]], axis=1))


def draw_sample(data: InteractionDataModule, size: int, seed: int = 0, held_out: Tensor | None = None) -> Sample:
    """Draw the pairs of the four groups, all of the same users, so that each is summarised once.

    The users are those of the planted pairs. A user has as many genuine pairs as planted ones, if there are enough of
    them. If the data has no planted noise, random pairs without an interaction are drawn in its place.

    Args:
        data: A data module after ``setup``.
        size: The number of planted pairs, and the most pairs of the other groups.
        seed: The seed of the draws.
        held_out: The interactions to draw the held-out pairs from, int64 [n, 2]; None takes those of validation.
    """
    rng = np.random.default_rng([seed, 0x1D6E])
    train, noise = training_pairs(data), data.noise_mask.numpy()
    users = train[:, 0].numpy()
    genuine = rng.permutation(np.flatnonzero(~noise))
    history = np.bincount(users[genuine], minlength=data.num_users)
    planted_here = not noise.any()
    if planted_here:
        inter = data.interactions
        free = data.num_users * data.num_items - sum(map(len, (inter.train, inter.valid, inter.test)))
        planted = draw_noise(inter, min(size, free // 2) / len(inter.train), "random", seed)
        planted = planted[torch.from_numpy(history[planted[:, 0].numpy()] > 0)]
    else:
        rows = np.flatnonzero(noise & (history[users] > 0))
        planted = train[np.sort(rng.choice(rows, min(size, len(rows)), replace=False))]
    wanted = np.bincount(planted[:, 0].numpy(), minlength=data.num_users)
    genuine = genuine[users[genuine].argsort(kind="stable")]
    nth = np.arange(len(genuine)) - (history.cumsum() - history)[users[genuine]]
    chosen = train[np.sort(genuine[nth < wanted[users[genuine]]])]
    held_out = data.interactions.valid if held_out is None else held_out
    held_out = held_out[torch.from_numpy(wanted > 0)[held_out[:, 0]]]
    held_out = held_out[np.sort(rng.permutation(len(held_out))[:size])]
    matched, unknown = popularity_matched(held_out, data, seed)
    groups = (chosen, planted, held_out[matched], unknown)
    return Sample(torch.cat(groups), np.repeat(GROUPS, [len(group) for group in groups]), planted_here)


def compared(sample: Sample, scores: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the pairs with a score that are compared with each other, for "train" and for "held-out".

    A held-out pair and its match are left out together, so that those that are left are still matched.

    Args:
        sample: The pairs; the n-th unknown pair is the match of the n-th held-out one.
        scores: The score of each pair, [n]; NaN is no answer.

    Returns:
        The rows of the pairs, int64 [m], and whether each is genuine, bool [m].
    """
    held_out, unknown = (np.flatnonzero(sample.group == group) for group in COMPARED["held-out"])
    answered = ~np.isnan(scores)
    answered[held_out] = answered[unknown] = answered[held_out] & answered[unknown]
    found = {}
    for name, groups in COMPARED.items():
        rows = np.flatnonzero(np.isin(sample.group, groups) & answered)
        found[name] = rows, sample.group[rows] == groups[0]
    return found
