"""Measure the time and the memory that AtomicFiles takes to load an .inter file.

    OMP_NUM_THREADS=1 python benchmarks/loading.py --millions 2 20

Each file is generated in a temporary folder (about 37 MB per million rows) and loaded in a process of its own, with a
split at random and with a split by time. *Peak* is the largest resident memory of that process until the interactions
are loaded, the interactions included, less what Python and the libraries had taken before.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from devices import peak_memory
from rich.console import Console
from rich.table import Table

from llmhd_pl.datamodules import AtomicFiles


def write(path: Path, rows: int, users: int, items: int) -> None:
    """Write a file of interactions in the order of their time, without ratings and times that help compression.

    Args:
        path: The file.
        rows: The number of rows. A pair can occur several times.
        users: The number of users to draw from.
        items: The number of items to draw from, the first ones more often.
    """
    rng = np.random.default_rng(0)
    path.write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n")
    for start in range(0, rows, 1_000_000):
        size = min(1_000_000, rows - start)
        table = {
            "user": rng.integers(users, size=size) + 10_000_000,
            "item": (items * rng.random(size) ** 2).astype(np.int64),
            "rating": rng.integers(1, 11, size) / 2,
            "time": 1_500_000_000 + start + np.sort(rng.integers(size, size=size)),
        }
        pd.DataFrame(table).to_csv(path, sep="\t", header=False, index=False, mode="a")


def measure(folder: str, split: str) -> dict[str, float]:
    """Load the file in a folder and return the seconds, the peak in bytes, and what was loaded."""
    data = AtomicFiles(folder, rating_threshold=2, k_core=5, split="temporal" if split == "temporal" else "random")
    cpu = torch.device("cpu")
    base = peak_memory(cpu)
    start = time.perf_counter()
    interactions = data.load()
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "peak": peak_memory(cpu) - base,
        "interactions": len(interactions.train) + len(interactions.valid) + len(interactions.test),
        "users": interactions.num_users,
        "items": interactions.num_items,
    }


def main() -> None:
    """Measure each size in its own process and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, nargs="+", default=[2], help="millions of rows")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # for the child process: folder and split
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one)))
        return
    columns = ("rows", "split", "MB", "users", "items", "kept", "seconds", "s per million", "peak MB per million")
    table = Table(*columns, title="benchmarks/loading.py")
    for millions in arguments.millions:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.inter"
            write(path, millions * 1_000_000, users=50_000 * millions, items=20_000)
            for split in ("random", "temporal"):
                command = [sys.executable, __file__, "--one", folder, split]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(done.stdout)
                table.add_row(
                    f"{millions} million",
                    split,
                    f"{path.stat().st_size / 1e6:.0f}",
                    *(f"{found[name]:,}" for name in ("users", "items", "interactions")),
                    f"{found['seconds']:.1f}",
                    f"{found['seconds'] / millions:.2f}",
                    f"{found['peak'] / 1e6 / millions:.0f}",
                )
    Console().print(table)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
