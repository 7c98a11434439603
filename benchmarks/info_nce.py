"""Time InfoNCE and its gradients, ours against the plain formula under autograd, with the sizes of Yelp.

    OMP_NUM_THREADS=1 python benchmarks/info_nce.py

A batch of 1024 samples has about 980 different users if they are drawn at random. The candidates of each one are all
11,091 users, as in SGL, NCL and RGCF, or 1,024 of them, as with ``num_contrasted: 1024``. "in bf16" is the plain
formula with its product in bfloat16, which pays only where the processor multiplies it. All take turns on the same
numbers.
The last column is the distance of the gradient from the plain formula's, relative to its length.
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from devices import add_accelerator, chosen_device, timed
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llmhd_pl.backbones.contrast import contrast, drawn_nodes

SAMPLES, NODES, DIM, TEMPERATURE = 1024, 11_091, 64, 0.2


def ours(table: Tensor, other: Tensor, samples: Tensor) -> Tensor:
    """Return the loss as the models compute it."""
    return contrast(samples, table, other, TEMPERATURE, None)


def drawn(table: Tensor, other: Tensor, samples: Tensor) -> Tensor:
    """Return the loss with 1,024 nodes drawn in place of all of them."""
    return contrast(samples, table, other, TEMPERATURE, drawn_nodes(other, 1024, "benchmark"))


def plain(table: Tensor, other: Tensor, samples: Tensor) -> Tensor:
    """Return the loss as the formula is written."""
    one, two = F.normalize(table, dim=1), F.normalize(other, dim=1)
    anchors = F.embedding(samples, one)
    agreement = (anchors * F.embedding(samples, two)).sum(dim=1) / TEMPERATURE
    return ((anchors @ two.t() / TEMPERATURE).logsumexp(dim=1) - agreement).sum()


def in_bf16(table: Tensor, other: Tensor, samples: Tensor) -> Tensor:
    """Return the loss with the product in bfloat16 and all else in float32."""
    one, two = F.normalize(table, dim=1), F.normalize(other, dim=1)
    anchors = F.embedding(samples, one)
    agreement = (anchors * F.embedding(samples, two)).sum(dim=1) / TEMPERATURE
    cosines = (anchors.bfloat16() @ two.bfloat16().t()).float()
    return ((cosines / TEMPERATURE).logsumexp(dim=1) - agreement).sum()


def main() -> None:
    """Print the times and their ratios to the plain formula's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    add_accelerator(parser)
    arguments = parser.parse_args()
    device = chosen_device(arguments.accelerator)
    torch.manual_seed(0)
    table, other = (torch.randn(NODES, DIM).to(device).requires_grad_() for _ in range(2))
    samples = torch.randint(NODES, (SAMPLES,)).to(device)
    ways: dict[str, Callable[..., Tensor]] = {
        "plain": plain,
        "plain, in bf16": in_bf16,
        "ours": ours,
        "ours, 1,024 drawn": drawn,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    for number in range(arguments.rounds + 1):
        for name, loss in ways.items():
            table.grad = other.grad = None

            def step(loss: Callable[..., Tensor] = loss, name: str = name) -> None:
                values[name] = loss(table, other, samples)
                values[name].backward()

            taken = timed(step, device)
            if number:  # the first round warms up
                seconds[name].append(taken)
            assert table.grad is not None and other.grad is not None
            gradients[name] = torch.cat([table.grad, other.grad])
    columns = ("ms: median", "min", "max", "of plain", "loss", "gradient off by")
    shown = Table("InfoNCE with gradients", *columns, title="benchmarks/info_nce.py")
    for name, times in seconds.items():
        off = (gradients[name] - gradients["plain"]).norm() / gradients["plain"].norm()
        milliseconds = (f"{1000 * value:.1f}" for value in (median(times), min(times), max(times)))
        ratio = f"{median(times) / median(seconds['plain']):.2f}x"
        shown.add_row(name, *milliseconds, ratio, f"{values[name].item():.3f}", f"{float(off):.1e}")
    Console().print(shown)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"ours is {median(seconds['plain']) / median(seconds['ours']):.1f}x faster than the plain formula")
    print(
        f"and with 1,024 nodes drawn {median(seconds['ours']) / median(seconds['ours, 1,024 drawn']):.1f}x faster yet"
    )


if __name__ == "__main__":
    main()
