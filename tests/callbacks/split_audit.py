"""A fit whose drop rate an audit sets, with one process or two: ``python split_audit.py FOLDER PROCESSES``.

Each process writes the rate, and how many audits its judge was prepared for, to a file of its own.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback
from small_fits import quiet
from test_audited_rate import Sure, model, pruning, shop

from llmhd_pl import LLMHD


class Report(Callback):
    """Writes what a process ends with."""

    def __init__(self, folder: Path, judge: Sure) -> None:
        self.folder, self.judge = folder, judge

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Write this process's file."""
        said = {
            "rate": pruning(trainer.callbacks).max_drop_rate,
            "dropped": trainer.callback_metrics["denoise/dropped"].item(),
            "prepared": self.judge.prepared,
        }
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(said))


def fit(folder: Path, processes: int) -> None:
    """Two epochs; the second one drops at the audited rate."""
    data = shop()
    judge = Sure(data)
    callbacks = [*LLMHD(judge, drop_rate="auto", ramp_epochs=1, audit=True), Report(folder, judge)]
    strategy = "ddp_fork" if processes > 1 else "auto"
    quiet(folder, *callbacks, max_epochs=2, devices=processes, strategy=strategy).fit(model(data), data)


if __name__ == "__main__":
    fit(Path(sys.argv[1]), int(sys.argv[2]))
