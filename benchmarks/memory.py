"""Measure the memory of the per-sample state, and the time and memory of the selection at the end of an epoch.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --millions 10 100

Each size runs in its own process, which fills a store as five epochs would, and then computes the noise set, the
variances, the candidates and the flags of the preference updates. *Peak* is the largest resident memory of the process
during the selection, less what Python and PyTorch had taken before the store was made.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from rich.console import Console
from rich.table import Table

from llmhd_pl.denoising.flags import flag
from llmhd_pl.denoising.selection import candidates, noise_set
from llmhd_pl.denoising.store import SampleStore

WINDOW = 5
GIB = 2**30


def peak() -> int:
    """Return the largest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(num_samples: int, pointwise: bool) -> dict[str, float]:
    """Fill a store, select from it, and return the seconds of each step and the peak in bytes after it.

    Args:
        num_samples: The number of samples.
        pointwise: Whether each sample has two losses.
    """
    torch.arange(10).float().std()  # so that PyTorch has loaded what it loads at its first use
    base = peak()
    store = SampleStore(num_samples, WINDOW, pointwise)
    generator = torch.Generator().manual_seed(0)
    for row in range(WINDOW):
        store.begin_epoch(row)
        store.positive[row].normal_(generator=generator)
        store.negative[row].normal_(generator=generator)
    store.losses.exponential_(generator=generator)
    figures = {"bytes": store.bytes_per_sample, "store": peak() - base}

    def step(name: str, start: float) -> None:
        figures[f"{name}: seconds"] = time.perf_counter() - start
        figures[f"{name}: peak"] = peak() - base

    start = time.perf_counter()
    noise = noise_set(store.losses, 0.2)
    step("noise_set", start)
    start = time.perf_counter()
    positive, negative = store.variances()
    step("variances", start)
    start = time.perf_counter()
    candidates(noise, positive, negative, 0.5)
    step("candidates", start)
    start = time.perf_counter()
    flag(-positive, 0.2, store.false_positive_flags, 3)
    step("flag", start)
    return figures


def main() -> None:
    """Measure each size in its own process and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--millions", type=int, nargs="+", default=[10], help="millions of samples; 100 need about 12 GiB"
    )
    parser.add_argument(
        "--one", nargs=2, type=int, help=argparse.SUPPRESS
    )  # for the child process: samples, and 1 if pointwise
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], bool(arguments.one[1]))))
        return
    steps = ("noise_set", "variances", "candidates", "flag")
    table = Table("samples", "objective", "bytes per sample", "store, GiB", title="benchmarks/memory.py")
    for step in steps:
        table.add_column(f"{step}: s / peak GiB")
    table.add_column("peak / store")
    for millions in arguments.millions:
        for pointwise in (False, True):
            command = [sys.executable, __file__, "--one", str(millions * 1_000_000), str(int(pointwise))]
            done = subprocess.run(command, capture_output=True, text=True)
            name = [f"{millions} million", "pointwise" if pointwise else "pairwise"]
            if done.returncode:
                reason = "killed, out of memory" if done.returncode < 0 else done.stderr.strip().splitlines()[-1]
                table.add_row(*name, reason)
                continue
            found = json.loads(done.stdout)
            columns = [f"{found[f'{step}: seconds']:.1f} / {found[f'{step}: peak'] / GIB:.1f}" for step in steps]
            ratio = found["flag: peak"] / found["store"]
            table.add_row(*name, f"{found['bytes']:.0f}", f"{found['store'] / GIB:.1f}", *columns, f"{ratio:.2f}")
    Console().print(table)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
