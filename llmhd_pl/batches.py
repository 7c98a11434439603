"""Read and replace what is somewhere in a training batch, whatever the batch is made of."""

from collections.abc import Mapping, MutableMapping, MutableSequence
from typing import Any

from torch import Tensor

Key = str | tuple[str | int, ...]
"""Where something is in a batch: a name, or the names and numbers that lead to it, as in ("features", "weight"), or
(0,) for the first of a tuple."""


def path_of(key: Key) -> tuple[str | int, ...]:
    """Return a key as the names and numbers that lead to a place in a batch.

    Raises:
        TypeError: If it is neither a name nor a path of names and numbers.
    """
    if isinstance(key, str):  # as nearly always, in every step
        return (key,)
    if not isinstance(key, (tuple, list)) or not all(isinstance(part, (str, int)) for part in key):
        raise TypeError(
            f"{key!r} is no place in a batch. Give a name, such as 'sample', or a path in a tuple, such as "
            "('features', 'sample'), or (0,) for the first entry of a batch that is a tuple."
        )
    return tuple(key)


def look_up(batch: Any, key: Key) -> Any:
    """Return what a batch holds under a key, or None.

    Args:
        batch: A mapping, a sequence, or an object with attributes such as PyG's ``Data``, nested in any way.
        key: The name, or the path to it.

    Raises:
        TypeError: If the key is neither.
    """
    for name in path_of(key):
        if isinstance(batch, Mapping):
            batch = batch.get(name)
        elif isinstance(name, int):
            batch = batch[name] if isinstance(batch, (list, tuple)) and -len(batch) <= name < len(batch) else None
        else:
            batch = getattr(batch, name, None)
    return batch


def named(key: Key) -> str:
    """Return how Python reaches the key, for messages: ``batch['features']['weight']``."""
    return "batch" + "".join(f"[{name!r}]" for name in path_of(key))


class Replaced:
    """A tensor of a batch that is replaced for one step; ``restore`` brings back what was there.

    Batches may be used again in the next epoch, and a weight that was multiplied twice would count twice.

    Args:
        batch: The batch, as ``look_up`` takes it.
        key: Where the tensor is, or where it shall be.
        value: What is put in its place.

    Raises:
        RuntimeError: If the place does not exist or cannot be written to.
    """

    def __init__(self, batch: Any, key: Key, value: Tensor) -> None:
        *path, self._name = path_of(key)
        self._holder = look_up(batch, tuple(path)) if path else batch
        self._before = look_up(self._holder, (self._name,))
        if isinstance(self._holder, (Mapping, list, tuple)) and not isinstance(
            self._holder, (MutableMapping, MutableSequence)
        ):
            self._holder = None
        if self._holder is None or (isinstance(self._holder, list) and self._before is None):
            raise RuntimeError(
                f"The training batch has no place for the weights: {named(key)} cannot be written to. Let weight_key "
                "name a key of a dict (or a path of keys, as a tuple), or let the module inherit "
                "llmhd_pl.SampleWeights."
            )
        self._write(value)

    def restore(self) -> None:
        """Bring back what was there before."""
        if self._before is not None:
            self._write(self._before)
        elif isinstance(self._holder, MutableMapping):
            self._holder.pop(self._name, None)
        else:
            delattr(self._holder, str(self._name))

    def _write(self, value: Any) -> None:
        if isinstance(self._holder, (MutableMapping, MutableSequence)):
            self._holder[self._name] = value  # type: ignore[index]
        else:
            setattr(self._holder, str(self._name), value)
