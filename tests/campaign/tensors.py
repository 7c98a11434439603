"""Faults of cached embeddings and projections."""

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from llmhd_pl.llm import encoder
from llmhd_pl.llm.encoder import EncoderScorer
from llmhd_pl.llm.tensor_files import read_tensors, write_tensors
from tests.campaign.case import Case

TEXTS = [f"item {number}" for number in range(12)]
KIND = "cached embeddings that are damaged or cannot be right"


def embedded(folder: Path) -> tuple[torch.Tensor, int]:
    """Embed through the cache; how many texts had to be encoded."""
    encoded: list[str] = []

    def encode(texts: list[str]) -> torch.Tensor:
        encoded.extend(texts)
        return torch.from_numpy(np.random.default_rng(0).normal(size=(len(texts), 8))).float()

    with mock.patch.object(encoder, "load_encoder", lambda *_: encode):
        return EncoderScorer("model", align=False, cache_dir=folder).embeddings(TEXTS), len(encoded)


def spoiled(spoil: Callable[[Path, torch.Tensor], object], folder: Path) -> str:
    expected, _ = embedded(folder)
    (path,) = folder.iterdir()
    spoil(path, expected)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again, encoded = embedded(folder)
    assert encoded == 12 and torch.equal(again, expected)
    assert len(caught) == 1 and f"{path} is damaged" in str(caught[0].message) and "made anew" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        third, encoded = embedded(folder)
    assert encoded == 0 and torch.equal(third, expected)
    return "computed anew with a warning that names the file"


def unwritable(block: Callable[[Path], object], folder: Path) -> str:
    expected, _ = embedded(folder / "fine")
    block(folder / "cache")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again, _ = embedded(folder / "cache")
    assert torch.equal(again, expected) and len(caught) == 1
    assert f"{folder / 'cache'}" in str(caught[0].message) and "could not be written" in str(caught[0].message)
    return "one warning with path and remedy; the run goes on"


def linked(folder: Path) -> str:
    embedded(folder)
    (path,) = folder.iterdir()
    (folder / "diary").write_text("Dear diary")
    path.unlink()
    path.symlink_to(folder / "nothing")
    embedded(folder)
    assert not path.is_symlink() and read_tensors(path) is not None and not (folder / "nothing").exists()
    return "the link is replaced and not followed"


def write(change: Callable[[torch.Tensor], dict[str, torch.Tensor]]) -> Callable[[Path, torch.Tensor], object]:
    return lambda path, tensor: write_tensors(path, change(tensor))


def cases() -> list[Case]:
    """Return the faults."""
    faults: dict[str, Callable[[Path, torch.Tensor], object]] = {
        "cut off in the header": lambda path, _: os.truncate(path, 5),
        "cut off in the content": lambda path, _: os.truncate(path, path.stat().st_size - 1),
        "nothing in it": lambda path, _: os.truncate(path, 0),
        "a bit flipped": lambda path, _: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 4])),
        "a text": lambda path, _: path.write_text("embeddings"),
        "a pickle": lambda path, tensor: torch.save({"embeddings": tensor}, path),
        "a NumPy file": lambda path, tensor: np.save(path.open("wb"), tensor.numpy()),
        "NaN": write(lambda tensor: {"embeddings": tensor * torch.nan}),
        "infinity in one place": write(
            lambda tensor: {"embeddings": tensor.index_fill(0, torch.tensor([3]), torch.inf)}
        ),
        "a row too few": write(lambda tensor: {"embeddings": tensor[1:]}),
        "no width": write(lambda tensor: {"embeddings": tensor[:, :0]}),
        "one dimension": write(lambda tensor: {"embeddings": tensor.flatten()}),
        "float64": write(lambda tensor: {"embeddings": tensor.double()}),
        "bfloat16": write(lambda tensor: {"embeddings": tensor.bfloat16()}),
        "whole numbers": write(lambda tensor: {"embeddings": tensor.long()}),
        "another name": write(lambda tensor: {"vectors": tensor}),
    }
    return [
        *(Case(KIND, name, partial(spoiled, spoil)) for name, spoil in faults.items()),
        Case("a cache of embeddings that cannot be written", "a file in its place", partial(unwritable, Path.touch)),
        Case("a link in the place of cached embeddings", "to nothing", linked),
    ]
