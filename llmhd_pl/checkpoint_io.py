"""SafeCheckpointIO: checkpoints that run no code when they are loaded, and that are whole or not there."""

import glob
import re
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from llmhd_pl.files import PART, whole_file


class SafeCheckpointIO(TorchCheckpointIO):
    """Reads and writes the checkpoints of a Lightning ``Trainer``; every ``Backbone`` brings it along.

    Lightning loads a checkpoint from a web address with ``weights_only=False``, which runs any code that it contains,
    and writes through a temporary file that may lie on another file system, so that a process that is killed can leave
    an empty checkpoint. This plugin loads tensors and plain Python values only, refuses web addresses, and writes
    beside the final path. With a module of your own, use it as ``Trainer(plugins=[SafeCheckpointIO()])``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint. An existing file stays as it was until the new one is complete.

        Args:
            checkpoint: The checkpoint.
            path: The path; an address such as ``s3://...`` is left to Lightning.
            storage_options: Not supported, as in Lightning.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        # Left by a process that was killed while it wrote this checkpoint. A checkpoint has one writer.
        for stale in path.parent.glob(f"{glob.escape(path.name)}.*{PART}"):
            stale.unlink(missing_ok=True)
        with whole_file(path) as part:
            torch.save(checkpoint, part)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; see ``read_checkpoint``.

        Args:
            path: The path of a file, or an address such as ``s3://...``, which is left to Lightning.
            map_location: The device of the tensors, as in ``torch.load``.
            weights_only: Ignored: nothing but tensors and plain Python values is ever loaded.
        """
        refuse_web_address(path)
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        return read_checkpoint(path, map_location)


def refuse_web_address(path: Any) -> None:
    """Check that a checkpoint is not to be loaded from the web.

    Args:
        path: The path or address; None is no checkpoint.

    Raises:
        ValueError: If it is a web address.
    """
    if re.match(r"(https?|ftp)://", str(path), re.IGNORECASE):
        raise ValueError(
            f"The checkpoint {path} is a web address, which Lightning would load without protection against code in "
            "it. Download the file, and give its path."
        )


def read_checkpoint(path: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint from a local file without running any code that it contains.

    Args:
        path: The path.
        map_location: The device of the tensors, as in ``torch.load``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the path is a web address, or if the file is damaged, no checkpoint, or holds anything but
            tensors and plain Python values.
    """
    refuse_web_address(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}. Check the path; the runs of the command are in runs/.")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch promises no particular errors for a damaged file
        if "weights_only" in str(error) or "Weights only" in str(error):
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            # Not "from error": torch's message advises to load the file with weights_only=False.
            raise ValueError(
                f"The checkpoint {path} holds {named[1] if named else 'objects that torch cannot check'}. Only tensors "
                "and plain Python values are loaded, because anything else may run code. Save the module's "
                "state_dict() alone, where the file was made."
            ) from None
        raise ValueError(
            f"The checkpoint {path} cannot be read: it is damaged, or no checkpoint of Lightning. Use another one, "
            "such as best.ckpt beside last.ckpt."
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is no checkpoint of Lightning: it has no state_dict. Check the path.")
    return checkpoint
