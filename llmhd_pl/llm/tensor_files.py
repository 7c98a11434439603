"""Files of tensors with a checksum, as ``EncoderScorer`` keeps them in its cache."""

import tempfile
import warnings
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmhd_pl.llm.digest import digest


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """Read a file that ``write_tensors`` wrote.

    Args:
        path: The file.

    Returns:
        The tensors by name, or None if there is no such file. A damaged file is renamed, with a warning, and then
        counts as missing.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no iterator
            checksum = (file.metadata() or {}).get("checksum")
        if checksum != _checksum(tensors):
            raise ValueError("its content does not match its checksum")
    except (SafetensorError, ValueError) as error:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        warnings.warn(f"{path} is damaged ({error}). It was renamed to {aside} and is made anew.", stacklevel=2)
        return None
    return tensors


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors so that a reader sees either all of them or no file.

    Several processes may write the same file at once, so each has a temporary folder of its own; ``whole_file`` would
    give all of them the same temporary name.

    Args:
        path: The file; its folder is created if necessary.
        tensors: The tensors by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.") as folder:
        temporary = Path(folder) / path.name
        save_file(contiguous, temporary, {"checksum": _checksum(contiguous)})
        temporary.replace(path)


def _checksum(tensors: dict[str, Tensor]) -> str:
    named = sorted(tensors.items())
    return digest(*(part for name, tensor in named for part in (name.encode(), tensor.numpy().tobytes())))
