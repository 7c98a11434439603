"""One run of a grid: ``llmhd fit`` in a process and a folder of its own."""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

import llmhd_pl
from llmhd_pl.compare import records
from llmhd_pl.compare.grid import Grid, Run
from llmhd_pl.run_files import read_metrics

_PACKAGES = ("torch", "pytorch-lightning", "numpy", "scipy", "transformers", "sentence-transformers")
_PACKAGE = Path(llmhd_pl.__file__).parent


def execute(grid: Grid, run: Run) -> None:
    """Train and test one run, and record it; a run that was interrupted goes on where it was.

    Its logs and checkpoints are in ``runs/compare/GRID/RUN-HASH``. The hash is of the configuration, the data, the
    user's own code and the output, so that a folder has one line. If that line was removed, the run is to be repeated,
    and the folder is emptied.

    Args:
        grid: The grid.
        run: The run.

    Raises:
        RuntimeError: If the run fails, or leaves no figures; its log or its folder is named.
    """
    if run in records.finished(grid):
        return  # another process has finished it meanwhile
    what = {"configuration": grid.configuration(run), "data": grid.data(run), "data_digest": grid.data_digest(run)}
    if (code := grid.code_digest(run)) is not None:
        what["code_digest"] = code
    place = hashlib.sha256(json.dumps([what, str(grid.output)]).encode()).hexdigest()[:16]
    folder = Path("runs", "compare", grid.name, f"{run.name}-{place}")
    recorded = folder / "recorded"
    if recorded.is_file():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Every start has a folder of its own, because CSVLogger empties one that exists.
    start = len(list(folder.glob("start*")))
    origin = {"commit": commit(), "versions": versions()}
    began = time.monotonic()
    with (folder / "log.txt").open("a") as log:
        command = [sys.executable, "-m", "llmhd_pl", "fit", *arguments(grid, run, folder, start)]
        environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
    if done.returncode != 0:
        log_file = folder / "log.txt"
        raise RuntimeError(f"{run.name} ended with {done.returncode}: see {log_file}.{_said(log_file)}")
    seconds = None if start else round(time.monotonic() - began, 1)  # how long earlier starts took is not known
    saved = yaml.safe_load((folder / f"start{start}" / "config.yaml").read_text(encoding="utf-8"))
    record = vars(run) | measured(folder, saved["checkpoint"]) | what | origin
    record |= {"device": device(saved["trainer"]["accelerator"]), "seconds": seconds}
    records.append(grid.output / f"{grid.name}.jsonl", record)
    recorded.touch()


