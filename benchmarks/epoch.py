"""Time one training epoch on Yelp: our LightGCN, a bare loop, and the same model on PyG's LGConv.

    python benchmarks/epoch.py --data_dir data/yelp

All three train LightGCN (d = 64, 2 layers, BPR with L2, fused Adam) on the same batches of 1024. The "bare loop" does
our operations without Lightning. "LGConv" runs under the same Trainer and propagates with PyG's layer on an edge_index.
The three take turns, so that a machine that changes its speed changes it for all of them.

    python benchmarks/epoch.py --backbones

times one epoch of every backbone instead, with its defaults at 2 graph layers, and NCL with its prototypes; and those
that contrast nodes also with 1,024 nodes drawn in each step (``num_contrasted``).

    python benchmarks/epoch.py --objectives

times one epoch of LightGCN and MF with every objective and every choice of negatives.
"""

import argparse
import time
import warnings
from statistics import median
from typing import Any

import torch
from devices import add_accelerator, chosen_device, synchronize, timed
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch_geometric.nn import LGConv

from llmhd_pl.backbones import GMF, MF, NCL, NGCF, RGCF, SGL, Backbone, LightGCN, NeuMF
from llmhd_pl.datamodules import TrainBatches, Yelp
from llmhd_pl.losses import bpr_loss
from llmhd_pl.memory import keep_freed_memory


class LGConvLightGCN(LightGCN):
    """LightGCN that propagates with PyG's LGConv on an edge_index, which it also lets normalise the graph."""

    def set_graph(self, users: Tensor, items: Tensor) -> None:
        """Keep the edges, both int64 [n], as an edge_index."""
        super().set_graph(users, items)
        edges = torch.stack([users, items + self.num_users])
        self.register_buffer("edge_index", torch.cat([edges, edges.flip(0)], dim=1), persistent=False)
        self.convolution = LGConv()

    def final_embeddings(self) -> Tensor:
        """Return the mean over the layers: [users + items, d]."""
        layer = total = self.embedding.weight
        for _ in range(self.num_layers):
            layer = self.convolution(layer, self.edge_index)
            total = total + layer
        return total / (self.num_layers + 1)


