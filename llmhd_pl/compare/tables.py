"""The tables and the plot of a grid."""

import re
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from scipy.stats import ttest_rel

from llmhd_pl.compare.grid import Grid
from llmhd_pl.compare.records import finished
from llmhd_pl.terminal import shown

METRICS = ["recall@5", "recall@10", "ndcg@5", "ndcg@10"]
"""The metrics of the tables; without a cut-off of 10, the largest takes its place."""
_ORIGIN = {"data", "data_digest", "code_digest", "commit", "versions", "device", "seconds"}
"""What a record says about where its figures come from, which the tables leave out."""


def table(grid: Grid) -> pd.DataFrame:
    """Return a row per finished run of a grid."""
    done = finished(grid)
    rows = [vars(run) | {key: record[key] for key in record if key not in vars(run)} for run, record in done.items()]
    return pd.DataFrame([{key: row[key] for key in row if key not in _ORIGIN} for row in rows])


def main_metric(runs: pd.DataFrame) -> str:
    """Return the column by which methods are compared.

    Args:
        runs: A row per run, as ``table`` returns them.

    Returns:
        The test NDCG@10; without a cut-off of 10 that of the largest, and without a test what validation watched.
    """
    cuts = [int(found[1]) for name in runs if (found := re.fullmatch(r"ndcg@(\d+)", str(name)))]
    if not cuts:
        return next(name for name in map(str, runs) if name.startswith("valid "))
    return f"ndcg@{10 if 10 in cuts else max(cuts)}"


def _short(text: str) -> str:
    """Leave out the zero before the point of each number below 1."""
    return re.sub(r"(?<!\d)0\.", ".", text)


def summary(runs: pd.DataFrame, reference: str | None = None) -> pd.DataFrame:
    """Return means and standard deviations over the seeds, and paired t-tests against a reference method.

    Args:
        runs: A row per run, as ``table`` returns them.
        reference: The method; None leaves the test out.

    Returns:
        A row per method, backbone and noise ratio, in the grid's order. All cells are texts, as they are printed. What
        no run has measured is left out, and so is the p-value of differences that are all the same. A gain is that of
        the seeds that both have, and says how many these are if one of the two has more.
    """
    rows, main = [], main_metric(runs)
    cut = main.partition("@")[2]
    metrics = [name for name in (metric.replace("@10", f"@{cut}") for metric in METRICS) if name in runs]
    validated = [name for name in map(str, runs) if name.startswith("valid ")]
    for (noise, backbone, method), group in runs.groupby(["noise_ratio", "backbone", "method"], sort=False):
        row = {"noise": f"{noise:g}", "backbone": backbone, "method": method, "seeds": str(len(group))}
        for metric in metrics:
            deviation = f" ± {group[metric].std():.4f}" if len(group) > 1 else ""
            row[metric] = _short(f"{group[metric].mean():.4f}{deviation}")
        for metric in validated:
            row[metric] = _short(f"{group[metric].mean():.4f}")
        if "chosen epoch" in group:
            row["chosen epochs"] = ", ".join(f"{epoch:g}" for epoch in group["chosen epoch"])
        if "best epoch" in group and f"best {main}" in group:
            row["best epochs"] = ", ".join(f"{epoch:g}" for epoch in group["best epoch"])
            row[f"{main} there"] = f"{group[f'best {main}'].mean():.4f}".replace("0.", ".")
        if reference is not None:
            others = runs[(runs.noise_ratio == noise) & (runs.backbone == backbone) & (runs.method == reference)]
            pair = group.merge(others, on="seed", suffixes=("", " reference"))
            row["gain"] = row["p"] = ""
            if method != reference and len(pair):
                ours, theirs = pair[main], pair[f"{main} reference"]
                most = max(len(group), len(others))
                common = "" if len(pair) == most else f" ({len(pair)} of {most} seeds)"
                row["gain"] = f"{ours.mean() / theirs.mean() - 1:+.1%}{common}"
                if (ours - theirs).nunique() > 1:
                    row["p"] = f"{ttest_rel(ours, theirs).pvalue:.3f}"
        rows.append(row)
    return pd.DataFrame(rows)


