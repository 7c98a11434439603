"""Find the training interactions in a trainer's data module: one protocol and one error."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


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


def known_noise(trainer: Any, owner: object) -> Tensor:
    """Return which training interactions are noise, for data that knows it.

    Args:
        trainer: A Lightning ``Trainer``.
        owner: The object that needs them; the error names its class.

    Returns:
        True for noise, bool [n].

    Raises:
        RuntimeError: If the trainer has no data module with ``noise_mask``.
    """
    mask: Tensor | None = getattr(getattr(trainer, "datamodule", None), "noise_mask", None)
    if mask is None:
        raise RuntimeError(
            f"{type(owner).__name__} needs the truth: a data module with noise_mask, as those of llmhd_pl have."
        )
    return mask