class EpochTimer(Callback):
    """Measures the seconds from the start to the end of the training epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        synchronize(pl_module.device)
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        synchronize(pl_module.device)
        self.seconds = time.perf_counter() - self._start


def trainer_epoch(model: Backbone, data: Yelp, device: torch.device) -> float:
    """Return the seconds of one epoch under the Trainer, with the progress bar, as a user runs it."""
    timer = EpochTimer()
    trainer = Trainer(
        accelerator=device.type,
        devices=1,
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[timer],
    )
    trainer.fit(model, data)
    return timer.seconds


def bare_epoch(model: LightGCN, data: Yelp, device: torch.device) -> float:
    """Return the seconds of the same operations in a plain loop."""
    model.to(device)  # from where the Trainer takes it back to the CPU
    optimizer = model.configure_optimizers()

    def loop() -> None:
        for batch in TrainBatches(data, lambda: 0):
            batch = {name: part.to(device, non_blocking=True) for name, part in batch.items()}
            items = torch.cat([batch["positive"], batch["negative"]])
            positive, negative = model.score(batch["user"].repeat(2), items).chunk(2)
            loss = bpr_loss(positive, negative).mean() + model.l2 / 2 * model.squared_norms(batch).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return timed(loop, device)


def time_backbones(data: Yelp, rounds: int, device: torch.device) -> None:
    """Print the seconds per epoch of every backbone."""
    sizes = data.num_users, data.num_items
    backbones: dict[str, Backbone] = {
        "MF": MF(*sizes),
        "GMF": GMF(*sizes),
        "NeuMF": NeuMF(*sizes),
        "LightGCN": LightGCN(*sizes, num_layers=2),
        "NGCF": NGCF(*sizes, hidden_dims=(64, 64)),
        "SGL": SGL(*sizes, num_layers=2),
        "NCL": NCL(*sizes, num_layers=2, warm_up_epochs=0),
        "RGCF": RGCF(*sizes, num_layers=2),
        "SGL, 1,024 drawn": SGL(*sizes, num_layers=2, num_contrasted=1024),
        "NCL, 1,024 drawn": NCL(*sizes, num_layers=2, warm_up_epochs=0, num_contrasted=1024),
        "RGCF, 1,024 drawn": RGCF(*sizes, num_layers=2, num_contrasted=1024),
    }
    show_times({name: (model, data) for name, model in backbones.items()}, rounds, device, "--backbones")


def time_objectives(data: Yelp, rounds: int, device: torch.device) -> None:
    """Print the seconds per epoch of every objective."""
    several = Yelp(str(data.data_dir), num_negatives=4)
    several.setup("fit")
    choices: dict[str, tuple[Yelp, dict[str, Any]]] = {
        "bpr": (data, {}),
        "bce": (data, {"objective": "bce"}),
        "bpr, hardest of 4": (several, {"negatives": "hardest"}),
        "softmax, shared": (data, {"objective": "softmax"}),
        "softmax, in-batch": (data, {"objective": "softmax", "negatives": "in-batch"}),
        "softmax, 4 of its own": (several, {"objective": "softmax", "negatives": "uniform"}),
    }
    fits: dict[str, tuple[Backbone, Yelp]] = {}
    for backbone in (LightGCN, MF):
        for name, (batches, arguments) in choices.items():
            model: Backbone = backbone(data.num_users, data.num_items, **arguments)
            fits[f"{backbone.__name__}, {name}"] = (model, batches)
    show_times(fits, rounds, device, "--objectives")


def show_times(fits: dict[str, tuple[Backbone, Yelp]], rounds: int, device: torch.device, option: str) -> None:
    """Let models take turns with an epoch each, and print their seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    for _ in range(rounds):
        for name, (model, batches) in fits.items():
            seconds[name].append(trainer_epoch(model, batches, device))
    title = f"benchmarks/epoch.py {option} on {device}"
    table = Table("Yelp, batch 1024", "seconds per epoch: median", "min", "max", title=title)
    for name, times in seconds.items():
        table.add_row(name, *(f"{value:.2f}" for value in (median(times), min(times), max(times))))
    Console().print(table)


def main() -> None:
    """Run the rounds and print the medians and their ratios."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/yelp", help="folder with Yelp in RLMRec's layout")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is timed")
    parser.add_argument("--backbones", action="store_true", help="time every backbone instead")
    parser.add_argument("--objectives", action="store_true", help="time every objective instead")
    add_accelerator(parser)
    arguments = parser.parse_args()
    device = chosen_device(arguments.accelerator)
    keep_freed_memory()  # as the command line does
    data = Yelp(arguments.data_dir)
    data.setup()
    if arguments.backbones:
        time_backbones(data, arguments.rounds, device)
        return
    if arguments.objectives:
        time_objectives(data, arguments.rounds, device)
        return
    ours = LightGCN(data.num_users, data.num_items)
    theirs = LGConvLightGCN(data.num_users, data.num_items)
    for model in (ours, theirs):
        model.set_graph(data.train_users, data.train_items)
    bare_epoch(ours, data, device)  # warm-up
    seconds: dict[str, list[float]] = {"ours": [], "bare loop": [], "LGConv": []}
    for _ in range(arguments.rounds):
        for _ in range(3):
            seconds["ours"].append(trainer_epoch(ours, data, device))
            seconds["bare loop"].append(bare_epoch(ours, data, device))
        seconds["LGConv"].append(trainer_epoch(theirs, data, device))
    table = Table("LightGCN on Yelp", "seconds per epoch: median", "min", "max", "of ours", title="benchmarks/epoch.py")
    for name, times in seconds.items():
        ratio = median(times) / median(seconds["ours"])
        table.add_row(name, *(f"{value:.2f}" for value in (median(times), min(times), max(times))), f"{ratio:.2f}x")
    Console().print(table)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"ours is {median(seconds['LGConv']) / median(seconds['ours']):.1f}x faster than LGConv (wanted: 15x)")
    print(
        f"and takes {median(seconds['ours']) / median(seconds['bare loop']):.2f}x the bare loop (wanted: at most 1.3x)"
    )


if __name__ == "__main__":
    main()
