"""``audit.html``: what an audit has found out, as one file that a browser shows without a server or a network.

A headline, a picture, small tables, and the interactions themselves to search, filter, sort and export.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llmhd_pl.audit.chance import BINS
from llmhd_pl.audit.findings import UNRELIABLE, Audit, Share
from llmhd_pl.audit.html import MOST_ROWS, NO_BREAK, coded, cut_fields, number, percent, write_html
from llmhd_pl.datamodules.interactions import Interactions
from llmhd_pl.llm.texts import item_title


def write_page(path: Path, audit: Audit, interactions: Interactions) -> None:
    """Write ``audit.html``.

    Of more than ``MOST_ROWS`` interactions the most suspicious ones are on the page, and it says so.

    Args:
        path: The file; it is whole or as it was.
        audit: What was found out.
        interactions: What the audit is about: the texts of the items, and what the source calls items and users.

    Raises:
        OSError: If the file cannot be written. The message names it and what can be done.
    """
    judged = ~np.isnan(audit.p_values)
    advice = [text for text in audit.advice if text]
    warnings = []
    if not audit.can_tell:
        warnings.append(
            f"This judge cannot tell. {prefers(audit.auc)}, and guessing would reach 50{NO_BREAK}%. The share of "
            "chance and the order of the interactions mean little: the judge knows too little, or the users are too "
            "alike. In the former case, try another judge, or give the items better texts."
        )
    facts = [
        ("Judged", f"{judged.sum():,} of {len(judged):,}"),
        ("Look like chance", f"{percent(audit.share.share)} ({interval(audit.share)})"),
        ("Judge prefers the right user", percent(audit.auc)),
        ("Users", f"{len(np.unique(audit.users)):,}"),
        ("Items", f"{len(np.unique(audit.items)):,}"),
    ]
    content = {
        "title": f"Noise audit of {audit.data}, judged by {audit.scorer}",
        "headline": headline(audit),
        "warnings": warnings,
        "advice": advice,
        "facts": facts,
        "histogram": _histogram(audit) if judged.any() else None,
        "tables": _tables(audit),
        "explorers": [_explorer(audit, interactions)],
    }
    write_html(path, content)


# Sentences


def headline(audit: Audit) -> str:
    """Return the share of chance in one sentence."""
    judged, total = int((~np.isnan(audit.p_values)).sum()), len(audit.p_values)
    if not judged:
        return f"None of the {total:,} interactions has a score, so nothing can be said about them"
    if np.isnan(audit.share.share):
        return f"How many of the {judged:,} judged interactions came about by chance cannot be said"
    return (
        f"About {percent(audit.share.share)} of the {judged:,} judged interactions look like chance "
        f"(95{NO_BREAK}% interval {interval(audit.share)})"
    )


def prefers(auc: float) -> str:
    """Return in words what an AUC says about a judge."""
    return (
        f"In {percent(auc)} of all cases it finds that an item fits the user who took it better than another user"
        if np.isfinite(auc)
        else "How often it prefers the right user is not known"
    )


def interval(share: Share) -> str:
    """Return the interval of a share, such as "10 to 14 %"."""
    if np.isnan(share.low) or np.isnan(share.high):
        return "\N{EN DASH}"
    return f"{percent(share.low).removesuffix(f'{NO_BREAK}%')} to {percent(share.high)}"


def one_in(share: float) -> str:
    """Return a share in words, such as "about one in ten"."""
    small = ("", "", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    if np.isnan(share):
        return "how many of them are right is not known"
    if share < 0.01:
        return "fewer than one in a hundred"
    if share < 0.15:
        many = round(1 / share)
        return f"about one in {small[many] if many < len(small) else many}"
    if share >= 0.95:
        return "nearly all"
    tenths = round(10 * share)
    return "about half" if tenths == 5 else f"about {['', 'one', *small[2:]][tenths]} in ten"


# Parts of the page


def _histogram(audit: Audit) -> dict[str, Any]:
    """How many p-values lie in each bin. Those of chance are spread evenly: each bin holds the same number of them."""
    judged = ~np.isnan(audit.p_values)
    weights = audit.weights[judged] / audit.weights[judged].mean()  # as the share counts them
    counts = np.rint(np.histogram(audit.p_values[judged], BINS, (0, 1), weights=weights)[0]).astype(int)
    share = audit.share
    known = not np.isnan([share.share, share.low, share.high]).any()
    chance, low, high = (
        round(part * int(counts.sum()) / BINS, 4) if known else None for part in (share.share, share.low, share.high)
    )
    return {
        "title": "How well the items fit",
        "note": "Each interaction counts in the bar of its p-value: the share of other users whom its item fits at "
        "least as well. Interactions of taste gather on the left. Those of chance are spread evenly and would, on "
        "their own, fill every bar up to the line.",
        "counts": counts.tolist(),
        "chance": chance,
        "low": low,
        "high": high,
        "x": "p-value: the share of other users whom the item fits at least as well",
        "shortX": "p-value (right: suspicious)",
        "bars": "interactions, by p-value",
        "line": f"expected from chance: {percent(share.share)} of all, with its 95{NO_BREAK}% interval",
        "description": f"{counts.sum():,} p-values in {BINS} bins from 0 to 1: {', '.join(map(str, counts))}.",
    }


def _tables(audit: Audit) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = []
    if audit.groups:
        rows = [
            [group.name, f"{group.size:,}", percent(group.share), interval(group), _bar(group)]
            for group in audit.groups
        ]
        tables.append(
            {
                "title": "Where chance is at work",
                "note": "The share that looks like chance, by group.",
                "columns": ["Group", "Judged", "Chance", f"95{NO_BREAK}% interval", ""],
                "numbers": [1, 2, 3],
                "minor": [4],
                "rows": rows,
            }
        )
    if audit.cuts:
        tables.append(
            {
                "title": "What to drop" + ("" if audit.can_tell else UNRELIABLE),
                "note": "If all interactions with a p-value above a bound are dropped: how many, and the share of them "
                "that is expected to fit their user after all. Right visits that are untypical of their user come on "
                "top.",
                "columns": ["p-value above", "Dropped", "Of these fit", "In words"],
                "numbers": [0, 1, 2],
                "minor": [3],
                "rows": [
                    [f"{cut.above:g}", f"{cut.dropped:,}", percent(cut.right), one_in(cut.right)] for cut in audit.cuts
                ],
                "show": [{"p_value above": cut.above} for cut in audit.cuts],
            }
        )
    return tables


def _bar(share: Share) -> list[float] | str:
    parts = [share.share, share.low, share.high]
    return "" if np.isnan(parts).any() else [round(float(part), 4) for part in parts]


def _explorer(audit: Audit, interactions: Interactions) -> dict[str, Any]:
    """The interactions, the most suspicious ones first."""
    order = np.lexsort((-audit.p_values, -audit.chance))[:MOST_ROWS]  # NaN comes last
    total = len(audit.users)
    note = "The most suspicious ones come first. Open a row to read the item and to see what else its user took."
    if len(order) < total:
        note = (
            f"Only the {len(order):,} most suspicious of all {total:,} interactions are on this page, in the other "
            f"interactions of a user, too. {note}"
        )
    item_counts, user_counts = np.bincount(audit.items), np.bincount(audit.users)
    users, user_codes = np.unique(audit.users[order], return_inverse=True)
    items, item_codes = np.unique(audit.items[order], return_inverse=True)
    texts: list[dict[str, str]] = [interactions.items[item] if interactions.items else {} for item in items]
    tables = {
        "users": {"texts": _names(users, interactions.user_names)},
        "items": {
            "texts": [item_title(fields, "") for fields in texts],
            "ids": _names(items, interactions.item_names),
            "fields": cut_fields(texts),
        },
    }
    unscored = bool(np.isnan(audit.scores).any())
    scored = {"kind": "choice", "label": "Score", "options": [(1, "with a score"), (0, "without a score")]}
    columns: list[dict[str, Any]] = [
        coded("user", "User", "users", user_codes, link=True, csv=[("user_id", "texts")]),
        coded("item", "Item", "items", item_codes, csv=[("item_id", "ids"), ("title", "texts")]),
        number("score", "Score", audit.scores[order], digits=1, minor=True, filters=[scored] if unscored else [])
        | {"help": "What the judge says of the item for this user, from 1 to 10"},
        number(
            "p_value", "p-value", audit.p_values[order], digits=3, places=6,
            filters=[{"kind": "above", "label": "p-value above"}, {"kind": "at most", "label": "p-value at most"}],
        )
        | {"help": "The share of other users whom the item fits at least as well; near 1 is suspicious"},
        number(
            "chance", "Chance", audit.chance[order], places=4,
            filters=[{"kind": "at least", "label": "Chance at least, in %"}],
        )
        | {"help": "The probability that the interaction came about by chance", "percent": True},
        {
            "kind": "sentence", "name": "reason", "label": "Why", "of": "p_value", "minor": True,
            "text": "of other users would fit this item at least as well",
            "missing": "No score: the judge gave no answer, as for an item without text",
        },
        number(
            "popularity", "Users of the item", item_counts[audit.items[order]], hidden=True,
            filters=[{"kind": "at most", "label": "Users of the item, at most"}],
        ),
        number(
            "activity", "Items of the user", user_counts[audit.users[order]], hidden=True,
            filters=[{"kind": "at most", "label": "Items of the user, at most"}],
        ),
    ]  # fmt: skip
    return {
        "title": "Interactions",
        "note": note,
        "rows": "interactions",
        "nothing": "There are no interactions.",
        "placeholder": "Title, text, user or item",
        "file": "selected-interactions.csv",
        "sorted": {"column": "chance", "descending": True},
        "length": len(order),
        "tables": tables,
        "columns": columns,
    }


def _names(numbers: np.ndarray, names: list[str] | None) -> list[str]:
    name: Callable[[int], str] = str if names is None else names.__getitem__
    return [name(number) for number in numbers.tolist()]
