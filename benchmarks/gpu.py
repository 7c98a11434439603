"""Check on a GPU what cannot be checked without one, and print a table with a row for each check.

    python benchmarks/gpu.py

Without a GPU it runs on the CPU and says which rows need one. The exit status is 1 if a check fails; the others still
run. The fits are those of ``gpu_fits.py``, which says how far their figures may be from the CPU's.
"""

import argparse
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from statistics import median
from typing import NamedTuple

import torch
from devices import add_accelerator, chosen_device, timed
from gpu_fits import BACKBONES, DENOISERS, LIMITS, PRECISIONS, as_on_the_cpu, in_precision, never_waits, on_two, resumed
from memory import GIB, STEPS, measure_apart
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scoring import save_model
from torch import Tensor

from llmhd_pl.graph import SymmetricAdjacency, WeightedAdjacency, symmetric_normalization
from llmhd_pl.llm.quantized import QuantizedLLM
from llmhd_pl.llm.token_batches import TokenBatches

Work = Callable[[torch.device], str]
"""Does a check on a device. Returns what was found, in words, or raises an error that says what is wrong."""
YELP = (10_593, 11_010, 199_944)
"""The users, items and interactions of Yelp with 20 % noise."""
LAYERS = (1 / 3, 1 / 3, 1 / 3)
ROUNDS = 20


class Check(NamedTuple):
    """A row of the table."""

    name: str
    work: Work
    gpus: int = 0
    """The number of GPUs that it needs."""


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let PyTorch use deterministic algorithms, or any."""
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def drawn_edges(users: int, items: int, edges: int) -> tuple[Tensor, Tensor]:
    """Draw so many different edges, less those that are drawn twice, with a long tail of items: int64 each."""
    generator = torch.Generator().manual_seed(0)
    popular = (items * torch.rand(edges, generator=generator) ** 2).long()
    keys = (torch.randint(users, (edges,), generator=generator) * items + popular).unique()
    return keys // items, keys % items


def product_and_gradient(graph: SymmetricAdjacency, x: Tensor) -> Tensor:
    """Return LightGCN's two layers and the gradient of their squared norm: [2, nodes, d]."""
    x = x.clone().requires_grad_()
    layers = graph.layer_sum(x, LAYERS)
    layers.square().sum().backward()
    assert x.grad is not None
    return torch.stack([layers.detach(), x.grad])


def product_is_right(device: torch.device) -> str:
    """Compare the products of the graph with dense ones in float64 on the CPU.

    Raises:
        AssertionError: If a number differs by more than 1e-4.
    """
    users, items = drawn_edges(50, 40, 400)
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(90, 16, generator=generator), torch.rand(len(users), generator=generator)
    matrices = torch.zeros(2, 90, 90, dtype=torch.float64)
    degrees = [part.bincount(minlength=90) for part in (users, items)]
    values = (degrees[0][users] * degrees[1][items]).double().rsqrt(), weights.double()
    for matrix, of_edges in zip(matrices, values, strict=True):
        matrix[users, 50 + items] = of_edges
        matrix += matrix.T.clone()
    whole = sum((torch.linalg.matrix_power(matrices[0], layer) / 3 for layer in range(3)), torch.zeros(90, 90))
    expected = [whole @ x.double(), 2 * whole @ whole @ x.double(), matrices[1] @ x.double()]
    expected.append((x[users] * x[50 + items]).sum(dim=1).double())
    apart = 0.0
    for wanted in (False, True):
        with deterministic(wanted):
            ends, there = (users.to(device), items.to(device)), x.to(device)
            graph = SymmetricAdjacency(*symmetric_normalization(*ends, 50, 40))
            weighted = WeightedAdjacency(*ends, 50, 40)
            spread = weighted.spread(weights.to(device))
            found = [*product_and_gradient(graph, there), weighted.product(spread, spread, there)]
            found.append(weighted.edge_dots(there))
        apart = max(apart, *(float((a.cpu() - b).abs().max()) for a, b in zip(found, expected, strict=True)))
    if not apart <= 1e-4:
        raise AssertionError(f"the products differ by up to {apart:.1e}")
    return f"within {apart:.1e}"


def graph_of_yelps_size(device: torch.device) -> tuple[SymmetricAdjacency, Tensor]:
    """Return a graph as large as Yelp's, and embeddings of 64 dimensions for its nodes."""
    users, items = (part.to(device) for part in drawn_edges(*YELP))
    x = torch.randn(YELP[0] + YELP[1], 64, generator=torch.Generator().manual_seed(0)).to(device)
    return SymmetricAdjacency(*symmetric_normalization(users, items, *YELP[:2])), x


def product_is_deterministic(device: torch.device) -> str:
    """Multiply several times.

    Raises:
        AssertionError: If a digit differs.
    """
    graph, x = graph_of_yelps_size(device)
    with deterministic(True):
        first = product_and_gradient(graph, x)
        for _ in range(ROUNDS):
            if not torch.equal(product_and_gradient(graph, x), first):
                raise AssertionError("two products of the same numbers differ")
    return f"the same {ROUNDS} times"


def product_is_fast(device: torch.device) -> str:
    """Time the product and its gradient, in milliseconds."""
    graph, x = graph_of_yelps_size(device)
    figures = []
    for wanted in (False, True):
        with deterministic(wanted):
            times = [timed(lambda: product_and_gradient(graph, x), device) for _ in range(ROUNDS + 1)]
        figures.append(f"{1000 * median(times[1:]):.2f} ms")  # the first warms up
    return f"{figures[0]}; deterministic {figures[1]}, at Yelp's size, with the gradient"


