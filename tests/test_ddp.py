"""Two gloo processes train like one. Each run is a subprocess, because Lightning starts the second process itself."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

REPOSITORY = Path(__file__).parent.parent
ARGUMENTS = [
    *("--config", str(REPOSITORY / "configs" / "quickstart.yaml"), "--denoising=null", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", "--trainer.max_epochs", "2"),
    *("--data.num_readers", "101", "--data.num_books", "120", "--data.num_topics", "6", "--data.batch_size", "150"),
    *("--data.eval_batch_size", "30"),
]


def train(command: str, folder: Path, processes: int, *more: str) -> None:
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    strategy = ["--trainer.devices", str(processes)] + (["--trainer.strategy", "ddp"] if processes > 1 else [])
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), command, *ARGUMENTS, *strategy, *more],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_two_processes_take_the_same_steps_as_one(tmp_path: Path, objective: str) -> None:
    tables, weights, steps = [], [], []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        train("fit", folder, processes, "--model.objective", objective)
        tables.append(pd.read_csv(folder / "runs" / "version_0" / "metrics.csv"))
        state = torch.load(folder / "runs" / "version_0" / "checkpoints" / "last.ckpt")
        weights.append(state["state_dict"]["embedding.weight"])
        steps.append(state["global_step"])
    assert steps[0] == steps[1] > 20
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=1e-4)
    names = [name for name in tables[0] if name.startswith("test/")]
    one, two = (table[names].dropna().iloc[-1] for table in tables)
    # The weights differ in the last digits (sums in another order), so a few users' rankings may.
    assert one.to_dict() == pytest.approx(two.to_dict(), abs=2e-3)


def test_a_checkpoint_of_one_process_resumes_and_predicts_on_two(tmp_path: Path) -> None:
    train("fit", tmp_path, 1)
    last = str(tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt")
    train("predict", tmp_path, 1, "--ckpt_path", last, "--predictions.path", "one.parquet")
    train("predict", tmp_path, 2, "--ckpt_path", last, "--predictions.path", "two.parquet")
    one = pd.read_parquet(tmp_path / "one.parquet")
    two = pd.concat([pd.read_parquet(tmp_path / f"two-rank{rank}.parquet") for rank in (0, 1)])
    two = two.sort_values(["user", "place"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(one, two)
    train("fit", tmp_path, 2, "--ckpt_path", last, "--trainer.max_epochs", "3")
    assert torch.load(last)["epoch"] == 2
