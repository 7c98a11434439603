"""What denoising did: ``llmhd report RUN_WITHOUT RUN_WITH``, with the folders of two ``llmhd fit`` runs.

Prints the test metrics of both runs side by side, some of the questions and answers of the judge, and some preferences
before and after a revision. Saves a picture, ``report.png``, in the second folder: how much the predictions of easy,
hard and noisy samples vary (``NoiseAudit`` knows which is which), and what was dropped and kept in each epoch.
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

KINDS = ("easy", "hard", "noise")
COLORS = ("tab:blue", "tab:orange", "tab:red")


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


def plot(folder: Path) -> Path:
    """Draw ``report.png``.

    Args:
        folder: The folder of a run with ``NoiseAudit``.

    Returns:
        The path of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    audit, log = np.load(folder / "audit.npz"), pd.read_csv(folder / "metrics.csv")
    log = log.dropna(subset=["denoise/dropped"])
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    variance, kind = audit["variance"], audit["kind"]
    known = np.isfinite(variance) & (variance > 0)
    low, high = np.quantile(variance[known], [0.001, 0.999]).tolist() if known.any() else (1.0, 10.0)  # one epoch
    bins = np.geomspace(low, high, 50)
    for number, (name, color) in enumerate(zip(kinds(kind), COLORS, strict=True)):
        chosen = variance[known & (kind == number)]
        if len(chosen):
            weights = np.full(len(chosen), 1 / len(chosen))
            label = f"{name} ({len(chosen):,})"
            left.hist(chosen, bins, weights=weights, histtype="step", linewidth=2, color=color, label=label)
    left.set(
        xscale="log", xlabel="variance of the prediction over the last epochs", ylabel="share of the samples",
        title="Do hard samples vary more than noise?",
    )  # fmt: skip
    if known.any():
        left.legend()
    else:
        left.text(0.5, 0.5, "not known after one epoch", ha="center", transform=left.transAxes)

    right.stackplot(
        log["epoch"], log["denoise/dropped"], log["denoise/hard"], labels=["dropped", "kept as hard"],
        colors=["tab:red", "tab:orange"], alpha=0.6,
    )  # fmt: skip
    right.set(xlabel="epoch", ylabel="samples", title="What was dropped and kept")
    shares = right.twinx()
    for name, style in (("precision", "-"), ("recall", "--")):
        shares.plot(log["epoch"], log[f"audit/dropped_is_noise_{name}"], f"k{style}", label=f"dropped is noise: {name}")
    shares.set(ylim=(0, 1.02), ylabel="share")
    handles = [*right.get_legend_handles_labels()[0], *shares.get_legend_handles_labels()[0]]
    right.legend(handles, [handle.get_label() for handle in handles], loc="lower right")
    path = folder / "report.png"
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


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
        console.print(f"Picture: {plot(options.with_)}")
    else:
        console.print("No picture: it needs NoiseAudit in the run, and data that knows its noise.")


if __name__ == "__main__":
    main()
