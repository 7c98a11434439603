"""A run that is interrupted and resumed ends exactly where an uninterrupted one ends."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from llmhd_pl.backbones import LightGCN
from llmhd_pl.datamodules import SyntheticCatalog
from train import main

REPOSITORY = Path(__file__).parent.parent
FIT = [
    *(sys.executable, str(REPOSITORY / "train.py"), "fit"),
    *("--config", str(REPOSITORY / "configs" / "quickstart.yaml"), "--denoising", "null"),
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
    """There are five batches an epoch: steps 2 and 7 lie within one, and step 5 ends the first."""

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


def test_a_run_that_had_been_stopped_early_takes_no_further_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is resumed as if it had been killed in the test after the fit. Lightning alone would go on training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    config = str(REPOSITORY / "configs" / "quickstart.yaml")
    more = ["--denoising=null", "--trainer.enable_progress_bar=false", "--trainer.max_epochs=60"]
    sizes = ["--data.num_readers", "60", "--data.num_books", "50", "--data.num_topics", "5"]
    arguments = ["fit", "--config", config, *more, *sizes, "--early_stopping.patience=2", "--model.learning_rate=0.1"]
    whole = main(arguments)
    last = "runs/version_0/checkpoints/last.ckpt"
    epochs = whole.trainer.current_epoch
    resumed = main([*arguments, "--ckpt_path", last])
    assert resumed.trainer.current_epoch == epochs < 60
    assert test_metrics(Path("runs/version_1")) == test_metrics(Path("runs/version_0"))


def small_llmhd(folder: Path, *more: str) -> "subprocess.Popen[bytes]":
    """Start a small quickstart whose preferences are revised after two epochs, for both reasons."""
    folder.mkdir(exist_ok=True)
    config = yaml.safe_load((REPOSITORY / "configs" / "quickstart.yaml").read_text())
    sizes = {"num_readers": 120, "num_books": 160, "batch_size": 256, "negative_lifetime": 3}
    config["data"]["init_args"] |= sizes
    config["trainer"] |= {"max_epochs": 6, "accelerator": "cpu", "enable_progress_bar": False}
    config["denoising"]["init_args"] |= {"confidence_epochs": 2, "among": "all"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, str(REPOSITORY / "train.py"), "fit", "--config", "config.yaml", *more]
    output = (folder / "output.txt").open("ab")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)


def answers(folder: Path, template: str | None = None) -> int:
    """The number of answers in the cache, of one prompt or of all."""
    path = folder / "runs" / "quickstart.sqlite"
    if not path.is_file():
        return 0
    with sqlite3.connect(path, timeout=30) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        counts = "SELECT count(*) FROM answers WHERE template = coalesce(?, template)"
        return int(connection.execute(counts, (template,)).fetchone()[0]) if "answers" in tables else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    assert small_llmhd(folder).wait() == 0, (folder / "output.txt").read_text()
    return folder


# Among the summaries of the first epoch, among its scores, and among revisions of either kind.
@pytest.mark.parametrize(("template", "at"), [("T_sum", 60), ("T_score", 600), ("T_FP", 20), ("T_FN", 20)])
def test_kill_9_while_the_language_model_answers(whole: Path, tmp_path: Path, template: str, at: int) -> None:
    """No answered question is asked again, and the final metrics are the same to the last digit."""
    broken = small_llmhd(tmp_path / "broken")
    deadline = time.monotonic() + 300
    while answers(tmp_path / "broken", template) < at:
        assert broken.poll() is None, (tmp_path / "broken" / "output.txt").read_text()
        assert time.monotonic() < deadline, "no answers after five minutes"
        time.sleep(0.01)
    broken.send_signal(signal.SIGKILL)
    assert broken.wait() == -signal.SIGKILL
    known = answers(tmp_path / "broken")
    last = tmp_path / "broken" / "runs" / "version_0" / "checkpoints" / "last.ckpt"
    counted = 0
    if last.is_file():
        (usage,) = torch.load(last)["callbacks"]["LLMSampleScorer"]["usage"]  # of one process
        counted = sum(count["calls"] for count in usage.values())
    assert small_llmhd(tmp_path / "broken", *(["--ckpt_path", str(last)] if last.is_file() else [])).wait() == 0

    runs = [whole / "runs" / "version_0", tmp_path / "broken" / "runs" / "version_1"]
    assert test_metrics(runs[1]) == test_metrics(runs[0])
    calls = [pd.read_csv(run / "metrics.csv")["llm/calls"].max() for run in runs]
    # The checkpoint has counted what was asked before it. Readers with the same preference share prompts, which a
    # resumed run finds answered: it may ask even less.
    assert calls[1] - counted <= calls[0] - known
    assert answers(tmp_path / "broken") == answers(whole)
    assert (runs[0] / "preferences.jsonl").read_text() == (runs[1] / "preferences.jsonl").read_text()
