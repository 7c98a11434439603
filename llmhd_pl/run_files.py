"""What a run leaves in its folder, read again: also of a run that was killed, resumed, or made by several processes."""

import io
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

Row = dict[str, Any]

KINDS = ("easy", "hard", "noise")
"""What ``NoiseAudit`` calls the samples of kind 0, 1 and 2."""
_LENGTH = ("max_epochs", "max_steps", "max_time")
"""The arguments of the trainer that say how long a run is, at most."""
_NOT_THE_RUN = (
    *("ckpt_path", "config", "weights_only", "predictions.", "trainer.logger", "trainer.max_epochs"),
    *("trainer.max_steps", "trainer.max_time", "trainer.accelerator", "trainer.strategy", "trainer.devices"),
    *("trainer.num_nodes", "trainer.enable_", "trainer.log_every_n_steps", "trainer.profiler"),
)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that make a run what it is, by their dotted names.

    Where a run is logged, how long it is, and on which devices it runs is left out: a run that was interrupted may go
    on elsewhere and for longer.

    Args:
        config: A configuration; one of all commands contains that of ``fit``.
    """
    flat: dict[str, Any] = {}

    def flatten(name: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                flatten(f"{name}.{key}" if name else str(key), inner)
        elif not name.startswith(_NOT_THE_RUN):
            flat[name] = value

    flatten("", config.get("fit", config))
    return flat


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a run by their dotted names, how long it was included; none if it has saved none.

    Args:
        folder: The folder of the run, whose ``config.yaml`` ``llmhd fit`` has written.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_bytes())
        flat = settings(config) | {f"trainer.{name}": config["trainer"].get(name) for name in _LENGTH}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        message = f"{path} cannot be read, so that what else differs between the runs is not known: {error}."
        warnings.warn(message, stacklevel=2)
        return {}
    # llmhd_pl.MF is llmhd_pl.backbones.MF.
    return {name: value.rpartition(".")[2] if name.endswith("class_path") else value for name, value in flat.items()}


def read_metrics(path: Path) -> pd.DataFrame:
    """Return the rows of a ``metrics.csv``; none if there is no file, or nothing in it.

    A last row without its line break is left out: a run that was killed did not write all of it, and half of 0.253 is
    0.25. Cells that are no numbers are NaN.

    Args:
        path: The file.
    """
    text = path.read_bytes().decode(errors="replace").replace("\r\n", "\n") if path.is_file() else ""
    try:
        table: pd.DataFrame = pd.read_csv(io.StringIO(text.rpartition("\n")[0]), on_bad_lines="skip", index_col=False)
    except pd.errors.ParserError as error:
        warnings.warn(f"{path} cannot be read and is left out: {error}.", stacklevel=2)
        return pd.DataFrame()
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    numbers: pd.DataFrame = table.apply(pd.to_numeric, errors="coerce")
    return numbers


def read_test(folder: Path) -> dict[str, float]:
    """Return the last test metrics of a run; none if it was not tested.

    Args:
        folder: The folder of the run.
    """
    table = read_metrics(folder / "metrics.csv")
    table = table[[name for name in table if str(name).startswith("test/")]].dropna(how="all")
    if table.empty:
        return {}
    return {str(name): float(value) for name, value in table.iloc[-1].items() if np.isfinite(value)}


def read_rows(path: Path, required: Mapping[str, type | tuple[type, ...]]) -> list[Row]:
    """Return the rows of a JSONL file and of those that several processes wrote in its place.

    Their names are those of ``processes.own_file``. A line that is not whole, such as the last one of a run that was
    killed, is left out with a warning. A row that several processes wrote, after a resumption from a common checkpoint,
    is there once.

    Args:
        path: The file that a single process would have written.
        required: The keys that a row must have, and the types of their values.

    Returns:
        The rows, in the order of their ``epoch``; none if there is no file.
    """
    rows: dict[str, Row] = {}
    for file in (path, *_of_ranks(path)):
        if not file.is_file():
            continue
        # Not splitlines(): it also splits at characters that a title may contain.
        lines = file.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                whole = isinstance(row, dict) and all(
                    isinstance(row.get(key, ...), kind) and (kind is bool or not isinstance(row[key], bool))
                    for key, kind in required.items()
                )
            except (ValueError, RecursionError):
                whole = False
            if whole:
                rows[json.dumps(row, sort_keys=True)] = row
            else:
                last = "the run was killed while it wrote it" if number == len(lines) else "something has changed it"
                warnings.warn(f"{file}, line {number}, is not whole and is left out: {last}.", stacklevel=2)
    return sorted(rows.values(), key=lambda row: row["epoch"])


def read_judgements(folder: Path) -> list[Row]:
    """Return what was decided about the suspicious samples of a run in its last epoch."""
    number = (int, float)
    required: dict[str, Any] = {"epoch": int, "sample": int, "user": int, "title": str, "kept": bool}
    rows = read_rows(folder / "judgements.jsonl", required | {"score": (*number, type(None))})
    # Of a run that was resumed with another number of processes, older files may lie beside the last ones.
    return [row for row in rows if row["epoch"] == rows[-1]["epoch"]]


def read_preferences(folder: Path) -> list[Row]:
    """Return how the preferences of a run came to be."""
    rows = read_rows(folder / "preferences.jsonl", {"epoch": int, "user": int, "cause": str})
    texts = ("before", "after")
    return [row for row in rows if all(isinstance(row.get(name, ""), str) for name in texts)]


def read_audit(folder: Path) -> dict[str, np.ndarray] | None:
    """Return what ``NoiseAudit`` wrote: the ``kind`` and the ``status`` of each sample, of all processes together.

    Args:
        folder: The folder of the run.

    Returns:
        The two arrays, int64 [n]; None if there is no file. A file that cannot be read counts as missing, with a
        warning.
    """
    path = folder / "audit.npz"
    files = _of_ranks(path)
    # A run that was resumed with another number of processes leaves older files beside the last ones.
    if path.is_file() and not (files and files[0].stat().st_mtime > path.stat().st_mtime):
        files = [path]
    together: dict[str, np.ndarray] | None = None
    for file in files:
        try:
            audit = _read_arrays(file)
            if together is None:
                together = {name: audit[name] for name in ("kind", "status")}
            elif not np.array_equal(together["kind"], audit["kind"]):
                raise ValueError("it is about other samples than that of the first process")
            else:  # each process knows about its own samples, which are those that it has seen
                together["status"] = np.where(audit["seen"], audit["status"], together["status"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            warnings.warn(f"{file} cannot be read, so nothing is shown of the audit: {error}.", stacklevel=2)
            return None
    return together


def kinds(audit: np.ndarray) -> tuple[str, ...]:
    """Return the names of the kinds 0, 1 and 2.

    Args:
        audit: The kind of each sample. Data that only knows which samples are noise has no hard ones; what is not noise
            is then not called easy.
    """
    return KINDS if (audit == 1).any() else ("not noise", *KINDS[1:])


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file):  # np.load would take other files, too
        pass
    with np.load(file, allow_pickle=False) as arrays:
        audit = {name: arrays[name] for name in arrays.files if name in ("kind", "status", "loss")}
    shape = audit["kind"].shape
    loss = audit.get("loss", np.zeros(shape))
    for name, array in (*audit.items(), ("loss", loss)):
        if array.ndim != 1 or array.shape != shape or array.dtype.kind not in "iuf":
            raise ValueError(f"{name} is not a number for each sample")
    for name, most in (("kind", 2), ("status", 3)):
        if not np.isin(audit[name], np.arange(most + 1)).all():
            raise ValueError(f"{name} has other values than 0 to {most}")
    return {"kind": audit["kind"].astype(np.int64), "status": audit["status"].astype(np.int64), "seen": ~np.isnan(loss)}


def _of_ranks(path: Path) -> list[Path]:
    """The files of the processes of a run, in the order of their ranks."""
    pattern = re.compile(rf"{re.escape(path.stem)}-rank([0-9]+){re.escape(path.suffix)}")
    files = path.parent.iterdir() if path.parent.is_dir() else ()
    ranks = {int(match[1]): file for file in files if (match := pattern.fullmatch(file.name))}
    return [ranks[rank] for rank in sorted(ranks)]
