"""The examples run as a reader would run them, only on less data."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def test_a_plain_module_is_denoised_in_both_ways(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / "plain_lightning.py"), "--epochs", "4", "--readers", "100"],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    rows = {row[0]: row[1:] for row in cells if row}
    assert list(rows) == ["TwoTower", "TwoTowerDenoised", "TwoTowerWeighted"]
    assert all(0 < float(row[0]) < 1 for row in rows.values())
    assert rows["TwoTower"][2:] == ["", ""]
    # Samples were dropped, their losses no longer count, and the two ways to the loss are the same.
    assert int(rows["TwoTowerDenoised"][2]) > 100
    assert float(rows["TwoTowerDenoised"][1]) < float(rows["TwoTower"][1]) - 0.01
    assert rows["TwoTowerDenoised"] == rows["TwoTowerWeighted"]
    assert list(tmp_path.iterdir()) == []
