"""False positives to add to the training split (docs/paper.md, section 6; section 5.1 of the paper itself)."""

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from llmhd_pl.datamodules.interactions import Interactions, pair_keys

NoiseSource = Literal["random", "popular", "low_rating"]


def draw_noise(data: Interactions, ratio: float, source: NoiseSource, seed: int) -> Tensor:
    """Draw ``round(ratio * len(train))`` pairs to add to the training split. None of them is in any split.

    Args:
        data: The interactions without added noise.
        ratio: The amount of noise as a share of the clean training split, 0 or more.
        source: "random" draws uniformly from all unobserved pairs. "popular" draws users by their number of training
            interactions and items by theirs, as those who click much click on what is shown to everybody (position and
            clickbait bias). "low_rating" draws from the interactions whose rating expresses a dislike.
        seed: The seed of the run.

    Returns:
        The (user, item) pairs, int64 [n, 2], each pair once.

    Raises:
        ValueError: If the ratio is negative or not finite, the source is unknown, the data has no low ratings to draw
            from, or there are not enough pairs.
    """
    if not 0 <= ratio < float("inf"):
        raise ValueError(f"noise_ratio is {ratio}; it must be a share of the training interactions, 0 or more.")
    if source not in get_args(NoiseSource):
        raise ValueError(f"noise_source is {source!r}; it must be 'random', 'popular' or 'low_rating'.")
    wanted = round(ratio * len(data.train))
    if wanted == 0:
        return torch.empty(0, 2, dtype=torch.int64)
    observed = pair_keys(torch.cat([data.train, data.valid, data.test]), data.num_items).numpy()
    rng = np.random.default_rng([seed, 0x6E01])
    if source == "low_rating":
        if data.low_rated is None:
            raise ValueError(
                f"{data.name}: noise_source is 'low_rating', but this data holds no low ratings. Use data with "
                "ratings (AtomicFiles, TableData or HeteroGraphData with rating_threshold, or a low_mat.pkl beside "
                "trn_mat.pkl), set noise_source to 'random', or set noise_ratio to 0."
            )
        pool = np.setdiff1d(pair_keys(data.low_rated, data.num_items).numpy(), observed)
        available = len(pool)
    elif source == "popular":
        users, items = (data.train[:, column].unique() for column in (0, 1))
        known = np.isin(observed // data.num_items, users.numpy()) & np.isin(observed % data.num_items, items.numpy())
        available = len(users) * len(items) - int(known.sum())
    else:
        available = data.num_users * data.num_items - len(observed)
    if wanted > available:
        raise ValueError(
            f"{data.name}: noise_ratio {ratio} asks for {wanted} pairs from noise_source {source!r}, but only "
            f"{available} are available. Lower noise_ratio."
        )
    if source == "low_rating":
        keys = rng.choice(pool, wanted, replace=False)
    elif source == "popular":
        keys = _by_popularity(data, wanted, observed, rng)
    else:
        # Find the n-th unobserved key as NegativeSampler does: without rejection, a nearly full matrix costs no more.
        observed = np.sort(observed)
        nth_free = rng.choice(available, wanted, replace=False, shuffle=False)
        keys = nth_free + np.searchsorted(observed - np.arange(len(observed)), nth_free, side="right")
    return torch.from_numpy(np.stack([keys // data.num_items, keys % data.num_items], axis=1).astype(np.int64))


def _by_popularity(data: Interactions, wanted: int, observed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw distinct keys of unobserved pairs, the user and the item each those of a random training interaction."""
    users, items = data.train.numpy().T
    keys = np.empty(0, dtype=np.int64)
    at_once = max(2 * wanted, 10_000)
    while len(keys) < wanted:
        drawn = rng.choice(users, at_once) * data.num_items + rng.choice(items, at_once)
        keys = np.concatenate([keys, drawn[~np.isin(drawn, observed)]])
        keys = keys[np.sort(np.unique(keys, return_index=True)[1])]  # in the order in which they were drawn
    return keys[:wanted]