def nf4_rates(device: torch.device) -> str:
    """Rate with a random language model in 4 bits on the device and on the CPU.

    Raises:
        AssertionError: If a score differs by more than .5, or if the model is not in 4 bits on the device.
    """
    items = [{"title": title} for title in ("The Otter", "The Heron", "A book about wolves")]
    pairs = torch.tensor([[0, 0], [0, 1], [1, 2], [0, 2]])
    scores, scorers = [], []
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, layers=1)
        for where in (device.type, "cpu"):
            scorer = QuantizedLLM(folder, device=where, prompts="books", calibrate=False)
            scorers.append(scorer)
            scorer.prepare(items, torch.empty(0, 2, dtype=torch.int64))
            scores.append(scorer.score({0: "rivers and what lives in them", 1: "wolves"}, pairs))
            model = scorer.causal_lm.model
            kinds = {type(module).__name__ for module in model.modules()}
            if "Linear4bit" not in kinds or model.device.type != where:
                raise AssertionError(f"the model is on {model.device}, of {sorted(kinds)}")
    apart = float((scores[0] - scores[1]).abs().max())
    if not apart <= 0.5:
        raise AssertionError(f"scores differ by up to {apart:.2f}")
    return f"scores within {apart:.2f} of the CPU's; prompts are read by {scorers[0].causal_lm.reader.way}"


def batches_are_halved(device: torch.device) -> str:
    """Let batches need more memory than the GPU has.

    Raises:
        AssertionError: If not every row has its result, in batches that were halved.
    """
    torch.cuda.empty_cache()
    each = torch.cuda.mem_get_info()[0] // 3
    sizes = []

    def work(rows: list[int]) -> list[int]:
        memory = torch.empty(len(rows) * each, dtype=torch.uint8, device=device)
        sizes.append(len(memory) // each)
        return rows

    batches = TokenBatches(batch_tokens=80)
    done = batches.in_batches([10] * 8, lambda left: left[: batches.batch_tokens // 10], work)
    if sorted(row for row, _ in done) != list(range(8)) or max(sizes) != 2:
        raise AssertionError(f"of 8 rows, of which 2 fit at once, there were batches of {sizes}")
    return f"8 rows in batches of {sizes}"


def state_fits(device: torch.device, millions: int) -> str:
    """Keep the state of so many millions of samples, in a process of its own, and select from it.

    Raises:
        RuntimeError: If it cannot be done.
    """
    found = measure_apart(millions, False, device.type)
    seconds = sum(found[f"{step}: seconds"] for step in STEPS)
    store, peak = found["store"] / GIB, found["flag: peak"] / GIB
    return f"store {store:.1f} GiB, peak {peak:.1f} GiB, selection {seconds:.1f} s"


def all_checks(millions: int) -> list[Check]:
    """Return the rows of the table.

    Args:
        millions: The millions of samples of the state.
    """
    fits = [*product(BACKBONES, ["none"]), *product(["LightGCN"], DENOISERS)]
    steps = [*product(BACKBONES, ["LLMHD"]), *product(["MF", "LightGCN"], DENOISERS)]
    return [
        *(
            Check(f"as on the CPU: {name}, {denoiser}", partial(as_on_the_cpu, name=name, denoiser=denoiser))
            for name, denoiser in dict.fromkeys(fits)
        ),
        *(Check(f"as on the CPU: NGCF in {mode}", partial(in_precision, precision=mode)) for mode in PRECISIONS),
        Check("resumed", resumed),
        Check("graph product: right", product_is_right),
        Check("graph product: deterministic", product_is_deterministic),
        Check("graph product: time", product_is_fast),
        Check("language model in NF4", nf4_rates),
        Check("out of memory", batches_are_halved, gpus=1),
        Check(f"state of {millions} million samples", partial(state_fits, millions=millions)),
        *(
            Check(f"steps do not wait: {name}, {denoiser}", partial(never_waits, name=name, denoiser=denoiser), gpus=1)
            for name, denoiser in dict.fromkeys(steps)
        ),
        *(
            Check(f"two GPUs: LightGCN, {denoiser}", partial(on_two, denoiser=denoiser), gpus=2)
            for denoiser in DENOISERS
        ),
    ]


def run(checks: Sequence[Check], device: torch.device) -> bool:
    """Do the checks one after the other and print the table.

    Returns:
        Whether none has failed.
    """
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    table = Table("check", "outcome", "what was found", title=f"benchmarks/gpu.py on {device}", caption=LIMITS)
    failed = 0
    for check in checks:
        if gpus < check.gpus:
            table.add_row(check.name, f"skipped: needs {'a GPU' if check.gpus == 1 else 'two GPUs'}")
            continue
        try:
            table.add_row(check.name, "ok", check.work(device))
        except Exception as error:  # whatever it is, the others shall run
            failed += 1
            table.add_row(check.name, "failed", escape(f"{type(error).__name__}: {error}"))
    Console(width=140).print(table)
    print(f"{failed} of {len(checks)} checks failed")
    return failed == 0


def set_up() -> None:
    """Say for this process and those of two GPUs that Lightning is silent and cuBLAS can be deterministic."""
    os.environ |= {"PYTHONWARNINGS": "ignore", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def main() -> None:
    """Run all checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_accelerator(parser)
    parser.set_defaults(accelerator="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--millions", type=int, help="millions of samples whose state is kept; by default 100 on a GPU, 1 on a CPU"
    )
    arguments = parser.parse_args()
    device = chosen_device(arguments.accelerator)
    set_up()
    millions = arguments.millions or (100 if device.type == "cuda" else 1)
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}", flush=True)
    sys.exit(0 if run(all_checks(millions), device) else 1)


if __name__ == "__main__":
    main()
