"""Measure what the parts of a run take as the data grows: time and memory, each part in a process of its own.

    OMP_NUM_THREADS=1 python benchmarks/scale.py --millions 1 3 10

A size of 10 million interactions has 1 million users and 500 thousand items; other sizes are in proportion. Everything
is generated, with fixed seeds. Seconds are CPU time, which other work on the machine disturbs less than the clock; with
one thread the two are the same on an idle machine. *Peak* is the largest resident memory while the part works, with the
data that it works on, less what Python and the libraries had taken before. On a GPU, seconds are those of the clock and
the peak is that of the tensors; loading, numbering and cutting batches are always the CPU's. The growth is how many
times as long the largest size takes as the smallest, for each interaction, or for a step or a ranked user, for each
user and item: 1 is linear. The last column is ten times the largest size.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from devices import add_accelerator, chosen_device, peak_memory, timed
from rich.console import Console
from rich.table import Table

from llmhd_pl.backbones import MF
from llmhd_pl.datamodules import InteractionDataModule, Interactions, TableData, TrainBatches
from llmhd_pl.datamodules.interactions import unique_pairs
from llmhd_pl.denoising.flags import flag
from llmhd_pl.denoising.selection import candidates, noise_set
from llmhd_pl.denoising.store import SampleStore
from llmhd_pl.memory import return_freed_memory

GIB = 2**30
WINDOW = 5
STEPS = 5
BATCH = 8192
RANKED = 1024


def sizes(rows: int) -> tuple[int, int]:
    """Return the numbers of users and items that belong to so many interactions."""
    return rows // 10, rows // 20


def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw users uniformly and items with a long tail, int64 [rows] each."""
    rng = np.random.default_rng(seed)
    users, items = sizes(rows)
    return rng.integers(users, size=rows), (items * rng.random(rows) ** 2).astype(np.int64)


def write(path: Path, rows: int) -> None:
    """Write a Parquet file of interactions in the order of their time, with identifiers of 8 digits and more."""
    rng = np.random.default_rng(1)
    users, items = drawn(rows, 0)
    columns = {
        "user_id": users + 10_000_000,
        "item_id": items + 20_000_000,
        "rating": rng.integers(1, 6, rows).astype(np.float32),
        "time": 1_500_000_000 + np.sort(rng.integers(200_000_000, size=rows)),
    }
    pq.write_table(pa.table(columns), path, row_group_size=1 << 20)


class Generated(InteractionDataModule):
    """The same kind of interactions without a file. All users have something to validate on.

    Args:
        rows: The number of interactions, less those that are drawn twice.
    """

    def __init__(self, rows: int) -> None:
        super().__init__(batch_size=BATCH, eval_batch_size=RANKED)
        self.rows = rows

    def load(self) -> Interactions:
        """Draw the interactions and hold out the last item of each user."""
        num_users, num_items = sizes(self.rows)
        pairs = unique_pairs(*drawn(self.rows, 0), num_items)
        last = torch.cat([pairs[1:, 0] != pairs[:-1, 0], torch.tensor([True])])
        nothing = torch.empty(0, 2, dtype=torch.int64)
        return Interactions("generated", num_users, num_items, pairs[~last], pairs[last], nothing)