def write(grid: Grid) -> pd.DataFrame:
    """Write ``GRID.md``, ``.csv``, ``.tex`` and ``.png``, and a row per run to ``GRID-runs.csv``, in the output folder.

    Args:
        grid: The grid.

    Returns:
        Its ``summary``; empty if no run is finished.
    """
    path, runs = grid.output / grid.name, table(grid)
    if runs.empty:
        return runs
    short = summary(runs, grid.reference)
    runs.to_csv(f"{path}-runs.csv", index=False)
    short.to_csv(f"{path}.csv", index=False)
    lines = ["| " + " | ".join(short.columns) + " |", "|" + "---|" * len(short.columns)]
    lines += ["| " + " | ".join(row) + " |" for row in short.itertuples(index=False)]
    Path(f"{path}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    escaped = short.replace({"±": r"$\\pm$", "%": r"\\%"}, regex=True)
    lines = [" & ".join(row) + r" \\" for row in [tuple(escaped.columns), *escaped.itertuples(index=False)]]
    body = "\n".join([r"\begin{tabular}{" + "l" * len(short.columns) + "}", *lines, r"\end{tabular}"])
    Path(f"{path}.tex").write_text(body + "\n", encoding="utf-8")
    _plot(runs, Path(f"{path}.png"))
    return short


def _plot(runs: pd.DataFrame, path: Path) -> None:
    """Draw the main metric with its deviation over the seeds, by noise ratio or, if there is only one, by method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    main = main_metric(runs)
    label = f"{'' if main.startswith('valid ') else 'test '}{main}".replace("ndcg", "NDCG")
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    telling = [column for column in ("method", "backbone") if runs[column].nunique() > 1] or ["method"]
    groups = {", ".join(map(str, key)): group for key, group in runs.groupby(telling, sort=False)}
    if runs["noise_ratio"].nunique() == 1:
        figure.set_figheight(max(4.5, 1 + 0.22 * len(groups)))  # inches; a line of text takes 0.2
        means, deviations = ([group[main].agg(what) for group in groups.values()] for what in ("mean", "std"))
        axes.errorbar(means, list(groups), xerr=pd.Series(deviations).fillna(0), fmt="o", capsize=3)
        axes.invert_yaxis()
        axes.grid(axis="y", alpha=0.3)
        axes.set(xlabel=label, title=f"noise ratio {runs['noise_ratio'].iloc[0]:g}")
    else:
        ratios = sorted(runs["noise_ratio"].unique())
        apart = 0.01 * (ratios[-1] - ratios[0])  # so that the bars of a ratio do not hide each other
        colours, markers = pyplot.get_cmap("tab20"), "osD^v"
        for place, (name, group) in enumerate(groups.items()):
            by_noise = group.groupby("noise_ratio")[main]
            mean, deviation = by_noise.mean(), by_noise.std().fillna(0)
            x = mean.index + apart * (place - (len(groups) - 1) / 2)
            colour, marker = colours(place % 20), markers[place % len(markers)]
            axes.errorbar(x, mean, deviation, label=name, marker=marker, color=colour, capsize=2, linewidth=1)
        axes.set(xlabel="noise ratio", ylabel=label, xticks=ratios)
        figure.legend(fontsize=8, loc="outside right center")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def show(short: pd.DataFrame) -> None:
    """Print the part of a summary that fits into 80 columns.

    Args:
        short: The summary. Columns that are the same in all rows, and all cut-offs but the largest, are left out.
    """
    columns = [name for name in ("noise", "backbone") if short[name].nunique() > 1]
    main = main_metric(short)
    shown_of = ("method", "seeds", main.replace("ndcg", "recall"), main, "gain", "p")
    columns += [name for name in dict.fromkeys(shown_of) if name in short]
    printed = Table(box=SIMPLE, pad_edge=False)
    for name in columns:
        printed.add_column(name, no_wrap=name not in ("method", "backbone"))
    for row in short[columns].itertuples(index=False):
        printed.add_row(*(shown(cell) for cell in row))
    Console().print(printed)
