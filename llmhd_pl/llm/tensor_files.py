"""Files of tensors with a checksum, as ``EncoderScorer`` keeps them in its cache."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmhd_pl.files import whole_file
from llmhd_pl.llm.digest import digest

Shapes = Mapping[str, tuple[int | None, ...]]
"""The names and shapes of the tensors that a file must hold, float32 and finite; None is any length but 0."""


def read_tensors(path: Path, shapes: Shapes | None = None) -> dict[str, Tensor] | None:
    """Read a file that ``write_tensors`` wrote. Nothing in it is executed.

    Args:
        path: The file.
        shapes: What the tensors must be; None is anything.

    Returns:
        The tensors by name, or None if there is no such file. A file that cannot be read, that is damaged or that holds
        something else is renamed, with a warning, and then counts as missing.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no iterator
            checksum = (file.metadata() or {}).get("checksum")
        if checksum != _checksum(tensors):
            raise ValueError("its content does not match its checksum")
        if shapes is not None:
            check_tensors(tensors, shapes)
    except (SafetensorError, ValueError, OSError) as error:
        aside = path.with_name(f"{path.name}.damaged")
        what = f"It was renamed to {aside} and is made anew."
        try:
            path.replace(aside)
        except OSError:
            what = "It is made anew."
        warnings.warn(f"{path} is damaged ({error}). {what}", stacklevel=2)
        return None
    return tensors


def check_tensors(tensors: Mapping[str, Tensor], shapes: Shapes) -> None:
    """Check that tensors are what they must be.

    Args:
        tensors: The tensors by name.
        shapes: Their names and shapes.

    Raises:
        ValueError: If one is missing, unknown, not float32, not of its shape, or has NaN or infinity in it.
    """
    if tensors.keys() != shapes.keys():
        raise ValueError(f"it holds {', '.join(sorted(tensors)) or 'nothing'}, not {', '.join(sorted(shapes))}")
    for name, tensor in tensors.items():
        shape = shapes[name]
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}, not torch.float32")
        lengths = zip(tensor.shape, shape, strict=False)
        if tensor.dim() != len(shape) or any(there != (wanted or max(there, 1)) for there, wanted in lengths):
            wanted_shape = " x ".join(str(wanted or "any") for wanted in shape)
            raise ValueError(f"{name} is of shape {' x '.join(map(str, tensor.shape))}, not {wanted_shape}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors so that a reader sees either all of them or no file. Several processes may write it at once.

    Args:
        path: The file; its folder is created if necessary.
        tensors: The tensors by name.

    Raises:
        OSError: If the file cannot be written; the message names it and what can be done.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as part:
        try:
            save_file(contiguous, part, {"checksum": _checksum(contiguous)})
        except SafetensorError as error:  # such as a full disk
            raise OSError(str(error)) from error


def _checksum(tensors: dict[str, Tensor]) -> str:
    named = sorted(tensors.items())
    return digest(*(part for name, tensor in named for part in (name.encode(), _bytes(tensor))))


def _bytes(tensor: Tensor) -> bytes:
    raw: bytes = tensor.flatten().view(torch.uint8).numpy().tobytes()  # NumPy does not know all of torch's dtypes
    return raw
