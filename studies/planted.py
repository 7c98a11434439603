"""Study 5: does an audit find the share of noise that was planted?

    python studies/planted.py --data-root data --model sentence-transformers/all-MiniLM-L6-v2
    python studies/planted.py --data yelp --seeds 1 --scorers "states aligned" --language-model MODEL

Plants 0, 5, 10, 20 and 40 % noise into the training split of four data sets, random pairs or active users on popular
items, with three seeds, and audits each. The estimate is compared with what it should be: the planted share, and of the
rest the share that is estimated where nothing was planted. No setting was chosen by these runs, but for the tail of
``llmhd_pl/audit/chance.py``, for which seed 0 with one kind of noise had been looked at.

Every audit is a line of ``docs/studies/planted.jsonl``; what has been run is not run again. Prints the tables of
``docs/results/audit.md``.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from llmhd_pl import (
    AmazonBooks,
    AtomicFiles,
    EncoderScorer,
    InteractionDataModule,
    LexicalScorer,
    QuantizedLLM,
    Scorer,
    Steam,
    Yelp,
)
from llmhd_pl.audit.measure import audit

RECORDS = Path(__file__).parents[1] / "docs" / "studies" / "planted.jsonl"
DATA: dict[str, type[InteractionDataModule]] = {
    "yelp": Yelp,
    "amazon-books": AmazonBooks,
    "steam": Steam,
    "ml-100k": AtomicFiles,
}
SCORERS = ["MiniLM aligned", "MiniLM", "lexical", "states aligned", "likelihood"]
PLANTED = [(0.0, "random"), *((ratio, source) for ratio in (0.05, 0.1, 0.2, 0.4) for source in ("random", "popular"))]
KEYS = ["data", "scorer", "source", "ratio", "seed"]


def make_scorer(name: str, model: str, language_model: str, cache: str) -> Scorer:
    """One of the judges: the first two learn nothing, and the last two are language models."""
    match name:
        case "lexical":
            return LexicalScorer()
        case "MiniLM":
            return EncoderScorer(model, align=False, cache_dir=cache)
        case "MiniLM aligned":
            return EncoderScorer(model, cache_dir=cache)
        case "states aligned":
            return EncoderScorer(language_model, quantization="none", cache_dir=cache)
        case _:
            return QuantizedLLM(language_model, quantization="none", scoring="likelihood")


def cells(data: list[str], judges: list[str], seeds: int) -> Iterator[tuple[str, str, str, float, int]]:
    """All audits, the quickest sets of data first."""
    for scorer in judges:
        for seed in range(seeds):
            for name in data:
                for ratio, source in PLANTED:
                    yield name, scorer, source, ratio, seed


def run(name: str, scorer: Scorer, source: Any, ratio: float, seed: int, root: str) -> dict[str, Any]:
    """One audit, and how it compares with what was planted."""
    make: Any = DATA[name]
    data = make(f"{root}/{name}", noise_ratio=ratio, noise_source=source, seed=seed)
    data.setup("fit")
    start = perf_counter()
    found = audit(scorer, data.interactions.items, data.train_users.numpy(), data.train_items.numpy(), name, seed=seed)
    seconds = perf_counter() - start
    there, noise = ~np.isnan(found.p_values), data.noise_mask.numpy()
    p, planted = found.p_values[there], noise[there]
    cuts = [
        {
            "above": cut.above,
            "dropped": cut.dropped,
            "right": cut.right,
            "planted": float(planted[p > cut.above].mean()),
        }
        for cut in found.cuts
    ]
    return {
        "judged": found.share.size,
        "planted": float(planted.mean()),
        "share": found.share.share,
        "low": found.share.low,
        "high": found.share.high,
        "auc": float(1 - p.mean()),
        "auc_not_planted": float(1 - p[~planted].mean()),
        "can_tell": found.can_tell,
        "cuts": cuts,
        "seconds": seconds,
    }


def read() -> pd.DataFrame:
    """The records, with what each estimate should be and by how much it is off."""
    lines = RECORDS.read_text().splitlines() if RECORDS.is_file() else []
    table = pd.DataFrame([json.loads(line) for line in lines])
    if table.empty:
        return table
    clean = table[table.ratio == 0].set_index(["data", "scorer", "seed"])["share"].rename("without")
    table = table.join(clean, on=["data", "scorer", "seed"])
    table["expected"] = table.planted + table.without * (1 - table.planted)
    table["error"] = table.share - table.expected
    return table


def show(table: pd.DataFrame) -> None:
    """Print the tables of ``docs/results/audit.md``."""
    means = ["planted", "share", "low", "high", "error", "auc", "auc_not_planted", "can_tell"]
    grouped = table.groupby(["scorer", "data", "source", "ratio"], sort=False)
    print("| judge | data | noise | planted | estimate | interval | error, mean (largest) | AUC | can tell |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (scorer, data, source, ratio), group in grouped:
        mean = group[means].mean()
        noise = "none" if ratio == 0 else f"{ratio:.0%} {source}"
        error = "" if ratio == 0 else f"{mean.error:+.3f} ({group.error.abs().max():.3f})"
        print(
            f"| {scorer} | {data} | {noise} | {mean.planted:.3f} | {mean['share']:.3f} "
            f"| {mean.low:.3f} to {mean.high:.3f} "
            f"| {error} | {mean.auc:.3f} | {int(group.can_tell.sum())} of {len(group)} |"
        )
    print(
        "\n| judge | data | noise | expected to fit | dropped | planted among the dropped |\n|---|---|---|---|---|---|"
    )
    some = table[(table.ratio == 0.2) & table.can_tell]
    for (scorer, data, source), group in some.groupby(["scorer", "data", "source"], sort=False):
        rows = pd.DataFrame([cut for cuts in group.cuts for cut in cuts])
        rows["target"] = rows.right.round(2)
        for target, cut in rows.groupby("target"):
            print(
                f"| {scorer} | {data} | 20% {source} | {target:.0%} | {cut.dropped.mean():,.0f} "
                f"| {cut.planted.mean():.0%} |"
            )


def summarise(table: pd.DataFrame) -> None:
    """Print how far off the estimates are, where the judge can tell and where it says that it cannot."""
    planted = table[(table.ratio > 0) & table.error.notna()]
    for scorer, group in planted.groupby("scorer", sort=False):
        for can_tell, some in group.groupby("can_tell", sort=False):
            close = int((some.error.abs() <= 0.03).sum())
            which = f"{scorer}, {'can' if can_tell else 'cannot'} tell"
            errors = f"{some.error.min():+.3f} to {some.error.max():+.3f}"
            print(f"* {which}: {len(some)} audits, error {errors}, {close} within .03")
    print()


def main() -> None:
    """Run what has not been run, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data", help="the folder with the four folders of data")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="the sentence encoder")
    parser.add_argument(
        "--language-model", default="", help="the model of the judges 'states aligned' and 'likelihood'"
    )
    parser.add_argument("--cache", default="runs/judge_cache", help="the folder of its cache")
    parser.add_argument("--data", nargs="+", default=["ml-100k", "amazon-books", "yelp", "steam"], choices=DATA)
    parser.add_argument("--scorers", nargs="+", default=["MiniLM aligned", "MiniLM", "lexical"], choices=SCORERS)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    judges = {name: make_scorer(name, options.model, options.language_model, options.cache) for name in options.scorers}
    table = read()
    done = set() if table.empty else set(table[KEYS].itertuples(index=False, name=None))
    for name, scorer, source, ratio, seed in cells(options.data, options.scorers, options.seeds):
        if (name, scorer, source, ratio, seed) in done:
            continue
        judge = judges[scorer]
        if isinstance(judge, EncoderScorer):
            judge.seed = seed
        found = run(name, judge, source, ratio, seed, options.data_root)
        record = dict(zip(KEYS, (name, scorer, source, ratio, seed), strict=True)) | found
        with RECORDS.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{name}, {scorer}, {ratio:.0%} {source}, seed {seed}: {found['share']:.3f}", file=sys.stderr, flush=True)
    table = read()
    summarise(table)
    show(table)


if __name__ == "__main__":
    main()
