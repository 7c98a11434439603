"""Time InfoNCE and its gradients, ours against the plain formula under autograd, with the sizes of Yelp.

    OMP_NUM_THREADS=1 python benchmarks/info_nce.py

A batch of 1024 samples has about 980 different users if they are drawn at random. The candidates of each one are all
11,091 users, as in SGL, NCL and RGCF. The two take turns on the same numbers.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llmhd_pl.losses import info_nce

SAMPLES, NODES, DIM, TEMPERATURE, ROUNDS = 1024, 11_091, 64, 0.2, 20


def ours(table: Tensor, other: Tensor, samples: Tensor) -> Tensor:
    """Return the loss as the models compute it."""
    nodes, counts = samples.unique(return_counts=True)
    return info_nce(F.embedding(nodes, table), F.embedding(nodes, other), other, TEMPERATURE, counts)


def plain(table: Tensor, other: Tensor, samples: Tensor) -> Tensor:
    """Return the loss as the formula is written."""
    one, two = F.normalize(table, dim=1), F.normalize(other, dim=1)
    anchors = F.embedding(samples, one)
    agreement = (anchors * F.embedding(samples, two)).sum(dim=1) / TEMPERATURE
    return ((anchors @ two.t() / TEMPERATURE).logsumexp(dim=1) - agreement).sum()


def timed(loss: Callable[..., Tensor], *tensors: Tensor) -> tuple[float, float]:
    """Return the seconds of the loss and its gradients, and the loss itself."""
    start = time.perf_counter()
    value = loss(*tensors)
    value.backward()
    return time.perf_counter() - start, value.item()


def main() -> None:
    """Print both times and their ratio."""
    torch.manual_seed(0)
    table, other = (torch.randn(NODES, DIM, requires_grad=True) for _ in range(2))
    samples = torch.randint(NODES, (SAMPLES,))
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    values = {}
    for _ in range(ROUNDS):
        for name, loss in (("ours", ours), ("plain", plain)):
            taken, values[name] = timed(loss, table, other, samples)
            seconds[name].append(taken)
    shown = Table("InfoNCE with gradients", "ms: median", "min", "max", "loss", title="benchmarks/info_nce.py")
    for name, times in seconds.items():
        shown.add_row(
            name, *(f"{1000 * value:.1f}" for value in (median(times), min(times), max(times))), f"{values[name]:.3f}"
        )
    Console().print(shown)
    print(
        f"{torch.get_num_threads()} threads; ours is {median(seconds['plain']) / median(seconds['ours']):.1f}x faster"
    )


if __name__ == "__main__":
    main()
