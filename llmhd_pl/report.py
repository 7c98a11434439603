"""What denoising did: ``llmhd report RUN_WITHOUT RUN_WITH``, with the folders of two ``llmhd fit`` runs.

Prints the test metrics of both runs side by side, some of the questions and answers of the judge, and some preferences
before and after a revision. Saves a picture, ``report.png``, in the second folder: the test metrics of both runs, and
how many of the easy, hard and noisy samples are dropped (``NoiseAudit`` knows which is which).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from llmhd_pl.denoising.store import CANDIDATE, NOISE

KINDS = ("easy", "hard", "noise")
COLORS = ("tab:blue", "tab:orange", "tab:red")
NOISE_KIND = KINDS.index("noise")


def read_test(folder: Path) -> dict[str, float]:
    """Return the test metrics of a run; none if it was not tested.

    Args:
        folder: The folder of the run.

    Raises:
        FileNotFoundError: If the folder has no ``metrics.csv``.
    """
    table: Any = pd.read_csv(folder / "metrics.csv")
    rows = table[[name for name in table if name.startswith("test/")]].dropna(how="all")
    return {} if rows.empty else {name: float(value) for name, value in rows.iloc[-1].items()}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file; none if there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def kinds(audit: np.ndarray) -> tuple[str, ...]:
    """Return the names of the kinds 0, 1 and 2.

    Args:
        audit: The kind of each sample. Data that only knows which samples are noise has no hard ones; what is not noise
            is then not called easy.
    """
    return KINDS if (audit == 1).any() else ("not noise", *KINDS[1:])


def print_metrics(console: Console, without: Path, with_: Path) -> None:
    """Print the test metrics of both runs."""
    table = Table("test", without.name, with_.name, "gain", title="What denoising gained")
    before, after = read_test(without), read_test(with_)
    for folder, metrics in ((without, before), (with_, after)):
        if not metrics:
            console.print(
                f"{folder / 'metrics.csv'} has no test metrics: the run has not ended (llmhd fit tests then), or your "
                "own code did not call trainer.test(...)."
            )
    for name in [name for name in before if name in after]:
        gain = after[name] / before[name] - 1 if before[name] else float("nan")
        table.add_row(name.removeprefix("test/"), f"{before[name]:.4f}", f"{after[name]:.4f}", f"{gain:+.1%}")
    if table.rows:
        console.print(table)


def print_judgements(console: Console, folder: Path, count: int = 8) -> None:
    """Print some suspicious samples: what the judge was told, what it answered, what was decided, and the truth."""
    preferences = {row["user"]: row.get("after", "") for row in read_lines(folder / "preferences.jsonl")}
    rows = [row for row in read_lines(folder / "judgements.jsonl") if row["score"] is not None]
    kept, dropped = ([row for row in rows if row["kept"] is keep][: count // 2] for keep in (True, False))
    audit = np.load(folder / "audit.npz")["kind"] if (folder / "audit.npz").is_file() else None
    names = () if audit is None else kinds(audit)
    table = Table("preference", "item", "score", "decision", "truth", title="Suspicious samples of the last epoch")
    for row in kept + dropped:
        truth = "" if audit is None else names[audit[row["sample"]]]
        decision = "kept" if row["kept"] else "dropped"
        table.add_row(preferences.get(row["user"], ""), row["title"], f"{row['score']:.1f}", decision, truth)
    console.print(table)


def print_preferences(console: Console, folder: Path, count: int = 5) -> None:
    """Print some revisions of preferences with their causes or, if there are none, some preferences."""
    revisions = [row for row in read_lines(folder / "preferences.jsonl") if row["cause"] == "revision"]
    changed = [row for row in revisions if row.get("before") != row.get("after")]
    if not revisions:
        summaries = [row for row in read_lines(folder / "preferences.jsonl") if "after" in row]
        table = Table("user", "preference", title=f"{min(count, len(summaries))} of {len(summaries)} preferences")
        for row in summaries[:count]:
            table.add_row(str(row["user"]), row["after"])
        console.print(table)
        return
    shown = changed[:count]
    table = Table("before", "because of", "after", title=f"{len(shown)} of {len(revisions)} revised preferences")
    for row in shown:
        causes = [f"{word}: {', '.join(row[word][:3])}" for word in ("disliked", "liked") if word in row]
        table.add_row(row.get("before", ""), "; ".join(causes), row.get("after", ""))
    console.print(table)


def plot(without: Path, with_: Path) -> Path:
    """Draw ``report.png``: what was gained, and what was dropped.

    Args:
        without: The folder of a run without denoising.
        with_: The folder of a run with ``NoiseAudit``.

    Returns:
        The path of the picture, in the second folder.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    plot_gain(left, without, with_)
    plot_dropped(right, with_)
    path = with_ / "report.png"
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def plot_gain(axes: Any, without: Path, with_: Path) -> None:
    """Draw the test metrics of both runs as bars, with the gain above each pair."""
    before, after = read_test(without), read_test(with_)
    names = sorted(before.keys() & after.keys(), key=lambda name: (name.partition("@")[0], len(name), name))
    places = np.arange(len(names))
    for offset, metrics, folder, color in ((-0.2, before, without, "silver"), (0.2, after, with_, "tab:blue")):
        axes.bar(places + offset, [metrics[name] for name in names], 0.4, label=folder.name, color=color)
    for place, name in zip(places, names, strict=True):
        if before[name]:
            top = max(before[name], after[name])
            axes.text(place, top, f"{after[name] / before[name] - 1:+.0%}", ha="center", va="bottom")
    axes.set_xticks(places, [name.removeprefix("test/") for name in names])
    axes.margins(y=0.12)
    axes.set(title="What was gained (test)")
    axes.legend(loc="upper left")


def plot_dropped(axes: Any, folder: Path) -> None:
    """Draw, for each kind of sample that the data knows, how many are dropped after the last epoch."""
    audit = np.load(folder / "audit.npz")
    dropped = np.isin(audit["status"], (NOISE, CANDIDATE))
    kind_of = audit["kind"]
    present = [number for number in range(len(KINDS)) if (kind_of == number).any()]
    for place, kind in enumerate(present):
        color, chosen = COLORS[kind], kind_of == kind
        number, out = int(chosen.sum()), int((chosen & dropped).sum())
        axes.barh(place, number, color=color, alpha=0.25)
        axes.barh(place, out, color=color)
        axes.text(number, place, f" {out:,} of {number:,} dropped ({out / number:.0%})", va="center")
    axes.set_yticks(range(len(present)), [kinds(kind_of)[kind] for kind in present])
    axes.set_xlim(0, 1.6 * max(int((kind_of == kind).sum()) for kind in present))  # room for the texts
    share = f"{(kind_of[dropped] == NOISE_KIND).mean():.0%} of it is noise" if dropped.any() else "nothing"
    axes.set(xlabel="training interactions", title=f"What was dropped: {share}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print everything and draw the picture.

    Args:
        arguments: The arguments; None takes those of the process.
    """
    parser = argparse.ArgumentParser(
        "llmhd report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("without", type=Path, help="folder of a run without denoising")
    parser.add_argument("with_", type=Path, metavar="with", help="folder of a run with LLMHD and NoiseAudit")
    options = parser.parse_args(arguments)
    console = Console()
    print_judgements(console, options.with_)
    print_preferences(console, options.with_)
    print_metrics(console, options.without, options.with_)
    if (options.with_ / "audit.npz").is_file():
        console.print(f"Picture: {plot(options.without, options.with_)}")
    else:
        console.print("No picture: it needs NoiseAudit in the run, and data that knows its noise.")


if __name__ == "__main__":
    main()