def status(name: str) -> int:
    """Return a figure of this process's memory in bytes: "VmRSS" now or "VmHWM" at most since ``forget_peak``."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024


def forget_peak() -> None:
    """Let the peak begin again from what is resident now."""
    return_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")


def load(rows: int, folder: str, device: torch.device) -> Callable[[], object]:
    """Read a Parquet file with ratings and times, and cut it at two times, the same for all users."""
    data = TableData(
        Path(folder, f"{rows}.parquet"),
        rating="rating",
        time="time",
        rating_threshold=2,
        split="temporal-global",
        split_ratios=(0.8, 0.1, 0.1),
    )
    return data.load


def number(rows: int, folder: str, device: torch.device) -> Callable[[], object]:
    """Number the samples and prepare the negatives."""
    data = Generated(rows)
    assert data.interactions
    return data.setup


def batches(rows: int, folder: str, device: torch.device) -> Callable[[], object]:
    """Draw the negatives of an epoch, and cut its batches."""
    data = Generated(rows)
    data.setup()
    return lambda: sum(len(batch["user"]) for batch in TrainBatches(data, lambda: 0))


def step(rows: int, folder: str, device: torch.device) -> Callable[[], object]:
    """Take steps of matrix factorisation with 64 dimensions, with Adam, whose moments are there already."""
    users, items = sizes(rows)
    model = MF(users, items).to(device)
    optimizer = model.configure_optimizers()
    generator = torch.Generator().manual_seed(0)

    def one() -> None:
        drawn = [torch.randint(n, (BATCH,), generator=generator) for n in (users, items, items)]
        user, positive, negative = (part.to(device) for part in drawn)
        batch = {"user": user, "positive": positive, "negative": negative}
        difference = model.score(user, positive) - model.score(user, negative)
        loss = -torch.nn.functional.logsigmoid(difference).mean() + model.l2 / 2 * model.squared_norms(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def some() -> None:
        for _ in range(STEPS):
            one()

    one()
    return some


def rank(rows: int, folder: str, device: torch.device) -> Callable[[], object]:
    """Rank all items for some users, by blocks of items; what all users have seen is at hand."""
    data = Generated(rows)
    data.setup()
    model = MF(data.num_users, data.num_items).to(device)
    batch = {name: part.to(device) for name, part in next(iter(data.val_dataloader())).items()}
    model._where = lambda: "Ranking"  # type: ignore[method-assign]

    def ranked() -> object:
        with torch.inference_mode():
            return model.top_of_many(batch["user"][:RANKED], batch["seen"][:, batch["seen"][0] < RANKED], 20)

    return ranked


def record(rows: int, folder: str, device: torch.device) -> Callable[[], object]:
    """Make the state of all samples, and record an epoch's batches in it."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(rows, generator=generator)
    values, negative = torch.rand(BATCH, generator=generator), torch.randint(rows // 20, (BATCH,), generator=generator)
    order, values, negative = order.to(device), values.to(device), negative.to(device)

    def recorded() -> object:
        store = SampleStore(rows, WINDOW, device=device)
        store.begin_epoch(0)
        for sample in order.split(BATCH):
            some = values[: len(sample)]
            store.record(sample, some, some, some, negative[: len(sample)])
        return store

    return recorded


def select(rows: int, folder: str, device: torch.device) -> Callable[[], object]:
    """Find the noise set, the variances, the candidates and the flags at the end of an epoch."""
    generator = torch.Generator(device).manual_seed(0)
    store = SampleStore(rows, WINDOW, device=device)
    for row in range(WINDOW):
        store.begin_epoch(row)
        store.positive[row].normal_(generator=generator)
        store.negative[row].normal_(generator=generator)
    store.losses.exponential_(generator=generator)

    def selected() -> object:
        noise = noise_set(store.losses, 0.2)
        positive, negative = store.variances()
        found = candidates(noise, positive, negative, 0.5)
        return found, flag(-positive, 0.2, store.false_positive_flags, 3)

    return selected


PARTS: dict[str, tuple[Callable[[int, str, torch.device], Callable[[], object]], str]] = {
    "load": (load, "TableData from Parquet"),
    "number": (number, "numbering the samples"),
    "batches": (batches, "an epoch's batches"),
    "step": (step, f"{STEPS} steps of MF"),
    "rank": (rank, f"ranking for {RANKED:,} users"),
    "record": (record, "state of all samples, an epoch"),
    "select": (select, "selection at the epoch's end"),
}


def measure(part: str, rows: int, folder: str, accelerator: str) -> dict[str, float]:
    """Do a part of a run and return its seconds and the bytes at its peak."""
    device = chosen_device("cpu" if part in ("load", "number", "batches") else accelerator)
    warnings.simplefilter("ignore")
    torch.rand(100, 100, requires_grad=True).mm(
        torch.rand(100, 100)
    ).sum().backward()  # what PyTorch loads at first use
    base = status("VmRSS")
    work = PARTS[part][0](rows, folder, device)
    if device.type != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return {"seconds": timed(work, device), "peak": peak_memory(device)}
    forget_peak()
    start = time.process_time()
    result: Any = work()
    seconds = time.process_time() - start
    del result
    return {"seconds": seconds, "peak": status("VmHWM") - base}


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a process of its own, which has the libraries from this one.

    Nobody may have looked for a GPU before: a forked process could not use it then.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(work, *arguments).result()


def main() -> None:
    """Measure each part and size in its own process and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, nargs="+", default=[1, 3, 10], help="millions of interactions")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    add_accelerator(parser)
    arguments = parser.parse_args()
    apart(chosen_device, arguments.accelerator)  # which ends here if there is none
    millions = sorted(arguments.millions)
    table = Table("part", title=f"benchmarks/scale.py on {arguments.accelerator}: seconds / peak in GiB")
    for size in millions:
        table.add_column(f"{size} million")
    table.add_column("growth of time")
    table.add_column(f"worked out for {10 * millions[-1]} million")
    with tempfile.TemporaryDirectory() as folder:
        if "load" in arguments.parts:
            for size in millions:
                apart(write, Path(folder, f"{size * 1_000_000}.parquet"), size * 1_000_000)
        for part in arguments.parts:
            found = []
            for size in millions:
                found.append(apart(measure, part, size * 1_000_000, folder, arguments.accelerator))
                print(part, size, found[-1], file=sys.stderr, flush=True)
            growth = found[-1]["seconds"] / found[0]["seconds"] / (millions[-1] / millions[0])
            table.add_row(
                PARTS[part][1],
                *(f"{one['seconds']:.2f} / {one['peak'] / GIB:.2f}" for one in found),
                f"{growth:.2f}",
                f"{10 * found[-1]['seconds']:.0f} / {10 * found[-1]['peak'] / GIB:.1f}",
            )
    Console().print(table)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
