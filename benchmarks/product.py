"""Time LightGCN's two layers on Yelp with 20 % noise: our product against PyTorch's CSR product (MKL on a CPU).

    OMP_NUM_THREADS=1 python benchmarks/product.py --data_dir data/yelp

Both compute the mean of E, A E and A A E for embeddings E, [users + items, 64]. They take turns. Freed memory is kept.
On a CPU, a second table shows what a training step saves by asking for the nodes of its batch alone, with the gradient.
"""

import argparse
import warnings
from collections.abc import Callable
from statistics import median

import torch
from devices import add_accelerator, chosen_device, timed
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llmhd_pl.datamodules import Yelp
from llmhd_pl.graph import SymmetricAdjacency, symmetric_normalization
from llmhd_pl.memory import keep_freed_memory

DIM, ROUNDS = 64, 100
BATCHES = 512, 1024, 2048, 4096, 8192
THIRDS = [1 / 3] * 3


def chosen_nodes(graph: SymmetricAdjacency, data: Yelp, x: Tensor) -> Table:
    """Return the times of the layers of a batch's nodes: of all nodes, and of these alone; both with the gradient."""
    x.requires_grad_()
    table = Table(
        "batch", "its nodes", "ms: of all nodes", "of its own", "ratio", title="A step's forward and backward"
    )
    for size in BATCHES:
        batch = torch.randint(len(data.train_users), (size,))
        negatives = torch.randint(data.num_items, (size,))
        nodes = torch.cat([data.train_users[batch], torch.cat([data.train_items[batch], negatives]) + data.num_users])
        upstream = torch.randn(len(nodes.unique()), DIM)

        def of_all(nodes: Tensor = nodes, upstream: Tensor = upstream) -> None:
            graph.layer_sum(x, THIRDS).index_select(0, nodes.unique()).backward(upstream)

        def of_its_own(nodes: Tensor = nodes, upstream: Tensor = upstream) -> None:
            graph.layer_sum(x, THIRDS, nodes.unique()).backward(upstream)

        times: dict[Callable[[], None], list[float]] = {of_all: [], of_its_own: []}
        for _ in range(ROUNDS):
            for way, seconds in times.items():
                x.grad = None
                seconds.append(timed(way, x.device))
        one, other = (1000 * median(seconds) for seconds in times.values())
        table.add_row(f"{size:,}", f"{len(upstream):,}", f"{one:.2f}", f"{other:.2f}", f"{one / other:.1f}x")
    return table


def main() -> None:
    """Print both times, their ratio, and the largest difference of the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/yelp", help="folder with Yelp in RLMRec's layout")
    add_accelerator(parser)
    arguments = parser.parse_args()
    device = chosen_device(arguments.accelerator)
    data = Yelp(arguments.data_dir, noise_ratio=0.2)
    data.prepare_data()
    data.setup("fit")
    keep_freed_memory()
    edges = data.train_users.to(device), data.train_items.to(device)
    crow, col, val = symmetric_normalization(*edges, num_users=data.num_users, num_items=data.num_items)
    nodes = data.num_users + data.num_items
    graph = SymmetricAdjacency(crow, col, val)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(crow, col, val, (nodes, nodes), check_invariants=False)
    x, third = torch.randn(nodes, DIM).to(device), THIRDS[0]

    def ours() -> Tensor:
        return graph.layer_sum(x, THIRDS)

    def csr() -> Tensor:
        return torch.addmm(x, matrix, torch.addmm(x, matrix, x * third, beta=third), beta=third)

    ways: dict[str, Callable[[], Tensor]] = {"ours": ours, "PyTorch's CSR": csr}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, layers in ways.items():
                seconds[name].append(timed(layers, device))
        apart = (ours() - csr()).abs().max().item()
    table = Table(f"{len(col):,} entries", "ms: median", "min", "max", title="benchmarks/product.py")
    for name, times in seconds.items():
        table.add_row(name, *(f"{1000 * value:.2f}" for value in (median(times), min(times), max(times))))
    Console().print(table)
    ratio = median(seconds["PyTorch's CSR"]) / median(seconds["ours"])
    print(f"{device}, {torch.get_num_threads()} threads; ours is {ratio:.1f}x faster;", end=" ")
    print(f"the results differ by at most {apart:.1e}")
    if device.type == "cpu":
        Console().print(chosen_nodes(graph, data, x))


if __name__ == "__main__":
    main()
