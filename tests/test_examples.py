"""The examples run as a reader would run them, only on less data."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmhd_pl.datamodules import SyntheticCatalog

REPOSITORY = Path(__file__).parent.parent


def run(example: str, folder: Path) -> tuple[list[list[str]], str]:
    """Run an example in a folder; return the cells of the table that it prints, and all of what it prints."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / f"{example}.py"), "--epochs", "4", "--readers", "100"],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()], done.stdout


def test_a_plain_module_is_denoised_in_both_ways(tmp_path: Path) -> None:
    cells, _ = run("plain_lightning", tmp_path)
    rows = {row[0]: row[1:] for row in cells if row}
    assert list(rows) == ["TwoTower", "TwoTowerDenoised", "TwoTowerWeighted"]
    assert all(0 < float(row[0]) < 1 for row in rows.values())
    assert rows["TwoTower"][2:] == ["", ""]
    # Samples were dropped, their losses no longer count, and the two ways to the loss are the same.
    assert int(rows["TwoTowerDenoised"][2]) > 100
    assert float(rows["TwoTowerDenoised"][1]) < float(rows["TwoTower"][1]) - 0.01
    assert rows["TwoTowerDenoised"] == rows["TwoTowerWeighted"]
    assert list(tmp_path.iterdir()) == []


def test_a_client_is_compared_with_and_without_denoising(tmp_path: Path) -> None:
    cells, printed = run("two_tower_softmax", tmp_path)
    rows = {row[1]: row for row in cells if row}
    assert list(rows) == ["plain", "loss", "judge"]
    assert all(row[0] == "two towers" and 0 < float(row[2]) < 1 and 0 < float(row[3]) < 1 for row in rows.values())
    noise, clicks = (int(number) for number in re.findall(r"(\d+) of (\d+) clicks are noise", printed)[0])
    assert rows["plain"][4:] == ["", ""] and rows["loss"][4] == rows["judge"][4] == str(noise)
    chance = 100 * noise / clicks
    assert int(rows["judge"][5].rstrip("%")) > 1.3 * chance
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def my_shop(tmp_path: Path) -> Path:
    """The folder of a person whose data has ids of its own, in which ``data/my-shop`` holds atomic files."""
    shop = SyntheticCatalog(80, 60, num_topics=5, books_per_reader=12)
    shop.setup()
    folder = tmp_path / "data" / "my-shop"
    folder.mkdir(parents=True)
    pairs = zip(shop.train_users.tolist(), shop.train_items.tolist(), strict=True)
    clicks = ["user_id:token\titem_id:token", *(f"reader-{user}\tisbn-{item}" for user, item in pairs)]
    books = [f"isbn-{item}\t{fields['title']}" for item, fields in enumerate(shop.interactions.items)]
    (folder / "clicks.inter").write_text("\n".join(clicks) + "\n")
    (folder / "books.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *books]) + "\n")
    return tmp_path


def test_the_readmes_module_is_denoised_as_it_stands_there(my_shop: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=my_shop, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (my_shop / "lightning_logs" / "version_0" / "judgements.jsonl").read_text().splitlines()
    judged = json.loads(lines[0])
    assert judged["user_id"].startswith("reader-") and judged["item_id"].startswith("isbn-")


def test_a_folder_of_ones_own_is_denoised_by_the_configs(my_shop: Path) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"llmhd (fit --config atomic [^#\n]*data/my-shop[^#\n]*)", readme)
    _, denoised = (command.split() for command in commands)  # without and with
    assert denoised[1:5] == ["--config", "atomic", "--config", "methods/auto"]

    def run(*more: str) -> str:
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "train.py"), *denoised, "--trainer.max_epochs=3",
             "--trainer.accelerator=cpu", *more],
            cwd=my_shop, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    refused = run()  # so small a shop says too little
    assert "The drop rate is 0, so nothing is dropped: This judge cannot tell" in refused
    assert "Give the drop rate as a number to drop all the same" in refused
    assert "ends at 0.06" in run("--denoising.drop_rate", "0.2")  # three epochs of ten are too few, and that is said
    folder = my_shop / "runs" / "version_1"
    assert "denoise/dropped" in (folder / "metrics.csv").read_text().splitlines()[0]
    assert "reader-" in (folder / "judgements.jsonl").read_text()
    assert not (folder / "audit.npz").exists()  # nobody knows the noise of one's own data
