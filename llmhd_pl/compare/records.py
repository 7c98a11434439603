"""The records of finished runs: JSON lines, a line per run and a file per grid.

A record has the run (``method``, ``backbone``, ``noise_ratio``, ``seed``), its metrics, ``configuration`` (a hash; see
``Grid.configuration``), ``data`` (the name of the data folder), ``data_digest`` (a hash of the data's files, which
older records lack), ``code_digest`` (a hash of the user's own code, if there is any), ``commit`` (of this package's
code), ``versions``, ``device`` and ``seconds`` (of training and testing; null for a run that was interrupted). What is
not known is null.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmhd_pl.compare.grid import Grid, Run

Record = dict[str, Any]


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line to a file of records, whole or not at all, even while other threads and processes add theirs.

    Args:
        path: The file; it and its folder are created if need be.
        record: What the line says.

    Raises:
        OSError: If the line could not be written, for example to a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(record) + "\n").encode()
    # A single write to a file that was opened for appending is not mixed with those of others.
    with path.open("ab", buffering=0) as file:
        written = file.write(line)
        os.fsync(file.fileno())
    if written != len(line):
        raise OSError(f"Only {written} of {len(line)} bytes of a record could be written to {path}: is the disk full?")


def read(path: Path) -> list[Record]:
    """Read a file of records.

    Args:
        path: The file.

    Returns:
        A record per line; none if there is no file.

    Raises:
        ValueError: If a line is not a whole record.
    """
    records = []
    # Not splitlines(): it also splits at characters that a text in a record may contain.
    lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    half = lines.pop()  # what follows the last line break: nothing, unless a process was killed while it wrote
    for number, line in enumerate([*lines, half] if half else lines, start=1):
        try:
            record = json.loads(line) if number <= len(lines) else None
        except (ValueError, RecursionError):  # also of what is not UTF-8
            record = None
        if not isinstance(record, dict):
            raise ValueError(
                f"{path}, line {number}, is not a whole record: {line[:60].decode(errors='replace')!r}. Remove this "
                "line; its run is then repeated."
            )
        records.append(record)
    return records


def finished(grid: Grid) -> dict[Run, Record]:
    """Find the records of a grid's runs, in its own file and in those of the other grids in its output folder.

    A record belongs to a run if its configuration is the same, its data folder bears the same name, and the files of
    the data have not changed since, as far as the record knows them and they are there. What its grid calls the method
    and the backbone makes no difference.

    Args:
        grid: The grid.

    Returns:
        The record of each run that is finished, in the grid's order. The grid's own file is preferred, and in a file
        the last line.

    Raises:
        ValueError: If the grid's own file has runs with another configuration or of other data, or a file has a broken
            line.
    """
    own_file = grid.output / f"{grid.name}.jsonl"
    own = read(own_file)
    others = [record for path in sorted(grid.output.glob("*.jsonl")) if path != own_file for record in read(path)]
    by_configuration: dict[tuple[str, str | None], list[Record]] = {}
    for record in [*others, *own]:
        by_configuration.setdefault((record["configuration"], record["data"]), []).append(record)
    found: dict[Run, Record] = {}
    otherwise: list[str] = []  # the runs that were configured otherwise
    of_other_data: list[str] = []
    for run in grid.runs():
        wanted, digest = (grid.configuration(run), grid.data(run)), grid.data_digest(run)
        recorded = [record for record in own if all(record[name] == value for name, value in vars(run).items())]
        if any((record["configuration"], record["data"]) != wanted for record in recorded):
            otherwise.append(run.name)
        elif not all(_of_files(record, digest) for record in recorded):
            of_other_data.append(run.name)
            changed = run
        if same := [record for record in by_configuration.get(wanted, ()) if _of_files(record, digest)]:
            found[run] = same[-1]
    if otherwise:
        raise ValueError(
            f"{own_file} has {_listed(otherwise)} with another configuration: the grid, a file that it names, or the "
            "name of the data folder has changed since. Remove the line to repeat a run, or give the grid another "
            "output."
        )
    if of_other_data:
        raise ValueError(
            f"{own_file} has {_listed(of_other_data)} of other data: the files of {grid.data(changed) or 'the data'} "
            "have changed since. Put the old ones back, remove the line to repeat a run, or give the grid another "
            "output."
        )
    return found


def of_other_code(grid: Grid, done: Mapping[Run, Record]) -> list[str]:
    """Return the names of the finished runs whose own code, outside of this package, has changed since.

    Args:
        grid: The grid.
        done: The record of each of these runs, as ``finished`` returns them.
    """
    recorded = {run: record["code_digest"] for run, record in done.items() if "code_digest" in record}
    return [run.name for run, digest in recorded.items() if grid.code_digest(run) not in (None, digest)]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} runs ({', '.join(names[:5])}{', ...' * (len(names) > 5)})"


def _of_files(record: Record, digest: str | None) -> bool:
    """Return whether a record may be of the data with this digest; one of the two may not be known."""
    known = record.get("data_digest")
    return known is None or digest is None or known == digest


def unfinished(grid: Grid) -> list[Run]:
    """Return the runs of a grid that are not finished; see ``finished`` for the errors."""
    done = finished(grid)
    return [run for run in grid.runs() if run not in done]
