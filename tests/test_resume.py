"""A run that is interrupted and resumed ends exactly where one that was not interrupted ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from llmhd_pl.backbones import LightGCN
from llmhd_pl.datamodules import SyntheticCatalog

REPOSITORY = Path(__file__).parent.parent
FIT = [
    *(sys.executable, str(REPOSITORY / "train.py"), "fit", "--config", str(REPOSITORY / "configs" / "quickstart.yaml")),
    *("--trainer.max_epochs", "12", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"),
    *("--data.num_readers", "300", "--data.num_books", "200", "--data.batch_size", "16"),
    *("--data.negative_lifetime", "3", "--model.objective", "bce"),
]


def start(folder: Path, *more: str) -> "subprocess.Popen[bytes]":
    folder.mkdir(exist_ok=True)
    output = (folder / "output.txt").open("ab")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*FIT, *more], cwd=folder, env=environment, stdout=output, stderr=output)


def test_metrics(run: Path) -> dict[str, float]:
    table = pd.read_csv(run / "metrics.csv")
    return table[[name for name in table if name.startswith("test/")]].dropna().iloc[-1].to_dict()


test_metrics.__test__ = False  # type: ignore[attr-defined]


def test_kill_9_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole")
    broken = start(tmp_path / "broken")
    last = tmp_path / "broken" / "runs" / "version_0" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 300
    while not (last.is_file() and torch.load(last)["epoch"] >= 3):
        assert broken.poll() is None, (tmp_path / "broken" / "output.txt").read_text()
        assert time.monotonic() < deadline, "no checkpoint after five minutes"
        time.sleep(0.05)
    time.sleep(0.2)
    broken.send_signal(signal.SIGKILL)
    assert broken.wait() == -signal.SIGKILL  # it was still training
    assert start(tmp_path / "broken", "--ckpt_path", str(last)).wait() == 0
    assert whole.wait() == 0
    expected = test_metrics(tmp_path / "whole" / "runs" / "version_0")
    assert expected["test/ndcg@10"] > 0
    assert test_metrics(tmp_path / "broken" / "runs" / "version_1") == expected


@pytest.mark.parametrize("step", [2, 5, 7])
def test_a_checkpoint_in_the_middle_of_an_epoch(tmp_path: Path, step: int) -> None:
    """Five batches an epoch: step 2 and 7 lie within one, step 5 at the end of the first."""

    def fit(epochs: int, seed: int, checkpoint: Path | None = None) -> tuple[Trainer, LightGCN]:
        torch.manual_seed(seed)
        data = SyntheticCatalog(60, 50, num_topics=5, books_per_reader=12, batch_size=120, negative_lifetime=1)
        model = LightGCN(60, 50, learning_rate=0.01)
        keep = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, callbacks=[keep],
            enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(model, data, ckpt_path=checkpoint)
        assert len(trainer.train_dataloader) == 5
        return trainer, model

    _, whole = fit(3, seed=0)
    trainer, resumed = fit(3, seed=1, checkpoint=tmp_path / f"step={step}.ckpt")
    assert trainer.global_step == 15
    assert torch.equal(resumed.embedding.weight, whole.embedding.weight)
