"""Processes of a run that wait for each other."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def test_a_judge_that_is_slow_on_one_process_does_not_end_the_others(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(TESTS / "callbacks"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(TESTS / "callbacks" / "slow_judges.py"), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
