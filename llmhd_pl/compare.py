"""Compare methods: ``python -m llmhd_pl.compare --config configs/compare/yelp.yaml``.

Every run is a normal ``train.py fit`` with a folder of its own, so that it can be looked at, resumed and repeated. Runs
that are finished are skipped, broken ones are started again. The tables and the plot are made from what is finished,
also while the rest is running.
"""

import argparse
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from scipy.stats import ttest_rel

METRICS = ["recall@5", "recall@10", "ndcg@5", "ndcg@10"]
_REQUIRED = {"output", "base", "methods", "backbones", "noise_ratios", "seeds"}
_KEYS = _REQUIRED | {"arguments", "processes", "reference", "exclude"}
_TRAIN = Path(__file__).parents[1] / "train.py"


@dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    method: str
    backbone: str
    noise_ratio: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        words = re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.method}-{self.backbone}").strip("-").lower()
        return f"{words}-noise{self.noise_ratio:g}-seed{self.seed}"


def load(path: Path) -> dict[str, Any]:
    """Read a grid.

    Args:
        path: a YAML file, the paths in which are relative to the working directory, with ``output`` (folder), ``base``
            (config files that all runs share), ``methods`` and ``backbones`` (name: what is laid over the base, a
            config file or what would stand in one), ``noise_ratios``, ``seeds`` and, optionally, ``arguments`` (more
            for the command line), ``processes`` (runs at once), ``reference`` (the method that the others are tested
            against) and ``exclude`` (pairs of ``method`` and ``backbone`` that make no sense together).

    Returns:
        The grid, and as ``name`` that of the file, which its tables bear: several grids may share an output folder, and
        with it the runs that they have in common.

    Raises:
        ValueError: a key is missing or unknown, or names what is not there.
    """
    grid: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in sorted(_REQUIRED - grid.keys()):
        raise ValueError(f"{path}: key {key!r} is missing.")
    for key in sorted(grid.keys() - _KEYS):
        raise ValueError(f"{path}: key {key!r} is unknown; the keys are {', '.join(sorted(_KEYS))}.")
    methods, backbones = grid["methods"], grid["backbones"]
    reference = grid.get("reference")
    if reference is not None and reference not in methods:
        raise ValueError(f"{path}: reference is {reference!r}, but the methods are {', '.join(methods)}.")
    for left_out in grid.get("exclude", []):
        if left_out.get("method") not in methods or left_out.get("backbone") not in backbones:
            raise ValueError(f"{path}: exclude has {left_out}, which is no method and backbone of the grid.")
    for config in (*grid["base"], *methods.values(), *backbones.values()):
        if isinstance(config, str) and not Path(config).is_file():
            raise ValueError(f"{path} names {config}, which is no file. Paths are relative to {Path.cwd()}.")
    return grid | {"name": path.stem}


def runs_of(grid: Mapping[str, Any]) -> list[Run]:
    """All runs, the first seed of everything first."""
    cells = itertools.product(grid["seeds"], grid["noise_ratios"], grid["backbones"], grid["methods"])
    runs = [Run(method, backbone, noise, seed) for seed, noise, backbone, method in cells]
    return [run for run in runs if {"method": run.method, "backbone": run.backbone} not in grid.get("exclude", [])]


