"""Study 4: what does denoising find and gain in other people's recommenders?

    PYTHONPATH=.clients python studies/clients.py --ml-100k data/ml-100k

Trains the models of ``examples/`` (RecTools, RePlay, PyG, two towers, DeepFM) on the book shop and on ml-100k with 20 %
random clicks planted, three times each: as they are, with the highest losses dropped, and with ``LexicalScorer`` as the
judge. The share that is dropped is the share that was planted. Settings were chosen for plain training, and all arms of
a client train for the same number of epochs. What is measured is the client's own metric on test data, and how many of
the dropped clicks are planted ones, against the share among all.

Every run is a line of ``docs/studies/clients.jsonl``; what has been run is not run again. Prints the
tables of ``docs/results/clients.md``. A client whose library is not installed is left out.
"""

import argparse
import importlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import ttest_rel

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from comparison import Clicks, Train, arms, book_shop  # noqa: E402

from llmhd_pl import AtomicFiles  # noqa: E402

RECORDS = ROOT / "docs" / "studies" / "clients.jsonl"
# The example of each client, its name there, and its epochs on the book shop and ml-100k. Learning rates and epochs of
# the sequence models were chosen without denoising, on a book shop of another seed and on a validation part of ml-100k.
CLIENTS = {
    "RecTools SASRec, softmax": ("rectools_sequences", "SASRec, softmax", 15, 10),
    "RecTools SASRec, BCE": ("rectools_sequences", "SASRec, BCE", 15, 10),
    "RecTools BERT4Rec, softmax": ("rectools_sequences", "BERT4Rec, softmax", 30, 20),
    "RePlay SasRec": ("replay_models", "RePlay SasRec", 15, 10),
    "RePlay TwoTower": ("replay_models", "RePlay TwoTower", 15, 10),
    "PyG LightGCN": ("pyg_lightgcn", "PyG LightGCN", 15, 15),
    "two towers, in-batch softmax": ("two_tower_softmax", "two towers", 15, 10),
    "DeepFM, labels": ("ctr_labels", "DeepFM", 8, 5),
}


def ml_100k(folder: str, seed: int) -> Clicks:
    """Ratings of 4 and 5 as clicks, a user's last fifth held out, and 20 % random clicks at random times between."""
    data = AtomicFiles(
        folder, rating_threshold=4, split="temporal", split_ratios=(0.8, 0.0, 0.2), noise_ratio=0.2, seed=seed
    )
    data.setup()
    source = data.interactions
    table = pd.read_csv(Path(folder) / "ml-100k.inter", sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    when = dict(
        zip(zip(table["user_id:token"], table["item_id:token"], strict=True), table["timestamp:float"], strict=True)
    )
    assert source.user_names is not None and source.item_names is not None
    pairs = zip(data.train_users.tolist(), data.train_items.tolist(), strict=True)
    times = np.array([when.get((source.user_names[user], source.item_names[item]), np.nan) for user, item in pairs])
    users, noise = data.train_users.numpy(), data.noise_mask.numpy()
    times[noise] = np.nan  # a planted click may be a rating below 4
    real = pd.Series(times).groupby(users)
    low, high = real.transform("min").to_numpy(), real.transform("max").to_numpy()
    random = np.random.default_rng(seed).random(len(times))
    times = np.where(noise, low + random * (high - low), times)
    return Clicks(
        data.num_users, data.num_items, data.train_users, data.train_items, torch.from_numpy(times), data.noise_mask,
        source.test, source.items,
    )  # fmt: skip


def measured(folder: str | None, clients: list[str], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """Run what has not been run yet."""
    done = {(row["data"], row["client"], row["arm"], row["seed"]) for row in records()}
    for seed in seeds:
        shops = {"book shop": book_shop(400, seed)}
        if folder is not None:
            shops["ml-100k"] = ml_100k(folder, seed)
        for name in clients:
            module, key, *epochs_of = CLIENTS[name]
            try:
                train: Train = importlib.import_module(module).CLIENTS[key]
            except ModuleNotFoundError as error:
                print(f"{name} is left out: {error}")
                continue
            for (data, clicks), epochs in zip(shops.items(), epochs_of, strict=False):
                for arm, denoise in arms(clicks, ramp_epochs=max(1, epochs // 3)).items():
                    if (data, name, arm, seed) in done:
                        continue
                    start = perf_counter()
                    outcome = train(clicks, denoise, epochs, seed)
                    row = {"data": data, "client": name, "arm": arm, "seed": seed, **outcome.measures}
                    if outcome.dropped is not None:
                        row |= {"dropped": int(outcome.dropped.sum()), "precision": outcome.precision}
                    yield row | {"base_rate": float(outcome.noise.double().mean()), "seconds": perf_counter() - start}


def records() -> list[dict[str, Any]]:
    """What has been run."""
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.exists() else []


def measures() -> pd.DataFrame:
    """The records in the order of the tables, with the client's measure as ``metric``."""
    rows = pd.DataFrame(records()).sort_values(["data", "seed"], kind="stable")
    rows["metric"] = rows.reindex(columns=["NDCG@10", "AUC"]).bfill(axis=1).iloc[:, 0]
    rows["client"] = pd.Categorical(rows["client"], categories=list(CLIENTS))
    return rows


def table() -> str:
    """Means and deviations over the seeds, in Markdown."""
    lines = [
        "| data | client | metric | plain | loss | judge | planted | of dropped: loss | of dropped: judge |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (data, client), group in measures().groupby(["data", "client"], observed=True):
        metric = group.pivot(index="seed", columns="arm", values="metric")
        found = group.pivot(index="seed", columns="arm", values="precision")
        measure = "AUC" if "AUC" in group and group["AUC"].notna().any() else "NDCG@10"
        cells = [f"{metric[arm].mean():.4f} ± {metric[arm].std():.4f}" for arm in ("plain", "loss", "judge")]
        shares = [f"{found[arm].mean():.0%} ± {found[arm].std():.0%}" for arm in ("loss", "judge")]
        lines.append(
            f"| {data} | {client} | {measure} | {' | '.join(cells)} | {group['base_rate'].mean():.0%} | "
            f"{' | '.join(shares)} |"
        )
    return "\n".join(lines) + "\n"


def gains() -> str:
    """Mean gains over the seeds with the p-values of paired t-tests, in Markdown."""
    pairs = (("judge", "plain"), ("loss", "plain"), ("judge", "loss"))
    lines = [
        f"| data | client | {' | '.join(f'{one} on {other}, p' for one, other in pairs)} |",
        "|---|---|---|---|---|",
    ]
    for (data, client), group in measures().groupby(["data", "client"], observed=True):
        metric = group.pivot(index="seed", columns="arm", values="metric")
        cells = [
            f"{(metric[one] / metric[other]).mean() - 1:+.1%}, {ttest_rel(metric[one], metric[other]).pvalue:.3f}"
            for one, other in pairs
        ]
        lines.append(f"| {data} | {client} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, record and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ml-100k", help="the folder with ml-100k.inter and ml-100k.item; without it, the shop alone")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for package in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(package).setLevel(logging.ERROR)
    for row in measured(arguments.ml_100k, arguments.clients, arguments.seeds):
        with RECORDS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
    print(table())
    print(gains())


if __name__ == "__main__":
    main()
