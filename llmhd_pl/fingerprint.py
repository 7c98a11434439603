"""What the numbers of a checkpoint mean: which users, items and interactions it was trained on."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

Purpose = Literal["resume", "warm start", "evaluate", "predict"]
"""What a checkpoint is used for."""
IDS = ("users", "items")
"""The parts of a fingerprint without which a model's rows belong to others."""
INTERACTIONS = ("train", "noise", "valid", "test")
"""The parts of a fingerprint that the seed, the split and the noise decide."""


def fingerprint(
    users: tuple[int, Sequence[str] | None],
    items: tuple[int, Sequence[str] | None],
    train: Tensor,
    noise: Tensor,
    valid: Tensor,
    test: Tensor,
) -> dict[str, list[Any]]:
    """Return what identifies a data set, in plain Python values for a checkpoint.

    Args:
        users: The number of users, and their identifiers by number; None if the source numbers them.
        items: The same for the items.
        train: The (user, item) pairs of the training split with its noise, int64 [n, 2].
        noise: Which of them were added as noise, bool [n].
        valid: The pairs of the validation split, int64 [m, 2].
        test: The pairs of the test split, int64 [m, 2].

    Returns:
        By the name of each part, its size and a digest of its content.
    """
    found: dict[str, list[Any]] = {}
    for name, (count, names) in zip(IDS, (users, items), strict=True):
        found[name] = [count, _digest("\n".join(names or ()).encode(errors="surrogatepass"))]
    pairs = {"train": train, "noise": train[noise], "valid": valid, "test": test}
    return found | {name: [len(part), digest_of(part)] for name, part in pairs.items()}


def digest_of(*tensors: Tensor) -> str:
    """Return a digest of the values of some tensors.

    Args:
        tensors: The tensors, of any shape.
    """
    return _digest(*(np.ascontiguousarray(tensor.cpu().numpy()).tobytes() for tensor in tensors))


def check_data(
    saved: Mapping[str, Sequence[Any]],
    now: Mapping[str, Sequence[Any]],
    purpose: Purpose,
) -> None:
    """Check that data is what a checkpoint was trained on, as far as its purpose needs it.

    Predictions are made for new interactions of the known users and items, too, so there a warning is enough; a fit
    that starts from the weights of another may have new interactions.

    Args:
        saved: The fingerprint in the checkpoint.
        now: The fingerprint of the data.
        purpose: What the checkpoint is used for.

    Raises:
        ValueError: If it is other data; the message says what differs.
    """
    if found := _differences(saved, now, IDS):
        raise ValueError(
            f"The checkpoint belongs to other data ({found}): its rows would be taken for those of other users or "
            "items. Give the data that it was trained on, or train anew."
        )
    found = _differences(saved, now, INTERACTIONS)
    if not found or purpose == "warm start":
        return
    message = f"The interactions are not those that the checkpoint was trained on ({found}). "
    if purpose == "predict":
        warnings.warn(message + "Users are not recommended what they have in the data of today.", stacklevel=3)
        return
    raise ValueError(
        message + "What it is tested with may be what it was trained on. Give the same files, split, noise and "
        "--seed_everything as in training. To go on with other data on purpose, load the weights alone: "
        "model.load_state_dict(torch.load(path)['state_dict'])."
    )


def _differences(saved: Mapping[str, Sequence[Any]], now: Mapping[str, Sequence[Any]], parts: Sequence[str]) -> str:
    found = []
    for name in parts:
        (before, digest), (after, new_digest) = saved[name], now[name]
        what = name if name in IDS else "added noise" if name == "noise" else f"{name} interactions"
        if before != after:
            found.append(f"{what}: {before:,} in the checkpoint, {after:,} in the data")
        elif digest != new_digest:
            found.append(f"{what}: {after:,} in both, but not the same ones")
    return "; ".join(found)


def _digest(*parts: Any) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.hexdigest()[:32]
