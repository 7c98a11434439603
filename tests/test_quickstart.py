"""configs/quickstart.yaml, smaller: the whole method with the embedded judge in 4 bit; and ``llmhd quickstart``."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llmhd_pl import quickstart
from train import main

QUICKSTART = Path(__file__).parent.parent / "configs" / "quickstart.yaml"


def kinds_share(cli: Any) -> float:
    """Share of the noise in train."""
    return float(cli.datamodule.noise_mask.float().mean())


def test_the_quickstart_drops_noise_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cli = main(
        [
            *("fit", "--config", str(QUICKSTART), "--trainer.max_epochs", "12", "--trainer.accelerator", "cpu"),
            *("--data.num_readers", "200", "--data.num_books", "240", "--data.batch_size", "256"),
            *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        ]
    )
    run = tmp_path / "runs" / "version_0"
    log = pd.read_csv(run / "metrics.csv")
    last = log.dropna(subset=["denoise/dropped"]).iloc[-1]
    assert last["audit/dropped_is_noise_precision"] > 1.2 * kinds_share(cli)  # better than dropping at random
    assert last["denoise/dropped"] > 100 and last["denoise/hard"] > 0
    assert last["llm/unanswered"] == 0 and last["llm/tokens"] > 10_000
    assert sum(last[f"llm/score_{level}"] for level in range(1, 11)) == last["llm/pairs"]

    changes = [json.loads(line) for line in (run / "preferences.jsonl").read_text().splitlines()]
    assert {change["cause"] for change in changes} == {"summary"}
    assert all("reader" in change["after"] for change in changes)
    judged = [json.loads(line) for line in (run / "judgements.jsonl").read_text().splitlines()]
    assert {row["kept"] for row in judged} == {True, False}
    kinds = np.load(run / "audit.npz")["kind"]
    assert (kinds == cli.datamodule.train_kinds.numpy()).all()


def test_the_command_works_in_an_empty_folder_and_again(tmp_path: Path) -> None:
    small = ["--data.num_readers=80", "--data.num_books=160", "--trainer.accelerator=cpu", "--model.ks=[10]"]
    environment = {"OMP_NUM_THREADS": "1", "COLUMNS": "160", "PYTHONPATH": str(QUICKSTART.parent.parent)}
    for epochs in (2, 1):
        done = subprocess.run(
            [sys.executable, "-m", "llmhd_pl", "quickstart", *small, f"--trainer.max_epochs={epochs}"],
            cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        logs = [
            pd.read_csv(tmp_path / "runs" / name / "metrics.csv") for name in ("quickstart-without", "quickstart-llmhd")
        ]
        assert [log["epoch"].max() for log in logs] == [epochs, epochs]  # the test is logged after the last epoch
        assert ["denoise/dropped" in log for log in logs] == [False, True]
        for log in logs:
            assert f"{log['test/ndcg@10'].dropna().item():.4f}" in done.stdout
    assert sorted(path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()) == [
        "quickstart-llmhd",
        "quickstart-without",
    ]
    assert (tmp_path / "runs" / "quickstart-llmhd" / "report.png").is_file()


def test_a_step_that_fails_ends_the_command_with_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def fail(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        commands.append(command)
        return subprocess.CompletedProcess(command, 3 if len(commands) == 2 else 0)

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(quickstart.report, "main", lambda _: pytest.fail("there is nothing to report"))
    with pytest.raises(SystemExit) as error:
        quickstart.main(["--trainer.max_epochs=1"])
    assert error.value.code == 3 and len(commands) == 2
    assert all(command[1:4] == ["-m", "llmhd_pl", "fit"] for command in commands)
    assert [("--denoising=null" in command, "--trainer.max_epochs=1" in command) for command in commands] == [
        (True, True),
        (False, True),
    ]
