"""Find the training interactions in a trainer's data module, or take what a caller says, and check their columns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
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
        TypeError: If they are not whole numbers from 0.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, TrainingData):
        raise RuntimeError(
            f"{type(owner).__name__} needs the training interactions, but the trainer's data module has no train_users "
            f"and train_items. {remedy}"
        )
    return whole_numbers("train_users", data.train_users), whole_numbers("train_items", data.train_items)


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
        TypeError: If users and items are not whole numbers, or labels and noise not 0 and 1.
    """
    data = getattr(trainer, "datamodule", None)
    if "users" in given:
        users, items = given["users"], given["items"]
    else:
        remedy = (
            "Use a data module of llmhd_pl, or give users=... and items=... of SampleRecorder or of the method, one "
            "entry per sample."
        )
        users, items = training_interactions(trainer, owner, remedy)
    labels, noise = given.get("labels"), given.get("noise")
    if "users" not in given:
        if labels is None and (found := getattr(data, "train_labels", None)) is not None:
            labels = zeros_and_ones("train_labels", found)
        if noise is None and (found := getattr(data, "noise_mask", None)) is not None:
            noise = zeros_and_ones("noise_mask", found).bool()
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
        TypeError: If it is not 0 and 1.
    """
    if given is not None:
        return given
    mask = getattr(getattr(trainer, "datamodule", None), "noise_mask", None)
    if mask is None:
        raise RuntimeError(
            f"{type(owner).__name__} needs the truth: a data module with noise_mask, as those of llmhd_pl have, or "
            "noise=..., one entry per training sample."
        )
    return zeros_and_ones("noise_mask", mask).bool()


def whole_numbers(name: str, values: Any) -> Tensor:
    """Return the users or the items of the training samples as int64 [n].

    Args:
        name: "users" or "items"; the error names it.
        values: A tensor, an array, a column of a data frame, or a list.

    Raises:
        TypeError: If they are not whole numbers from 0.
    """
    return _checked(
        name,
        values,
        lambda array: array >= 0 if array.dtype.kind in "iu" else np.zeros(len(array), dtype=bool),
        "whole numbers from 0",
        f"pandas.factorize({name})[0] numbers identifiers of any kind.",
    )


def zeros_and_ones(name: str, values: Any) -> Tensor:
    """Return the labels or the noise of the training samples as int64 [n].

    Args:
        name: "labels" or "noise"; the error names it.
        values: 0 and 1, or False and True: a tensor, an array, a column of a data frame, or a list.

    Raises:
        TypeError: If there is anything else among them.
    """
    return _checked(
        name,
        values,
        lambda array: np.isin(array, (0, 1)),
        "0 or 1",
        f"Ratings become labels by a threshold: {name}=ratings >= 4.",
    )


def _checked(name: str, values: Any, right: Callable[[np.ndarray], np.ndarray], what: str, remedy: str) -> Tensor:
    """Return a column as int64 [n] if all of its values are right."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    wrong = ~right(array)
    if wrong.any():
        row = int(wrong.argmax())
        raise TypeError(
            f"{name} must be {what}, one for each training sample; {name}[{row}] is {array[row]!r}. {remedy}"
        )
    if isinstance(values, Tensor) and values.dtype == torch.int64 and values.device.type == "cpu":
        return values  # many millions are not copied without need
    return torch.from_numpy(array.astype(np.int64))


def given_samples(users: Any, items: Any, labels: Any, noise: Any) -> dict[str, Tensor]:
    """Return what a caller says about the training samples, as tensors by name.

    Args:
        users: The user of each sample, [n], or None.
        items: The item of each sample, [n], or None.
        labels: The label of each sample, [n], or None.
        noise: Whether each sample is noise, [n], or None.

    Raises:
        ValueError: If users or items are given alone, or if they are not of one length.
        TypeError: If they are not whole numbers, or labels or noise not 0 and 1.
    """
    if (users is None) != (items is None) or (users is not None and len(users) != len(items)):
        raise ValueError("users and items belong together: give both, of the same length, or neither.")
    given = {} if users is None else {"users": whole_numbers("users", users), "items": whole_numbers("items", items)}
    if labels is not None:
        given["labels"] = zeros_and_ones("labels", labels)
    if noise is not None:
        given["noise"] = zeros_and_ones("noise", noise).bool()
    return given
