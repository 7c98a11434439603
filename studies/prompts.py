"""Study 2: how much do scores depend on the prompt?

    python studies/prompts.py

Asks one judge about the same pairs of readers and books in several ways and compares each way with the first one: the
rank correlation (Spearman), the share of pairs that change sides at 5.5, where an item begins to fit, the mean change
of the score, and the AUC of right interactions against misclicks, which says what the change costs. The ways are:
another order of the history that the preference is summarised from, books without their titles, another wording of the
questions, the scale from high to low, a score that is written instead of expected, and weights that are not quantised.

The judge is the embedded one, on ``SyntheticCatalog``; ``--model`` takes another one, a hub id or a folder. Writes
``docs/studies/prompts.csv`` and ``docs/studies/prompts.png``.
"""

import argparse
import random
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor
from variance import OUTPUT

from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.llm import prompts
from llmhd_pl.llm.judge import FOLDER
from llmhd_pl.llm.quantized import QuantizedLLM
from llmhd_pl.metrics import auc
from llmhd_pl.scale import FITTING

BOOKS = (Path(prompts.__file__).parent / "templates" / "books.toml").read_text(encoding="utf-8")


def reworded() -> str:
    """Return the prompts about books with the questions in other words."""
    changes = {
        "The reader's taste:": "What this reader likes:",
        "The book:": "Here is the book:",
        "Your rating of this book as <s>N</s>:": "Now rate it as <s>N</s>:",
        "A reader has chosen these books:": "These are books that somebody has read:",
        "You will be shown a reader's taste and one book. Rate how well the book fits the taste, on this scale:": (
            "How well does a book fit a reader? You are given the reader's taste and the book. The scale:"
        ),
    }
    text = BOOKS
    for old, new in changes.items():
        if old not in text:
            raise ValueError(f"The prompts have no {old!r} to be reworded.")
        text = text.replace(old, new)
    return text


def upside_down() -> str:
    """Return the prompts about books with the highest level of the scale first."""
    levels = re.findall(r"^\d+: .*\n", BOOKS, re.MULTILINE)
    if len(levels) != 10:
        raise ValueError(f"The scale of the prompts has {len(levels)} levels.")
    return BOOKS.replace("".join(levels), "".join(reversed(levels)))


def scores(
    data: SyntheticCatalog,
    pairs: Tensor,
    histories: Mapping[int, Sequence[int]],
    texts: Sequence[Mapping[str, str]],
    **arguments: Any,
) -> Tensor:
    """Return the scores of pairs, asked in one way."""
    settings: dict[str, Any] = {"history_tokens": 512, "prompts": "books", "calibrate": False} | arguments
    judge = QuantizedLLM(**settings)
    judge.prepare(texts, torch.stack([data.train_users, data.train_items], dim=1))
    return judge.score(judge.summarize(histories), pairs)


def main() -> None:
    """Run the study, print the result and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(FOLDER), help="hub id or folder; by default the embedded judge")
    parser.add_argument("--readers", type=int, default=150)
    arguments = parser.parse_args()
    data = SyntheticCatalog(arguments.readers, books_per_reader=20, hard_share=0.3, misclick_share=0.4, seed=5)
    data.setup()
    pairs = torch.stack([data.train_users, data.train_items], dim=1)
    histories: dict[int, list[int]] = {}
    for user, item in pairs.tolist():
        histories.setdefault(user, []).append(item)
    texts = data.interactions.items
    rng = random.Random(0)
    shuffled = [{user: rng.sample(items, len(items)) for user, items in histories.items()} for _ in range(2)]
    untitled = [{"description": fields["description"]} for fields in texts]

    with tempfile.TemporaryDirectory() as folder:
        files = {"reworded": reworded(), "scale upside down": upside_down()}
        paths = {name: str(Path(folder) / f"{number}.toml") for number, name in enumerate(files)}
        for name, text in files.items():
            Path(paths[name]).write_text(text, encoding="utf-8")
        ways: dict[str, tuple[Mapping[int, Sequence[int]], Sequence[Mapping[str, str]], dict[str, Any]]] = {
            "as it is": (histories, texts, {}),
            "history in another order": (shuffled[0], texts, {}),
            "and in yet another": (shuffled[1], texts, {}),
            "books without their titles": (histories, untitled, {}),
            "questions reworded": (histories, texts, {"prompts": paths["reworded"]}),
            "scale upside down": (histories, texts, {"prompts": paths["scale upside down"]}),
            "prompts of no domain": (histories, texts, {"prompts": "neutral"}),
            "score is written": (histories, texts, {"scoring": "generate"}),
            "not quantised": (histories, texts, {"quantization": "none"}),
        }
        given = {
            name: scores(data, pairs, history, fields, model=arguments.model, **more)
            for name, (history, fields, more) in ways.items()
        }

    reference = given["as it is"]
    rows = []
    for name, values in given.items():
        both = ~reference.isnan() & ~values.isnan()
        one, two = reference[both], values[both]
        answered = ~values.isnan()
        rows.append(
            {
                "way": name,
                "answered": float(answered.float().mean()),
                "rank correlation": float(spearmanr(one, two).statistic) if both.sum() > 1 else float("nan"),
                "flips": float(((one >= FITTING) != (two >= FITTING)).float().mean()),
                "move": float((one - two).abs().mean()),
                "fits": float((values[answered] >= FITTING).float().mean()),
                "AUC": auc(values[answered & ~data.noise_mask], values[answered & data.noise_mask]),
            }
        )
    table = pd.DataFrame(rows)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    table.to_csv(OUTPUT / "prompts.csv", index=False, float_format="%.4f")
    shown = Table(*table.columns, title=f"{len(pairs):,} pairs of {arguments.readers} readers")
    for row in table.itertuples(index=False):
        shown.add_row(row[0], *(f"{value:.3f}" for value in row[1:]))
    Console().print(shown)
    plot(given, table)


def plot(given: Mapping[str, Tensor], table: pd.DataFrame) -> None:
    """Plot the scores of every way against those of the first one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    others = [name for name in given if name != "as it is"]
    figure, panels = pyplot.subplots(2, -(-len(others) // 2), figsize=(15, 7), layout="constrained", squeeze=False)
    for axes, name in zip(panels.flat, others, strict=False):
        axes.hist2d(given["as it is"].numpy(), given[name].nan_to_num(0).numpy(), bins=40, range=[(1, 10)] * 2, cmin=1)
        axes.axvline(FITTING, color="k", linewidth=0.5)
        axes.axhline(FITTING, color="k", linewidth=0.5)
        row = table[table["way"] == name].iloc[0]
        axes.set(
            title=f"{name}\nflips {row['flips']:.0%}, rank correlation {row['rank correlation']:.2f}",
            xlabel="score, as it is", ylabel=f"score, {name}",
        )  # fmt: skip
    figure.savefig(OUTPUT / "prompts.png", dpi=100)


if __name__ == "__main__":
    main()
