"""Time LightGCN's two layers on Yelp with 20 % noise: our product against PyTorch's CSR product (MKL on a CPU).

    OMP_NUM_THREADS=1 python benchmarks/product.py --data_dir data/yelp

Both compute the mean of E, A E and A A E for embeddings E, [users + items, 64]. They take turns. Freed memory is kept.
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
    x, third = torch.randn(nodes, DIM).to(device), 1 / 3

    def ours() -> Tensor:
        return graph.layer_sum(x, [third] * 3)

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


if __name__ == "__main__":
    main()
