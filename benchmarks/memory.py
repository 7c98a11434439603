"""Measure the memory of the per-sample state, and the time and memory of the selection at the end of an epoch.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --millions 10 100

Each size runs in its own process, which fills a store as five epochs would, and then computes the noise set, the
variances, the candidates and the flags of the preference updates. *Peak* is the largest resident memory of the process
during the selection, less what Python and PyTorch had taken before the store was made; on a GPU, that of the tensors.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from devices import add_accelerator, chosen_device, peak_memory, timed
from rich.console import Console
from rich.table import Table

from llmhd_pl.denoising.flags import flag
from llmhd_pl.denoising.selection import candidates, noise_set
from llmhd_pl.denoising.store import SampleStore

WINDOW = 5
GIB = 2**30
STEPS = ("noise_set", "variances", "candidates", "flag")
T = TypeVar("T")


def measure(num_samples: int, pointwise: bool, device: torch.device) -> dict[str, float]:
    """Fill a store, select from it, and return the seconds of each step and the peak in bytes after it.

    Args:
        num_samples: The number of samples.
        pointwise: Whether each sample has two losses.
        device: Where the store is.
    """
    torch.arange(10, device=device).float().std()  # so that PyTorch has loaded what it loads at its first use
    base = peak_memory(device)
    store = SampleStore(num_samples, WINDOW, pointwise, device)
    generator = torch.Generator(device).manual_seed(0)
    for row in range(WINDOW):
        store.begin_epoch(row)
        store.positive[row].normal_(generator=generator)
        store.negative[row].normal_(generator=generator)
    store.losses.exponential_(generator=generator)
    figures = {"bytes": store.bytes_per_sample, "store": peak_memory(device) - base}

    def step(name: str, work: Callable[[], T]) -> T:
        results: list[T] = []
        figures[f"{name}: seconds"] = timed(lambda: results.append(work()), device)
        figures[f"{name}: peak"] = peak_memory(device) - base
        return results[0]

    noise = step("noise_set", lambda: noise_set(store.losses, 0.2))
    positive, negative = step("variances", store.variances)
    step("candidates", lambda: candidates(noise, positive, negative, 0.5))
    step("flag", lambda: flag(-positive, 0.2, store.false_positive_flags, 3))
    return figures


def measure_apart(millions: int, pointwise: bool, accelerator: str) -> dict[str, float]:
    """Return what ``measure`` returns in a process of its own.

    Raises:
        RuntimeError: If the process fails, with the reason.
    """
    command = [sys.executable, __file__, "--accelerator", accelerator]
    command += ["--one", str(millions * 1_000_000), str(int(pointwise))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError("killed, out of memory" if done.returncode < 0 else done.stderr.strip().splitlines()[-1])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure each size in its own process and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--millions", type=int, nargs="+", default=[10], help="millions of samples; 100 need about 12 GiB"
    )
    parser.add_argument(
        "--one", nargs=2, type=int, help=argparse.SUPPRESS
    )  # for the child process: samples, and 1 if pointwise
    add_accelerator(parser)
    arguments = parser.parse_args()
    device = chosen_device(arguments.accelerator)
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], bool(arguments.one[1]), device)))
        return
    table = Table("samples", "objective", "bytes per sample", "store, GiB", title="benchmarks/memory.py")
    for step in STEPS:
        table.add_column(f"{step}: s / peak GiB")
    table.add_column("peak / store")
    for millions in arguments.millions:
        for pointwise in (False, True):
            name = [f"{millions} million", "pointwise" if pointwise else "pairwise"]
            try:
                found = measure_apart(millions, pointwise, arguments.accelerator)
            except RuntimeError as error:
                table.add_row(*name, str(error))
                continue
            columns = [f"{found[f'{step}: seconds']:.1f} / {found[f'{step}: peak'] / GIB:.1f}" for step in STEPS]
            ratio = found["flag: peak"] / found["store"]
            table.add_row(*name, f"{found['bytes']:.0f}", f"{found['store'] / GIB:.1f}", *columns, f"{ratio:.2f}")
    Console().print(table)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
