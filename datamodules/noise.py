"""Synthetic false positives for the training split (PAPER.md, set-up; the paper's section 5.1)."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from llmhd_pl.datamodules.interactions import Interactions, pair_keys

NoiseSource = Literal["random", "low_rating"]


def draw_noise(data: Interactions, ratio: float, source: NoiseSource, seed: int) -> Tensor:
    """Pairs to add to train as noise: ``round(ratio * len(train))`` of them, none in train, valid or test.

    Args:
        data: the clean data.
        ratio: size of the noise relative to the clean training split, 0 or more.
        source: "random": uniform over all unobserved pairs; "low_rating": interactions whose rating says dislike.
        seed: seed of the run.

    Returns:
        int64 [n, 2], no pair twice.

    Raises:
        ValueError: a negative ratio, an unknown source, no ratings, or not enough pairs.
    """
    if not 0 <= ratio < float("inf"):
        raise ValueError(f"noise_ratio is {ratio}; it is a share of the training interactions: a number, 0 or more.")
    if source not in ("random", "low_rating"):
        raise ValueError(f"noise_source is {source!r}; it must be 'random' or 'low_rating'.")
    wanted = round(ratio * len(data.train))
    if wanted == 0:
        return torch.empty(0, 2, dtype=torch.int64)
    observed = pair_keys(torch.cat([data.train, data.valid, data.test]), data.num_items).numpy()
    rng = np.random.default_rng([seed, 0x6E01])
    if source == "low_rating":
        if data.low_rated is None:
            raise ValueError(
                f"{data.name}: noise_source is 'low_rating', but this data holds no low ratings. Give data with "
                "ratings (AtomicFiles with rating_threshold, or low_mat.pkl beside trn_mat.pkl), use "
                "'random', or add none with noise_ratio 0."
            )
        pool = np.setdiff1d(pair_keys(data.low_rated, data.num_items).numpy(), observed)
        available = len(pool)
    else:
        available = data.num_users * data.num_items - len(observed)
    if wanted > available:
        raise ValueError(
            f"{data.name}: noise_ratio {ratio} asks for {wanted} pairs from noise_source {source!r}, but there are "
            f"{available}. Lower noise_ratio."
        )
    if source == "low_rating":
        keys = rng.choice(pool, wanted, replace=False)
    else:
        # The n-th unobserved key, found as in NegativeSampler: no rejection, so a nearly full matrix costs no more.
        observed = np.sort(observed)
        nth_free = rng.choice(available, wanted, replace=False, shuffle=False)
        keys = nth_free + np.searchsorted(observed - np.arange(len(observed)), nth_free, side="right")
    return torch.from_numpy(np.stack([keys // data.num_items, keys % data.num_items], axis=1).astype(np.int64))
