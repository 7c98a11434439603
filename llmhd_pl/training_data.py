"""Where a trainer's data module keeps the training interactions: one protocol and one error."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class TrainingData(Protocol):
    """A data module that knows its training interactions, as those of this package do after ``setup``."""

    train_users: Tensor
    """int64 [n]: the user of each training sample."""
    train_items: Tensor
    """int64 [n]: its observed item."""


def training_interactions(trainer: Any, owner: object, remedy: str) -> tuple[Tensor, Tensor]:
    """Return the users and the items of the training interactions.

    Args:
        trainer: A Lightning ``Trainer``.
        owner: Who needs them; the error names its class.
        remedy: What to do where the data module does not have them; the last sentence of the error.

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
