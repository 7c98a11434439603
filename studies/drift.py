"""Study 3: do preferences drift when they are updated again and again?

    python studies/drift.py

Summarises the preferences of the readers of ``SyntheticCatalog``, whose tastes are known, and revises them ten times.
Every update tells of two books that the reader does not like and of two that the reader likes. With *correct* flags,
these are misclicks and books of the reader's tastes; with *wrong* flags, it is the other way round; *half* takes one of
each.

Measured after every update are the AUC of the reader's test books against books outside the tastes (quality), the share
of preferences that name the main taste, or of lists in which it is the most frequent one, and the share of pairs that
are on the same side of 5.5 as before the update and as at the beginning (consistency). The judges are the embedded one,
which writes texts, and ``LexicalScorer``, whose preferences are lists of items.

Writes ``docs/studies/drift.csv`` and ``docs/studies/drift.png``.
"""

import argparse
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from variance import OUTPUT

from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.datamodules.synthetic import TOPICS
from llmhd_pl.llm.judge import EmbeddedJudge
from llmhd_pl.llm.lexical import LexicalScorer
from llmhd_pl.llm.scorer import Preference, Scorer
from llmhd_pl.metrics import auc
from llmhd_pl.scale import FITTING

UPDATES, TOLD = 10, 2
NAMES = list(TOPICS)
FLAGS = {"correct": 1.0, "half": 0.5, "wrong": 0.0}  # the share of what an update tells that is true


class Readers:
    """Readers, their histories, and the pairs that preferences are judged by."""

    def __init__(self, number: int) -> None:
        self.data = SyntheticCatalog(number, books_per_reader=20, hard_share=0.3, misclick_share=0.4, seed=6)
        self.data.setup()
        self.train = torch.stack([self.data.train_users, self.data.train_items], dim=1)
        self.histories: dict[int, list[int]] = {}
        self.misclicks: dict[int, list[int]] = {}
        for (user, item), noise in zip(self.train.tolist(), self.data.noise_mask.tolist(), strict=True):
            self.histories.setdefault(user, []).append(item)
            if noise:
                self.misclicks.setdefault(user, []).append(item)
        topics, tastes = self.data.topics, self.data.tastes
        rng = random.Random(0)
        inside = {user: set(np.flatnonzero(np.isin(topics, tastes[user])).tolist()) for user in self.histories}
        outside = {user: set(range(len(topics))) - inside[user] for user in self.histories}
        self.liked = self.data.interactions.test
        others = [[user, rng.choice(sorted(outside[user]))] for user in self.liked[:, 0].tolist()]
        self.not_liked = torch.tensor(others)
        # Updates never tell of the books that preferences are judged by.
        for user, item in self.liked.tolist():
            inside[user].discard(item)
        for user, item in others:
            outside[user].discard(item)
        self.inside, self.outside = ({u: sorted(items) for u, items in side.items()} for side in (inside, outside))
        self.main = {
            user: Counter(topics[items][np.isin(topics[items], tastes[user])].tolist()).most_common(1)[0][0]
            for user, items in ((user, np.array(items)) for user, items in self.histories.items())
        }

    def names_main(self, user: int, preference: Preference) -> bool:
        """Return whether a preference names the main taste or, as a list, has it most often."""
        if isinstance(preference, str):
            return NAMES[self.main[user]] in preference
        return (
            bool(preference) and Counter(self.data.topics[preference].tolist()).most_common(1)[0][0] == self.main[user]
        )

    def told(self, user: int, truth: float, update: int) -> tuple[list[int], list[int]]:
        """Return the books that an update says the reader does not like and likes; other ones in every update."""
        rng = random.Random(f"{user} {update}")
        right = round(truth * TOLD)
        misclicks = self.misclicks.get(user) or self.outside[user]
        disliked = [rng.choice(misclicks) for _ in range(right)]
        disliked += [rng.choice(self.inside[user]) for _ in range(TOLD - right)]
        liked = [rng.choice(self.inside[user]) for _ in range(right)]
        liked += [rng.choice(self.outside[user]) for _ in range(TOLD - right)]
        return list(dict.fromkeys(disliked)), list(dict.fromkeys(liked))


def study(scorer: Scorer, readers: Readers, truth: float) -> list[dict[str, float]]:
    """Update ten times, and return a row for the beginning and one for each update."""
    preferences: dict[int, Preference] = scorer.summarize(readers.histories)
    pairs = torch.cat([readers.liked, readers.not_liked])
    rows: list[dict[str, float]] = []
    first = last = None
    for update in range(UPDATES + 1):
        if update:
            told = {user: readers.told(user, truth, update) for user in preferences}
            disliked, liked = ({user: part[side] for user, part in told.items()} for side in (0, 1))
            new = scorer.revise(preferences, disliked, liked)
            preferences |= new
        scores = scorer.score(preferences, pairs)
        known = ~scores.isnan()
        split = torch.arange(len(pairs)) < len(readers.liked)
        fits = scores >= FITTING
        first, last = (fits, fits) if first is None or last is None else (first, last)
        rows.append(
            {
                "update": update,
                "AUC": auc(scores[known & split], scores[known & ~split]),
                "main taste": float(np.mean([readers.names_main(*item) for item in preferences.items()])),
                "as before": float((fits == last)[known].float().mean()),
                "as in the beginning": float((fits == first)[known].float().mean()),
                "liked that fit": float(fits[known & split].float().mean()),
                "others that fit": float(fits[known & ~split].float().mean()),
                "size": float(np.mean([len(_words(preference)) for preference in preferences.values()])),
            }
        )
        last = fits
    return rows


def _words(preference: Preference) -> list[Any]:
    return list(preference.split() if isinstance(preference, str) else preference)


def main() -> None:
    """Run the study, print the result and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=100)
    readers = Readers(parser.parse_args().readers)
    scorers: Mapping[str, Scorer] = {"embedded judge": EmbeddedJudge(), "lexical": LexicalScorer()}
    rows = []
    for name, scorer in scorers.items():
        scorer.prepare(readers.data.interactions.items, readers.train)
        for flags, truth in track(FLAGS.items(), description=name):
            rows += [{"scorer": name, "flags": flags} | row for row in study(scorer, readers, truth)]
    table = pd.DataFrame(rows)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    table.to_csv(OUTPUT / "drift.csv", index=False, float_format="%.4f")
    shown = Table(*table.columns, title=f"{len(readers.histories)} readers")
    for row in table[table["update"].isin([0, 1, 3, 10])].itertuples(index=False):
        shown.add_row(row[0], row[1], f"{row[2]}", *(f"{value:.3f}" for value in row[3:]))
    Console(width=140).print(shown)
    plot(table)


def plot(table: pd.DataFrame) -> None:
    """Plot quality and consistency over the updates."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = ("AUC", "main taste", "as before", "as in the beginning")
    figure, panels = pyplot.subplots(2, len(columns), figsize=(16, 7), layout="constrained", squeeze=False)
    colors = dict(zip(FLAGS, ("tab:green", "tab:orange", "tab:red"), strict=True))
    for row, (scorer, group) in zip(panels, table.groupby("scorer", sort=False), strict=True):
        for axes, column in zip(row, columns, strict=True):
            for flags, part in group.groupby("flags", sort=False):
                axes.plot(part["update"], part[column], "o-", color=colors[str(flags)], label=f"{flags} flags")
            axes.set(title=f"{scorer}: {column}", xlabel="updates", ylim=(0, 1.02))
        row[0].legend()
    figure.savefig(OUTPUT / "drift.png", dpi=100)


if __name__ == "__main__":
    main()
