"""The examples that need no library beyond the environment: what is dropped is noise more often than chance has it."""

import importlib
from typing import Any

import pytest
import torch
from comparison import arms, book_shop

from llmhd_pl import GraphPruning

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("example", "client", "epochs", "readers", "lift"),
    [
        ("pyg_lightgcn", "PyG LightGCN", 10, 150, 1.8),
        ("two_tower_softmax", "two towers", 8, 150, 1.8),
        ("ctr_labels", "DeepFM", 8, 250, 1.5),
    ],
)
def test_the_judge_drops_noise(example: str, client: str, epochs: int, readers: int, lift: float) -> None:
    clicks, module = book_shop(readers), importlib.import_module(example)
    outcome: Any = module.CLIENTS[client](clicks, arms(clicks, ramp_epochs=2)["judge"], epochs, seed=0)
    base = float(outcome.noise.double().mean())
    assert outcome.dropped is not None
    assert int(outcome.dropped.sum()) == pytest.approx(base * len(outcome.noise), rel=0.01)
    assert outcome.precision > lift * base
    assert all(0 < value < 1 for value in outcome.measures.values())
    for callback in outcome.callbacks:
        if isinstance(callback, GraphPruning):
            assert callback._out.any() and torch.equal(callback._built, callback._dropped >= callback.patience)  # type: ignore[arg-type]
