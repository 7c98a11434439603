"""Calibration: a logistic curve turns what a judge says of pairs into the probability that they were observed."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import expit
from torch import Tensor

from llmhd_pl.items_by_user import ItemsByUser
from llmhd_pl.scale import CALIBRATION_PAIRS, CALIBRATION_USERS

Curve = tuple[float, float]
"""The intercept and the slope, which is not negative, of ``p(observed | value) = expit(intercept + slope * value)``."""


class CalibrationSet(NamedTuple):
    """Pairs of which is known whether they were observed, and what their users' preferences are formed from."""

    histories: dict[int, list[int]]
    """All training items of each user, in the order of the training interactions."""
    pairs: Tensor
    """The pairs (user, item), int64 [n, 2]."""
    observed: Tensor
    """Whether each pair is a training interaction, bool [n]."""


def draw_calibration_set(interactions: Tensor, has_text: Sequence[bool], seed: int) -> CalibrationSet:
    """Draw users who have an item with text, and for each some of these and as many items that they do not have.

    The same interactions and seed give the same set, so that every process, and a run that resumes, asks the same.

    Args:
        interactions: The training interactions (user, item), int64 [n, 2].
        has_text: Whether there is text about each item; only such items are drawn.
        seed: The seed.
    """
    rng = np.random.default_rng([seed, 0xCA11])
    described = np.flatnonzero(has_text)
    users, items = interactions.cpu().unbind(1)
    histories = ItemsByUser(users, items) if len(users) else {}
    eligible = np.unique(users.numpy()[np.isin(items.numpy(), described)])
    drawn: dict[int, list[int]] = {}
    pairs, labels = [], []
    for user in np.sort(rng.choice(eligible, min(CALIBRATION_USERS, len(eligible)), replace=False)).tolist():
        drawn[user] = histories[user]
        for free, observed in ((np.intersect1d, True), (np.setdiff1d, False)):
            candidates = free(described, drawn[user])
            chosen = rng.choice(candidates, min(CALIBRATION_PAIRS, len(candidates)), replace=False).tolist()
            pairs += [(user, item) for item in chosen]
            labels += [observed] * len(chosen)
    return CalibrationSet(drawn, torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2), torch.tensor(labels).bool())


def fit_curve(values: ArrayLike, observed: ArrayLike, judge: str) -> Curve:
    """Fit ``p(observed | value) = expit(intercept + slope * value)`` with slope >= 0.

    Observed and random pairs weigh the same altogether, however many there are of each. There is a warning if the
    values do not tell them apart.

    Args:
        values: What is known of each pair, such as a similarity, [n]; NaN is left out.
        observed: Whether each pair is an observed one rather than a random one, [n].
        judge: What made the values, for the warning: it "does not tell observed from random pairs".

    Raises:
        ValueError: If fewer than two observed or fewer than two random pairs have a value.
    """
    from scipy.optimize import minimize  # takes a tenth of a second to import, and not every run gets here

    value, label = np.asarray(values, dtype=np.float64), np.asarray(observed, dtype=np.float64)
    num_observed = int(label.sum())
    answered = np.isfinite(value)
    value, label = value[answered], label[answered]
    if label.sum() < 2 or label.sum() > len(label) - 2:
        raise ValueError(
            f"Only {int(label.sum())} of {num_observed} training interactions with text can be judged, against "
            f"{int(len(label) - label.sum())} random pairs: too few to fit a calibration on."
        )
    weight = np.where(label == 1, 0.5 / label.sum(), 0.5 / (1 - label).sum())
    center, scale = value.mean(), value.std()
    scale = scale if scale > 1e-12 else 1.0  # all are the same, up to rounding
    standard = (value - center) / scale

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logit = parameters[0] + parameters[1] * standard
        error = weight * (expit(logit) - label)
        # The small penalty keeps the slope finite if the two groups do not overlap.
        entropy = (weight * (np.logaddexp(0, logit) - label * logit)).sum()
        gradient = np.array([error.sum(), (error * standard).sum() + 1e-3 * parameters[1]])
        return entropy + 5e-4 * parameters[1] ** 2, gradient

    fit = minimize(loss, np.array([0.0, 1.0]), jac=True, method="L-BFGS-B", bounds=[(None, None), (0, None)])
    intercept, slope = fit.x
    if slope < 1e-3:
        warnings.warn(f"{judge} does not tell observed from random pairs, so all scores are about 5.5.", stacklevel=3)
    return intercept - slope * center / scale, slope / scale


def scores_on(curve: Curve, values: ArrayLike) -> np.ndarray:
    """Return the scores ``1 + 9 p(observed | value)``: 5.5 says "as likely observed as drawn at random".

    Args:
        curve: The curve.
        values: What is known of each pair, [n].

    Returns:
        float64 [n], 1 to 10; NaN where the value is NaN.
    """
    intercept, slope = curve
    scores: np.ndarray = 1 + 9 * expit(intercept + slope * np.asarray(values, dtype=np.float64))
    return scores
