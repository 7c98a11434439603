"""Kills: a run that is killed and resumed ends where an uninterrupted one ends, and nothing paid for is asked again."""

import functools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from tests.campaign.case import Case

REPOSITORY = Path(__file__).parent.parent.parent
SIZES = {"num_readers": 120, "num_books": 160, "batch_size": 256, "negative_lifetime": 3}
FIT = [
    *(sys.executable, str(REPOSITORY / "train.py"), "fit", "--config", "quickstart"),
    *(f"--data.{name}={size}" for name, size in SIZES.items()),
    *("--denoising.confidence_epochs=2", "--denoising.among=all", "--trainer.max_epochs=6"),
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
]
SECONDS = 300  # for a run that takes 15 on a quiet core
Moment = Callable[[Path, str], bool]


def start(folder: Path, *more: str) -> "subprocess.Popen[bytes]":
    """Start a run whose temporary files lie on another file system, where there is one."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if Path("/dev/shm").is_dir():
        environment["TMPDIR"] = "/dev/shm"
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen([*FIT, *more], cwd=folder, env=environment, stdout=output, stderr=output)


def run_to_the_end(folder: Path, *more: str) -> None:
    process = start(folder, *more)
    assert process.wait(SECONDS) == 0, (folder / "output.txt").read_text()[-3000:]


def result(folder: Path) -> tuple[dict[str, float], str, int]:
    """The test metrics, the preferences and the number of answers of a run that has ended."""
    run = max((folder / "runs").glob("version_*"), key=lambda path: int(path.name.removeprefix("version_")))
    table = pd.read_csv(run / "metrics.csv")
    metrics = table[[name for name in table if name.startswith("test/")]].dropna().iloc[-1].to_dict()
    return metrics, (run / "preferences.jsonl").read_text(), answers(folder)


def answers(folder: Path) -> int:
    path = folder / "runs" / "quickstart.sqlite"
    if not path.is_file():
        return 0
    try:
        with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30) as connection:
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
    except sqlite3.OperationalError:  # it is just being created
        return 0


@functools.cache
def uninterrupted() -> tuple[dict[str, float], str, int]:
    with tempfile.TemporaryDirectory() as folder:
        run_to_the_end(Path(folder))
        return result(Path(folder))


def last_checkpoint(folder: Path) -> Path:
    return folder / "runs" / "version_0" / "checkpoints" / "last.ckpt"


def after_answers(count: int) -> Moment:
    return lambda folder, output: answers(folder) >= count


def after_epoch(epoch: int) -> Moment:
    def reached(folder: Path, output: str) -> bool:
        path = last_checkpoint(folder)
        return path.is_file() and bool(torch.load(path)["epoch"] >= epoch)

    return reached


def while_a_checkpoint_is_written(after: int) -> Moment:
    def reached(folder: Path, output: str) -> bool:
        return after_epoch(after)(folder, output) and any(last_checkpoint(folder).parent.glob("*.part"))

    return reached


def in_the_test(folder: Path, output: str) -> bool:
    return "best.ckpt" in output


def kill(folder: Path, moment: Moment, how: signal.Signals, *more: str) -> None:
    """Start a run and kill it when a moment has come; no-op if it has ended by then."""
    process, deadline = start(folder, *more), time.monotonic() + SECONDS
    while process.poll() is None and not moment(folder, (folder / "output.txt").read_text()):
        assert time.monotonic() < deadline, "the moment has not come"
        time.sleep(0.001)
    process.send_signal(how)
    process.wait(SECONDS)


def killed(*moments: Moment, how: signal.Signals = signal.SIGKILL) -> Callable[[Path], str]:
    def check(folder: Path) -> str:
        last = last_checkpoint(folder)
        for moment in moments:
            kill(folder, moment, how, *([f"--ckpt_path={last}"] if last.is_file() else []))
        run_to_the_end(folder, *([f"--ckpt_path={last}"] if last.is_file() else []))
        metrics, preferences, asked = result(folder)
        expected = uninterrupted()
        assert metrics == expected[0], f"{metrics} instead of {expected[0]}"
        assert preferences == expected[1]
        assert asked == expected[2], f"{asked} answers in the cache instead of {expected[2]}"
        shutil.rmtree(folder / "runs")
        return "ends where an uninterrupted run ends, to the last digit; nothing is asked twice"

    return check


def cases() -> list[Case]:
    """Return the kills of the campaign."""
    asking = "kill -9 while the judge answers"
    writing = "kill -9 while a checkpoint is written, with TMPDIR on another file system"
    found = [Case(asking, f"after {n} answers", killed(after_answers(n))) for n in (1, 60, 130, 400, 900, 1500, 2200)]
    found += [Case("kill -9 between two epochs", f"after epoch {n}", killed(after_epoch(n))) for n in (0, 1, 2, 3, 4)]
    found += [Case(writing, f"after epoch {n}", killed(while_a_checkpoint_is_written(n))) for n in (0, 1, 2, 3)]
    found += [
        Case("kill -9 in the test after the fit", "once", killed(in_the_test)),
        Case("kill -9 twice", "in the answers and an epoch later", killed(after_answers(300), after_epoch(2))),
        Case("kill -9 twice", "in two epochs", killed(after_epoch(1), after_epoch(3))),
        Case("Ctrl-C", "in the answers", killed(after_answers(500), how=signal.SIGINT)),
        Case("kill", "between two epochs", killed(after_epoch(2), how=signal.SIGTERM)),
    ]
    return found
