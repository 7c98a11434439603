"""Every denoiser in one process of two: collectives get tensors of the device, and steps do not wait for it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pretend_gpu import DEVICE, pretend_gpu
from pretend_world import one_of_two
from test_pretend_gpu import DENOISERS, InSteps, catalog, made, trainer

from llmhd_pl.processes import gathered, numbers_of_all, reduced

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(contradicts itself|fell from|drop rate takes|sync_dist=True|rank_zero)"),
]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("denoiser", DENOISERS)
@pytest.mark.parametrize("name", ["MF", "LightGCN"])
def test_one_process_of_two(tmp_path: Path, name: str, denoiser: str, rank: int) -> None:
    with pretend_gpu() as waits, one_of_two(rank) as strategy:
        model: Any = made(name)
        callbacks = DENOISERS[denoiser](hasattr(model, "set_graph"))
        fitting = trainer(tmp_path, 3, InSteps(), *callbacks, strategy=strategy)
        fitting.fit(model, catalog())
        assert (fitting.world_size, fitting.global_rank) == (2, rank)
        # Lightning 2.6 asks in every step whether a process was told to stop, for which it waits itself.
        assert [what for what in waits.found if "training_epoch_loop" not in what] == []
        assert float(fitting.callback_metrics["val/ndcg@10"]) > 0
        fitting.save_checkpoint(tmp_path / "last.ckpt")
        assert (tmp_path / "last.ckpt").exists() == (rank == 0)


def test_the_other_process_has_nothing() -> None:
    with pretend_gpu(), one_of_two(1) as strategy:
        two = SimpleNamespace(world_size=2, strategy=strategy)
        assert reduced(two, torch.tensor([3.0, 4.0], device=DEVICE)).tolist() == [3, 4]
        assert reduced(two, torch.tensor([3.0, 4.0], device=DEVICE), "mean").tolist() == [1.5, 2]
        assert numbers_of_all(two, 5) == [0, 5]
        assert gathered(two, {"a": 1}) == [{"a": 1}] * 2


def test_what_nccl_would_refuse_is_found() -> None:
    with pretend_gpu(), one_of_two(0):
        two = SimpleNamespace(world_size=2)
        with pytest.raises(RuntimeError, match="NCCL was given tensor"):
            reduced(two, torch.ones(3))
        with pytest.raises(RuntimeError, match=r"no torch\.int16"):
            reduced(two, torch.ones(3, dtype=torch.int16, device=DEVICE))
        with pytest.raises(RuntimeError, match="tensors of the device is sent"):
            gathered(two, {"a": torch.ones(3, device=DEVICE)})