def _said(log: Path) -> str:
    """Return the last error in a log, or else its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|error|Interrupt|Exit)\b.*", line)]
    return f" {(errors or lines)[-1][:500]}" if lines else ""


def arguments(grid: Grid, run: Run, folder: Path, start: int) -> list[str]:
    """Return the arguments of ``llmhd fit``, and write the parts of the configuration that are not files.

    Args:
        grid: The grid.
        run: The run.
        folder: The folder of the run.
        start: How often the run was started before.
    """
    configs = []
    for number, layer in enumerate(grid.layers(run)):
        if not isinstance(layer, Path):
            text = yaml.safe_dump(dict(layer), sort_keys=False)
            layer = folder / f"layer{number}.yaml"
            layer.write_text(text, encoding="utf-8")
        configs.append(f"--config={layer}")
    # A resumed run keeps its checkpoints where they were; the last start without one began anew.
    last = sorted(folder.glob("start*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    return [
        *configs,
        *grid.arguments,
        f"--seed_everything={run.seed}",
        f"--data.noise_ratio={run.noise_ratio}",
        f"--trainer.logger.init_args.save_dir={folder}",
        "--trainer.logger.init_args.name=",
        f"--trainer.logger.init_args.version=start{start}",
        "--trainer.enable_progress_bar=false",
        *([f"--ckpt_path={last[-1]}"] if last else []),
    ]


def measured(folder: Path, checkpoint: Mapping[str, Any]) -> dict[str, float]:
    """Read the outcome of a run from its logs.

    Args:
        folder: The folder of the run.
        checkpoint: The settings of the checkpoint of the best epoch: its ``monitor`` and its ``mode``.

    Returns:
        The test metrics, the best value of what was watched, the epoch that it chose, the number of epochs, the best
        epoch if every epoch was tested, and the last audit. What the run did not measure is left out.

    Raises:
        RuntimeError: If there was neither a test nor a validation.
    """
    starts = sorted(folder.glob("start*/metrics.csv"), key=lambda path: int(path.parent.name.removeprefix("start")))
    table: Any = pd.concat([read_metrics(path) for path in starts], ignore_index=True)
    tests = [name for name in table if name.startswith("test/")]
    tested = table[tests].notna().any(axis=1)
    result = {name.removeprefix("test/"): float(table[tested].iloc[-1][name]) for name in tests if tested.any()}
    watched, cuts = checkpoint["monitor"], [name for name in table if name.startswith("val/ndcg@")]
    if watched == "val/ndcg@10" and cuts and watched not in cuts:  # the fit then watched the largest cut-off
        watched = max(cuts, key=lambda name: int(name.partition("@")[2]))
    fitted = table[~tested]
    valid = fitted.dropna(subset=[watched]) if watched in table else fitted[:0]
    # What a killed start had validated already is there twice; an epoch may have several validations, too.
    valid = valid.drop_duplicates(["epoch", "step"], keep="last")
    if len(valid):
        metric = watched.removeprefix("val/")
        best = valid[watched].idxmin() if checkpoint["mode"] == "min" else valid[watched].idxmax()
        result[f"valid {metric}"] = float(valid[watched][best])
        result["chosen epoch"] = float(valid["epoch"][best])
    if not result:
        raise RuntimeError(
            f"{folder} has neither test nor validation metrics: nothing can be compared. Give the data a test split, "
            "and let the trainer validate."
        )
    result["epochs"] = float(fitted["epoch"].max()) + 1
    if len(valid) and (tested_too := f"every_epoch/{metric}") in valid:  # of the callback EveryEpochTest
        result["best epoch"] = float(valid["epoch"][valid[tested_too].idxmax()])
        result[f"best {metric}"] = float(valid[tested_too].max())
    for name in table:
        if name.startswith(("audit/", "llm/tokens", "llm/unanswered")):
            values = table[name].dropna()
            if len(values):
                result[name.removeprefix("audit/")] = float(values.iloc[-1])
    return result


def commit() -> str | None:
    """Return the commit of this package's code, with ``-dirty`` if files differ from it; None outside a repository."""

    def git(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["git", "-C", str(_PACKAGE), *words], capture_output=True, text=True, check=False)

    try:
        # An installed package may lie in somebody else's repository.
        if git("ls-files", "--error-unmatch", "__init__.py").returncode != 0:
            return None
        code = [str(_PACKAGE), *(str((_PACKAGE / name).resolve()) for name in ("callbacks", "datamodules", "configs"))]
        dirty = git("diff", "--quiet", "HEAD", "--", *code).returncode != 0
        return git("rev-parse", "HEAD").stdout.strip() + ("-dirty" if dirty else "")
    except FileNotFoundError:  # no git
        return None


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package, and of the installed packages that may change a figure."""
    found = {"python": platform.python_version(), "llmhd-pl": llmhd_pl.__version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def device(accelerator: str) -> str:
    """Return the name of the device that a run used.

    Args:
        accelerator: The trainer's accelerator in the configuration that the run saved.
    """
    if accelerator != "cpu":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
        if accelerator == "mps" or torch.backends.mps.is_available():
            return "mps"
    names = Path("/proc/cpuinfo")
    lines = names.read_text(encoding="utf-8").splitlines() if names.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