def configuration(grid: Mapping[str, Any], run: Run) -> str:
    """A hash of all that decides what the run does: config files, what is laid over them, further arguments."""
    parts = [*grid["base"], grid["backbones"][run.backbone], grid["methods"][run.method]]
    contents = [yaml.safe_load(Path(part).read_text()) if isinstance(part, str) else part for part in parts]
    text = json.dumps([contents, grid.get("arguments", [])], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def unfinished(grid: Mapping[str, Any]) -> list[Run]:
    """The runs that have no result yet.

    Raises:
        ValueError: a result is of another configuration.
    """
    missing = []
    for run in runs_of(grid):
        path = Path(grid["output"]) / run.name / "result.json"
        if not path.is_file():
            missing.append(run)
        elif json.loads(path.read_text()).get("configuration") != configuration(grid, run):
            raise ValueError(
                f"{path} is the result of another configuration: the grid or a file that it names has changed since. "
                "Remove the run's folder to repeat it, or give the grid another output."
            )
    return missing


def execute(grid: Mapping[str, Any], run: Run, folder: Path) -> None:
    """Train and test one run, and write its ``result.json``; a run that was broken off goes on where it was.

    Raises:
        RuntimeError: the run failed; its log is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    overlays = {"backbone": grid["backbones"][run.backbone], "method": grid["methods"][run.method]}
    arguments = [f"--config={config}" for config in grid["base"]]
    for name, overlay in overlays.items():
        if isinstance(overlay, str):
            arguments.append(f"--config={overlay}")
        elif overlay:
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(overlay, sort_keys=False), encoding="utf-8")
            arguments.append(f"--config={folder / f'{name}.yaml'}")
    # Every start logs to a folder of its own, because CSVLogger empties one that is there.
    start = len(list(folder.glob("start*")))
    arguments += [
        *grid.get("arguments", []),
        f"--seed_everything={run.seed}",
        f"--data.noise_ratio={run.noise_ratio}",
        f"--trainer.logger.init_args.save_dir={folder}",
        "--trainer.logger.init_args.name=",
        f"--trainer.logger.init_args.version=start{start}",
        "--trainer.enable_progress_bar=false",
    ]
    # A resumed run keeps its checkpoints where they were; the last start without one began anew.
    last = sorted(folder.glob("start*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if last:
        arguments.append(f"--ckpt_path={last[-1]}")
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with (folder / "log.txt").open("a") as log:
        command = [sys.executable, str(_TRAIN), "fit", *arguments]
        done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{run.name} ended with {done.returncode}: see {folder / 'log.txt'}.")
    result = folder / "result.json"
    result.with_suffix(".part").write_text(json.dumps(_result(folder) | {"configuration": configuration(grid, run)}))
    result.with_suffix(".part").replace(result)


def _result(folder: Path) -> dict[str, float]:
    """Test metrics, the epoch that validation chose, the best if that is known, epochs in all, the last audit."""
    starts = sorted(folder.glob("start*/metrics.csv"), key=lambda path: int(path.parent.name.removeprefix("start")))
    table: Any = pd.concat([pd.read_csv(path) for path in starts], ignore_index=True)
    test = table[[name for name in table if name.startswith("test/")]].dropna(how="all").iloc[-1]
    valid = table.dropna(subset=["val/ndcg@10"]).drop_duplicates("epoch", keep="last")
    result = {name.removeprefix("test/"): float(value) for name, value in test.items()}
    result["valid ndcg@10"] = float(valid["val/ndcg@10"].max())
    result["chosen epoch"] = float(valid["epoch"][valid["val/ndcg@10"].idxmax()])
    result["epochs"] = float(valid["epoch"].max()) + 1
    if "every_epoch/ndcg@10" in valid:  # of the callback EveryEpochTest
        result["best epoch"] = float(valid["epoch"][valid["every_epoch/ndcg@10"].idxmax()])
        result["best ndcg@10"] = float(valid["every_epoch/ndcg@10"].max())
    for name in table:
        if name.startswith(("audit/", "llm/tokens", "llm/unanswered")):
            values = table[name].dropna()
            if len(values):
                result[name.removeprefix("audit/")] = float(values.iloc[-1])
    return result


def results(grid: Mapping[str, Any]) -> pd.DataFrame:
    """One row per finished run."""
    rows = []
    for run in runs_of(grid):
        path = Path(grid["output"]) / run.name / "result.json"
        if path.is_file():
            rows.append(vars(run) | json.loads(path.read_text()))
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame, reference: str | None = None) -> pd.DataFrame:
    """Mean and standard deviation over the seeds, and the paired t-test of NDCG@10 against a reference method.

    Args:
        table: of ``results``.
        reference: a method; None leaves the test out.

    Returns:
        A row per method, backbone and noise ratio, in the grid's order; texts, as they are printed.
    """
    rows = []
    for (noise, backbone, method), group in table.groupby(["noise_ratio", "backbone", "method"], sort=False):
        row = {"noise": f"{noise:g}", "backbone": backbone, "method": method, "seeds": str(len(group))}
        for metric in METRICS:
            deviation = f" ± {group[metric].std():.4f}" if len(group) > 1 else ""
            row[metric] = f"{group[metric].mean():.4f}{deviation}".replace("0.", ".")
        row["valid ndcg@10"] = f"{group['valid ndcg@10'].mean():.4f}".replace("0.", ".")
        row["chosen epochs"] = ", ".join(f"{epoch:g}" for epoch in group["chosen epoch"])
        if "best epoch" in group:
            row["best epochs"] = ", ".join(f"{epoch:g}" for epoch in group["best epoch"])
            row["ndcg@10 there"] = f"{group['best ndcg@10'].mean():.4f}".replace("0.", ".")
        if reference is not None:
            others = table[(table.noise_ratio == noise) & (table.backbone == backbone) & (table.method == reference)]
            pair = group.merge(others, on="seed", suffixes=("", " reference"))
            row["gain"] = row["p"] = ""
            if method != reference and len(pair):
                ours, theirs = pair["ndcg@10"], pair["ndcg@10 reference"]
                row["gain"] = f"{ours.mean() / theirs.mean() - 1:+.1%}"
                row["p"] = f"{ttest_rel(ours, theirs).pvalue:.3f}" if len(pair) > 1 else ""
        rows.append(row)
    return pd.DataFrame(rows)


def write(grid: Mapping[str, Any]) -> pd.DataFrame:
    """Write ``NAME.md``, ``.csv``, ``.tex``, ``.png`` and ``NAME-runs.csv``, a row per run, to the output folder."""
    path, table = Path(grid["output"]) / grid["name"], results(grid)
    if table.empty:
        return table
    short = summary(table, grid.get("reference"))
    table.to_csv(f"{path}-runs.csv", index=False)
    short.to_csv(f"{path}.csv", index=False)
    lines = ["| " + " | ".join(short.columns) + " |", "|" + "---|" * len(short.columns)]
    lines += ["| " + " | ".join(row) + " |" for row in short.itertuples(index=False)]
    Path(f"{path}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    escaped = short.replace({"±": r"$\\pm$", "%": r"\\%"}, regex=True)
    lines = [" & ".join(row) + r" \\" for row in [tuple(escaped.columns), *escaped.itertuples(index=False)]]
    body = "\n".join([r"\begin{tabular}{" + "l" * len(short.columns) + "}", *lines, r"\end{tabular}"])
    Path(f"{path}.tex").write_text(body + "\n", encoding="utf-8")
    _plot(table, Path(f"{path}.png"))
    return short


def _plot(table: pd.DataFrame, path: Path) -> None:
    """NDCG@10 with the deviation over the seeds: against the noise ratio or, where there is one only, by method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    telling = [column for column in ("method", "backbone") if table[column].nunique() > 1] or ["method"]
    groups = {", ".join(map(str, key)): group for key, group in table.groupby(telling, sort=False)}
    if table["noise_ratio"].nunique() == 1:
        means, deviations = ([group["ndcg@10"].agg(what) for group in groups.values()] for what in ("mean", "std"))
        axes.errorbar(means, list(groups), xerr=pd.Series(deviations).fillna(0), fmt="o", capsize=3)
        axes.invert_yaxis()
        axes.grid(axis="y", alpha=0.3)
        axes.set(xlabel="test NDCG@10", title=f"noise ratio {table['noise_ratio'].iloc[0]:g}")
    else:
        ratios = sorted(table["noise_ratio"].unique())
        apart = 0.01 * (ratios[-1] - ratios[0])  # else the bars of a ratio would hide each other
        colours, markers = pyplot.get_cmap("tab20"), "osD^v"
        for place, (name, group) in enumerate(groups.items()):
            by_noise = group.groupby("noise_ratio")["ndcg@10"]
            mean, deviation = by_noise.mean(), by_noise.std().fillna(0)
            x = mean.index + apart * (place - (len(groups) - 1) / 2)
            colour, marker = colours(place % 20), markers[place % len(markers)]
            axes.errorbar(x, mean, deviation, label=name, marker=marker, color=colour, capsize=2, linewidth=1)
        axes.set(xlabel="noise ratio", ylabel="test NDCG@10", xticks=ratios)
        figure.legend(fontsize=8, loc="outside right center")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _show(short: pd.DataFrame) -> None:
    """Print what fits 80 columns: no column that says the same in all rows, and the cut-off 10 alone."""
    columns = [name for name in ("noise", "backbone") if short[name].nunique() > 1]
    columns += [name for name in ("method", "seeds", "recall@10", "ndcg@10", "gain", "p") if name in short]
    table = Table(box=SIMPLE, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=name not in ("method", "backbone"))
    for row in short[columns].itertuples(index=False):
        table.add_row(*row)
    Console().print(table)


def main() -> None:
    """Run what is not finished, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="the grid")
    parser.add_argument("--table", action="store_true", help="only the table of what is finished")
    arguments = parser.parse_args()
    grid = load(arguments.config)
    folder, failed = Path(grid["output"]), []
    missing = unfinished(grid)
    if not arguments.table and missing:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with (
            Progress(*columns, TimeRemainingColumn()) as progress,
            ThreadPoolExecutor(grid.get("processes", 1)) as pool,
        ):
            task = progress.add_task("runs", total=len(missing))
            futures = {pool.submit(execute, grid, run, folder / run.name): run for run in missing}
            for future in as_completed(futures):
                error = future.exception()
                if error is not None:
                    failed.append(str(error))
                    progress.console.print(f"[red]{error}")
                progress.update(task, advance=1, description=f"last: {futures[future].name}")
                write(grid)
    short = write(grid)
    if len(short):
        _show(short)
        print(f"All columns, and the plot: {folder / grid['name']}.md, .csv, .tex and .png")
    if failed:
        raise SystemExit(f"{len(failed)} of {len(missing)} runs failed; start the command again to repeat them.")


if __name__ == "__main__":
    main()
