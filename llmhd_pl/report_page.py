"""``report.html``: what denoising did, as a page for a browser. ``llmhd report`` writes it beside its picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from llmhd_pl.audit.html import MOST_ROWS, coded, cut_fields, number, write_html
from llmhd_pl.denoising.store import CANDIDATE, NOISE
from llmhd_pl.run_files import KINDS, Row, kinds, read_audit, read_judgements, read_preferences, read_test

T = TypeVar("T")
TONES = ["good", "bad"]  # of kept and dropped


def write_report_page(path: Path, without: Path, with_: Path, warnings: Sequence[str] = ()) -> None:
    """Write the page.

    Args:
        path: The file; it is whole or as it was.
        without: The folder of a run without denoising.
        with_: The folder of a run with it.
        warnings: What could not be read, in sentences.

    Raises:
        OSError: If the file cannot be written. The message names it and what can be done.
    """
    before, after = read_test(without), read_test(with_)
    judgements, preferences, audit = read_judgements(with_), read_preferences(with_), read_audit(with_)
    common = [name for name in before if name in after]
    tested = ((without, before), (with_, after))
    missing = [f"{folder / 'metrics.csv'} has no test metrics." for folder, metrics in tested if not metrics]
    dropped = sum(not row["kept"] for row in judgements)
    facts = [
        ("Suspicious samples", f"{len(judgements):,}"),
        ("Kept", f"{len(judgements) - dropped:,}"),
        ("Dropped", f"{dropped:,}"),
        ("Revised preferences", f"{sum(row['cause'] == 'revision' for row in preferences):,}"),
    ]
    tables = [_metrics(common, before, after, without.name, with_.name)] if common else []
    if audit is not None:
        tables.append(_dropped(audit))
    content = {
        "title": f"Report of {with_.name}, compared with {without.name}",
        "headline": _headline(common, before, after),
        "warnings": [*missing, *warnings],
        "advice": [],
        "facts": facts,
        "histogram": None,
        "tables": tables,
        "explorers": [
            _judgements(judgements, preferences, audit),
            *([_preferences(preferences)] if preferences else []),  # a judge without texts writes none
        ],
    }
    write_html(path, content)


def _headline(names: Sequence[str], before: dict[str, float], after: dict[str, float]) -> str:
    # The metric that people look at first, at the longest list.
    name = max(names, key=lambda name: ("ndcg" in name, len(name), name), default=None)
    if name is None:
        return "What denoising did"
    old, new = before[name], after[name]
    return f"{name.removeprefix('test/')} went from {old:.4f} to {new:.4f} ({_gain(old, new)})"


def _gain(before: float, after: float) -> str:
    return f"{after / before - 1:+.1%}".replace("%", "\N{NO-BREAK SPACE}%") if before else "from nothing"


def _metrics(
    names: Sequence[str], before: dict[str, float], after: dict[str, float], without: str, with_: str
) -> dict[str, Any]:
    return {
        "title": "What denoising gained",
        "note": "Metrics of the test split.",
        "columns": ["Metric", without, with_, "Gain"],
        "numbers": [1, 2, 3],
        "rows": [
            [name.removeprefix("test/"), f"{before[name]:.4f}", f"{after[name]:.4f}", _gain(before[name], after[name])]
            for name in names
        ],
    }


def _dropped(audit: dict[str, np.ndarray]) -> dict[str, Any]:
    dropped = np.isin(audit["status"], (NOISE, CANDIDATE))
    rows = []
    for kind, name in enumerate(kinds(audit["kind"])):
        size, out = int((audit["kind"] == kind).sum()), int((dropped & (audit["kind"] == kind)).sum())
        if size:
            rows.append([name, f"{size:,}", f"{out:,}", f"{out / size:.0%}".replace("%", "\N{NO-BREAK SPACE}%")])
    return {
        "title": "What was dropped",
        "note": "After the last epoch, by what the data knows of each training interaction.",
        "columns": ["In truth", "Interactions", "Dropped", "Share"],
        "numbers": [1, 2, 3],
        "rows": rows,
    }


def _judgements(rows: Sequence[Row], preferences: Sequence[Row], audit: dict[str, np.ndarray] | None) -> dict[str, Any]:
    """The suspicious samples of the last epoch: what the judge was told, what it answered, what was decided."""
    note = "What the judge was asked about, what it answered, and what was decided."
    if len(rows) > MOST_ROWS:
        note = f"Only the {MOST_ROWS:,} with the lowest scores of all {len(rows):,} samples are on this page. {note}"
        rows = sorted(rows, key=lambda row: (row["score"] is None, row["score"] or 0))[:MOST_ROWS]
    last = {row["user"]: row.get("after", "") for row in preferences}
    users, user_codes = _entries([(str(row.get("user_id", row["user"])), row["user"]) for row in rows])
    items, item_codes = _entries([(row["title"], str(row.get("item_id", row.get("item", "")))) for row in rows])
    told = [{"preference": last[user]} if user in last else {} for _, user in users]
    truths = kinds(audit["kind"]) if audit is not None else KINDS
    columns = [
        coded("user", "User", "users", user_codes, link=True, csv=[("user_id", "texts")]),
        coded("item", "Item", "items", item_codes, csv=[("item_id", "ids"), ("title", "texts")]),
        number(
            "score", "Score", [float("nan") if row["score"] is None else row["score"] for row in rows], digits=1,
            filters=[{"kind": "choice", "label": "Score", "options": [(1, "with a score"), (0, "without a score")]},
                     {"kind": "at most", "label": "Score at most"}],
        ),
        coded(
            "decision", "Decision", "decisions", [int(not row["kept"]) for row in rows], tones=TONES,
            csv=[("decision", "texts")],
            filters=[{"kind": "choice", "label": "Decision", "options": list(enumerate(("kept", "dropped")))}],
        ),
    ]  # fmt: skip
    if audit is not None:
        kind = audit["kind"]
        known = [int(kind[row["sample"]]) if 0 <= row["sample"] < len(kind) else len(truths) for row in rows]
        options = [(code, (*truths, "unknown")[code]) for code in sorted(set(known))]
        choice = {"kind": "choice", "label": "Truth", "options": options}
        columns.append(coded("truth", "Truth", "truths", known, csv=[("truth", "texts")], filters=[choice]))
    return {
        "title": "Suspicious samples of the last epoch",
        "note": note,
        "rows": "samples",
        "nothing": "The run has judged nothing, or has left no judgements.jsonl.",
        "placeholder": "Title, user, item or preference",
        "file": "selected-samples.csv",
        "sorted": {"column": "score", "descending": False},
        "length": len(rows),
        "tables": {
            "users": {"texts": [name for name, _ in users], "fields": cut_fields(told)},
            "items": {"texts": [title for title, _ in items], "ids": [name for _, name in items]},
            "decisions": {"texts": ["kept", "dropped"]},
            "truths": {"texts": [*truths, "unknown"]},
        },
        "columns": columns,
    }


def _preferences(rows: Sequence[Row]) -> dict[str, Any]:
    """How the preferences came to be: what they were, why they were revised, and what they became."""
    note = "What the judge knew of each user, from the first summary to the last revision."
    if len(rows) > MOST_ROWS:
        note = f"Only the last {MOST_ROWS:,} of all {len(rows):,} preferences are on this page. {note}"
        rows = rows[-MOST_ROWS:]
    columns, tables = [number("epoch", "Epoch", [row["epoch"] for row in rows])], {}
    for name, label, texts in (
        ("user", "User", [str(row["user"]) for row in rows]),
        ("before", "Before", [row.get("before", "") for row in rows]),
        ("cause", "Because of", [_cause(row) for row in rows]),
        ("after", "After", [row.get("after", "") for row in rows]),
    ):
        distinct, codes = _entries(texts)
        columns.append(coded(name, label, name, codes, link=name == "user", csv=[(name, "texts")]))
        tables[name] = {"texts": distinct}
    return {
        "title": "Preferences",
        "note": note,
        "rows": "preferences",
        "nothing": "There are no preferences.",
        "placeholder": "User or text",
        "file": "selected-preferences.csv",
        "sorted": {"column": "epoch", "descending": True},
        "length": len(rows),
        "tables": tables,
        "columns": columns,
    }


def _cause(row: Row) -> str:
    titles = {word: row[word] for word in ("disliked", "liked") if isinstance(row.get(word), list)}
    return "; ".join([row["cause"], *(f"{word}: {', '.join(map(str, some))}" for word, some in titles.items())])


def _entries(values: Sequence[T]) -> tuple[list[T], list[int]]:
    """Return the distinct values, in the order of their first occurrence, and the place of each value among them."""
    places: dict[T, int] = {}
    codes = [places.setdefault(value, len(places)) for value in values]
    return list(places), codes
