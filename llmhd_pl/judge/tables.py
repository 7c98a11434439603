"""The findings about a judge as tables for the terminal, and as JSON."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llmhd_pl.files import json_text, whole_file
from llmhd_pl.judge.measure import Findings
from llmhd_pl.terminal import shown


def show(console: Console, found: Findings) -> None:
    """Print the findings.

    Args:
        console: Where to.
        found: The findings.
    """
    console.print(shown(f"{found.scorer} on {found.data}: {found.pairs} pairs, seed {found.seed}"))
    _areas(console, found)
    _scores(console, found)
    _cost(console, found)
    _examples(console, found)


def _areas(console: Console, found: Findings) -> None:
    table = Table("AUC", "judge", "95 % interval", "popularity", "pairs", "verdict", title="Can it tell?")
    for area in found.areas:
        ends = f"{figure(area.low)} to {figure(area.high)}"
        sizes = f"{area.genuine:,} / {area.others:,}"
        table.add_row(area.name, figure(area.auc), ends, figure(area.popularity), sizes, area.verdict)
    console.print(table)
    if found.planted_here:
        console.print(
            "The data has no planted noise, so random pairs without an interaction were drawn for 'train'. The judge "
            "has not read them, but it has read the genuine ones: this flatters it. 'held-out' does not."
        )


def _scores(console: Console, found: Findings) -> None:
    table = Table("score", *map(str, range(1, 11)), title=f"Scores ({found.answered:.1%} of the pairs have one)")
    for group, counts in found.scores.items():
        table.add_row(group, *(str(count or "") for count in counts))
    console.print(table)


def _cost(console: Console, found: Findings) -> None:
    table = Table("asked here", "questions", "calls", "from the cache", "tokens per call", "per second")
    table.title = f"Speed (prepare took {duration(found.prepare_seconds)})"
    for name, phase in found.asking.items():
        calls = "" if phase.calls is None else f"{phase.calls:,}"
        hits = "" if phase.calls is None else f"{phase.cache_hits:,}"
        each = "" if phase.tokens_each is None else f"{phase.tokens_each:,.0f}"
        speed = "not measured" if phase.per_second is None else f"{phase.per_second:,.1f}"
        table.add_row(name, f"{phase.asked:,}", calls, hits, each, speed)
    console.print(table)
    table = Table("a whole run asks", "questions", "tokens", "time", title="What a run would cost, with an empty cache")
    table.caption = ", ".join(f"{name} {value}" for name, value in found.run.items())
    for cost in found.cost:
        tokens = "" if cost.tokens is None else f"{cost.tokens:,}"
        time = "not measured" if cost.seconds is None else duration(cost.seconds)
        table.add_row(shown(cost.what), f"{cost.questions:,}", tokens, time)
    console.print(table)


def _examples(console: Console, found: Findings) -> None:
    table = Table("user", "preference", "some of the user's items", title="Preferences")
    for read in found.preferences:
        table.add_row(str(read.user), shown(read.preference), shown("; ".join(read.items)))
    console.print(table)
    table = Table("user", "item", "score", "pair", title="What fits most and least, in 'train'")
    for judged in found.judged:
        table.add_row(str(judged.user), shown(judged.item), f"{judged.score:.1f}", judged.group)
    console.print(table)


def figure(value: float) -> str:
    """Return an AUC as it is printed, such as ``.912``; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.3f}".removeprefix("0")


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it: ``812 ms``, ``8.0 s``, ``12.0 min`` or ``3.4 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def as_json(found: Findings) -> dict[str, Any]:
    """Return the findings as plain Python: the numbers that are printed, unrounded. NaN is None.

    Args:
        found: The findings.
    """
    plain: dict[str, Any] = asdict(found)
    for row, area in zip(plain["areas"], found.areas, strict=True):
        row |= {name: None for name, value in row.items() if isinstance(value, float) and math.isnan(value)}
        row["verdict"] = area.verdict
    return plain


def write(path: Path, found: Findings) -> None:
    """Write the findings as JSON.

    Args:
        path: The file; it is whole or not there.
        found: The findings.

    Raises:
        OSError: If it cannot be written.
    """
    with whole_file(path) as part:
        part.write_text(json_text(as_json(found)) + "\n", encoding="utf-8")
