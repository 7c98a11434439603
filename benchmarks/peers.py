"""Time our backbones beside RecBole's (Zhao et al., CIKM 2021), on the same data, one after the other.

    pip install --no-deps --target .peers -r benchmarks/peers.txt
    PYTHONPATH=.peers OMP_NUM_THREADS=1 python benchmarks/peers.py --data_dir data/yelp

Each trains epochs with batches of 1024, embeddings of 64 and BPR; the two take turns, so that a machine that changes
its speed changes it for both, and the first epoch of each is not counted. RecBole's SGL contrasts with all nodes. Ours
run under the Trainer with its progress bar, RecBole's under its own trainer. The evaluation is Recall and NDCG at 10
over all items, of the validation split.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from devices import add_accelerator, chosen_device, timed
from epoch import trainer_epoch
from pytorch_lightning import Trainer
from rich.console import Console
from rich.table import Table
from scipy.sparse import dok_matrix
from torch import Tensor

from llmhd_pl.backbones import MF, NGCF, SGL, Backbone, LightGCN
from llmhd_pl.datamodules import Yelp
from llmhd_pl.memory import keep_freed_memory

PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "MF": ("BPR", {}),
    "LightGCN": ("LightGCN", {"n_layers": 2, "reg_weight": 1e-4, "require_pow": True}),
    "NGCF": ("NGCF", {"hidden_size_list": [64, 64]}),
    "SGL": ("SGL", {"n_layers": 2, "type": "ED"}),
    "SGL, num_contrasted 1024": ("SGL", {"n_layers": 2, "type": "ED"}),
}
"""RecBole's name of each backbone, and its settings."""


def ours(data: Yelp) -> dict[str, Backbone]:
    """Our models, with the sizes that the peers have."""
    sizes = data.num_users, data.num_items
    return {
        "MF": MF(*sizes, ks=(10,)),
        "LightGCN": LightGCN(*sizes, num_layers=2, ks=(10,)),
        "NGCF": NGCF(*sizes, hidden_dims=(64, 64), ks=(10,)),
        "SGL": SGL(*sizes, num_layers=2, ks=(10,)),
        "SGL, num_contrasted 1024": SGL(*sizes, num_layers=2, num_contrasted=1024, ks=(10,)),
    }


def our_epoch(model: Backbone, data: Yelp, device: torch.device) -> tuple[float, float]:
    """Return the seconds of an epoch, and of a validation."""
    trained = trainer_epoch(model, data, device)
    validating = Trainer(
        accelerator=device.type, devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    return trained, timed(lambda: validating.validate(model, data, verbose=False), device)


def compared(name: str, ours: list[float], theirs: list[float]) -> tuple[str, ...]:
    """Return a row of the table: the medians and their ratio."""
    one, other = median(ours), median(theirs)
    return name, f"{one:.2f}", f"{other:.2f}", f"{other / one:.1f}x"


def write_atomic(data: Yelp, folder: Path) -> None:
    """Write the three splits as RecBole's files of a given split."""
    train = torch.stack([data.train_users, data.train_items], dim=1)
    splits: dict[str, Tensor] = {"train": train, "valid": data.interactions.valid, "test": data.interactions.test}
    (folder / "yelp").mkdir()
    for name, pairs in splits.items():
        lines = ["user_id:token\titem_id:token", *(f"{user}\t{item}" for user, item in pairs.tolist())]
        (folder / "yelp" / f"yelp.{name}.inter").write_text("\n".join(lines) + "\n")


def their_epoch(name: str, folder: Path, device: torch.device) -> Callable[[], tuple[float, float]]:
    """Return what trains RecBole's model for an epoch, evaluates it, and returns the seconds of both."""
    # RecBole 1.2.1 is older than NumPy 2 and SciPy 1.13, which have these under other names.
    for old, new in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        setattr(np, old, new)
    setattr(dok_matrix, "_update", lambda matrix, entries: matrix._dict.update(entries))  # noqa: B010, mypy would object
    from recbole.config import Config  # type: ignore[import-not-found]
    from recbole.data import create_dataset, data_preparation  # type: ignore[import-not-found]
    from recbole.utils import get_model, get_trainer, init_seed  # type: ignore[import-not-found]

    peer, settings = PEERS[name]
    config = Config(
        model=peer,
        dataset="yelp",
        config_dict={
            "data_path": str(folder),
            "benchmark_filename": ["train", "valid", "test"],
            "load_col": {"inter": ["user_id", "item_id"]},
            "train_batch_size": 1024,
            "eval_batch_size": 1024 * 20_000,  # pairs of users and items; RecBole divides by the items
            "embedding_size": 64,
            "metrics": ["Recall", "NDCG"],
            "topk": [10],
            "valid_metric": "NDCG@10",
            "eval_args": {"group_by": "user", "order": "RO", "mode": "full"},
            "use_gpu": device.type == "cuda",
            "show_progress": False,
            "checkpoint_dir": str(folder / "saved"),
            **settings,
        },
    )
    init_seed(config["seed"], config["reproducibility"])
    logging.disable(logging.WARNING)
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)
    model = get_model(config["model"])(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.eval_collector.data_collect(train)
    epochs = iter(range(1000))

    def run() -> tuple[float, float]:
        trained = timed(lambda: trainer._train_epoch(train, next(epochs), show_progress=False), device)
        return trained, timed(lambda: trainer.evaluate(valid, load_best_model=False, show_progress=False), device)

    return run


def main() -> None:
    """Let each pair take turns, and print the medians and their ratios."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/yelp", help="folder with Yelp in RLMRec's layout")
    parser.add_argument("--rounds", type=int, default=3, help="the epochs of each that are counted")
    parser.add_argument("--models", nargs="+", default=list(PEERS), choices=PEERS)
    add_accelerator(parser)
    arguments = parser.parse_args()
    device = chosen_device(arguments.accelerator)
    keep_freed_memory()  # as the command line does
    data = Yelp(arguments.data_dir)
    data.setup()
    models = ours(data)
    table = Table("Yelp, batch 1024", "ours, s", "RecBole 1.2.1, s", "ratio", title="benchmarks/peers.py")
    evaluations: tuple[list[float], list[float]] = [], []
    with tempfile.TemporaryDirectory() as folder:
        write_atomic(data, Path(folder))
        for name in arguments.models:
            theirs = their_epoch(name, Path(folder), device)
            times: tuple[list[float], list[float]] = [], []
            for round_ in range(arguments.rounds + 1):
                for number, (trained, evaluated) in enumerate((our_epoch(models[name], data, device), theirs())):
                    if round_ > 0:
                        times[number].append(trained)
                        evaluations[number].append(evaluated)
            table.add_row(*compared(f"{name}, an epoch", *times))
    table.add_row(*compared("evaluation of the validation split", *evaluations))
    Console().print(table)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
