"""Find the training interactions in a trainer's data module: one protocol and one error."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

Ids = Sequence[int] | np.ndarray | Tensor
"""Numbers of users, items or labels, one for each training sample."""


@runtime_checkable
class TrainingData(Protocol):
    """A data module that knows its training interactions, as those of this package do after ``setup``.

    Row s of the two tensors is sample s.
    """

    train_users: Tensor
    """The user of each training sample, int64 [n]."""
    train_items: Tensor
    """The observed item of each training sample, int64 [n]."""


def training_interactions(trainer: Any, owner: object, remedy: str) -> tuple[Tensor, Tensor]:
    """Return the users and the items of the training interactions.

    Args:
        trainer: A Lightning ``Trainer``.
        owner: Who needs them; the error names its class.
        remedy: What to do if the data module does not have them; the last sentence of the error.

    Returns:
        Users and items, each int64 [n]. Row ``s`` is sample ``s``.

    Raises:
        RuntimeError: If the trainer has no data module with ``train_users`` and ``train_items``.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, TrainingData):
        raise RuntimeError(
            f"{type(owner).__name__} needs the training interactions, but the trainer's data module has no train_users "
            f"and train_items. {remedy}"
        )
    return data.train_users, data.train_items


def training_samples(
    trainer: Any, owner: object, given: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return what is known about the training samples: what was given, and the rest from the trainer's data module.

    Args:
        trainer: A Lightning ``Trainer``.
        owner: Who needs it; the error names its class.
        given: ``users`` and ``items``, or neither, and ``labels`` and ``noise`` where they were given.

    Returns:
        Users and items, int64 [n]; labels, 0 or 1, int64 [n], or None; which are noise, bool [n], or None.

    Raises:
        RuntimeError: If users and items are not known.
        ValueError: If there are more or fewer labels or noise than interactions.
    """
    data = getattr(trainer, "datamodule", None)
    if "users" in given:
        users, items = given["users"], given["items"]
    else:
        remedy = "Use a data module of llmhd_pl, or SampleRecorder(users=..., items=...), one entry per sample."
        users, items = training_interactions(trainer, owner, remedy)
    labels, noise = given.get("labels"), given.get("noise")
    if "users" not in given:
        labels = getattr(data, "train_labels", None) if labels is None else labels
        noise = getattr(data, "noise_mask", None) if noise is None else noise
    for name, values in (("labels", labels), ("noise", noise)):
        if values is not None and len(values) != len(users):
            raise ValueError(f"There are {len(values):,} {name} for {len(users):,} training interactions.")
    return users, items, labels, noise


def known_noise(trainer: Any, owner: object, given: Tensor | None = None) -> Tensor:
    """Return which training interactions are noise, for data that knows it.

    Args:
        trainer: A Lightning ``Trainer``.
        owner: The object that needs them; the error names its class.
        given: What the caller was told, bool [n], if it was.

    Returns:
        True for noise, bool [n].

    Raises:
        RuntimeError: If the trainer has no data module with ``noise_mask``.
    """
    mask: Tensor | None = given
    if mask is None:
        mask = getattr(getattr(trainer, "datamodule", None), "noise_mask", None)
    if mask is None:
        raise RuntimeError(
            f"{type(owner).__name__} needs the truth: a data module with noise_mask, as those of llmhd_pl have, or "
            "noise=..., one entry per training sample."
        )
    return mask
