"""configs/quickstart.yaml, smaller: the whole method with the embedded judge in 4 bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

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
