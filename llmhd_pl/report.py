"""What denoising did: ``llmhd report RUN_WITHOUT RUN_WITH``, with the folders of two ``llmhd fit`` runs.

Prints the test metrics of both runs side by side, some of the questions and answers of the judge, and some preferences
before and after a revision. Saves a page for a browser, ``report.html``, in the second folder, with all of the
questions, answers and preferences, and, if the data knows its noise and the run had ``NoiseAudit``, a picture,
``report.png``: the test metrics of both runs, and how many of the easy, hard and noisy samples are dropped. What else
than denoising differs between the settings of the two runs is said. Of a run that was killed, resumed, or made by
several processes it shows what there is.
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from llmhd_pl import terminal
from llmhd_pl.denoising.store import CANDIDATE, NOISE
from llmhd_pl.files import whole_file
from llmhd_pl.report_page import write_report_page
from llmhd_pl.run_files import KINDS, kinds, read_audit, read_judgements, read_preferences, read_settings, read_test
from llmhd_pl.terminal import printable, shown

COLORS = ("tab:blue", "tab:orange", "tab:red")
NOISE_KIND = KINDS.index("noise")


def print_metrics(console: Console, without: Path, with_: Path) -> None:
    """Print the test metrics of both runs."""
    table = Table(title="What denoising gained")
    for title in ("test", without.name, with_.name, "gain"):
        table.add_column(shown(title))
    before, after = read_test(without), read_test(with_)
    for folder, metrics in ((without, before), (with_, after)):
        if not metrics:
            message = (
                f"{folder / 'metrics.csv'} has no test metrics: the run has not ended (llmhd fit tests then), it went "
                "on in another folder, or your own code did not call trainer.test(...)."
            )
            console.print(shown(message))
    for name in [name for name in before if name in after]:
        gain = after[name] / before[name] - 1 if before[name] else float("nan")
        values = f"{before[name]:.4f}", f"{after[name]:.4f}", f"{gain:+.1%}"
        table.add_row(shown(name.removeprefix("test/")), *values)
    if table.rows:
        console.print(table)


def differences(without: Path, with_: Path) -> str:
    """Return in a sentence what differs between two runs besides the denoising of the second; empty if nothing does.

    Args:
        without: The folder of a run without denoising.
        with_: The folder of a run with it.
    """
    before, after = read_settings(without), read_settings(with_)
    if not before or not after:
        return ""
    found = [
        f"{name} ({before.get(name)} and {after.get(name)})"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name) and not name.startswith("denoising")
    ]
    if (method := before.get("denoising.class_path")) is not None:
        found.insert(0, f"denoising ({without.name} has {method} too)")
    return f"The gain is not that of the denoising alone: the runs also differ in {', '.join(found)}." if found else ""


def print_judgements(console: Console, folder: Path, count: int = 8) -> None:
    """Print some suspicious samples: what the judge was told, what it answered, what was decided, and the truth."""
    preferences = {row["user"]: row.get("after", "") for row in read_preferences(folder)}
    rows = [row for row in read_judgements(folder) if row["score"] is not None]
    some = [row for keep in (True, False) for row in [row for row in rows if row["kept"] is keep][: count // 2]]
    audit = read_audit(folder)
    told = any(preferences.get(row["user"]) for row in some)  # a judge without texts knows its users by numbers
    columns = ["user", *(["preference"] if told else []), "item", "score", "decision", *(["truth"] if audit else [])]
    table = Table(*columns, title="Suspicious samples of the last epoch")
    for row in some:
        cells = [row.get("user_id", row["user"]), *([preferences.get(row["user"], "")] if told else [])]
        cells += [row["title"], f"{row['score']:.1f}", "kept" if row["kept"] else "dropped"]
        if audit is not None:
            known = 0 <= row["sample"] < len(audit["kind"])
            cells.append(kinds(audit["kind"])[audit["kind"][row["sample"]]] if known else "")
        table.add_row(*map(shown, cells))
    if some:
        console.print(table)


def print_preferences(console: Console, folder: Path, count: int = 5) -> None:
    """Print some revisions of preferences with their causes or, if there are none, some preferences."""
    rows = read_preferences(folder)
    revisions = [row for row in rows if row["cause"] == "revision"]
    changed = [row for row in revisions if row.get("before") != row.get("after")]
    if not revisions:
        summaries = [row for row in rows if "after" in row]
        table = Table("user", "preference", title=f"{min(count, len(summaries))} of {len(summaries)} preferences")
        for row in summaries[:count]:
            table.add_row(str(row["user"]), shown(row["after"]))
        if summaries:
            console.print(table)
        return
    some = changed[:count]
    table = Table("before", "because of", "after", title=f"{len(some)} of {len(revisions)} revised preferences")
    for row in some:
        titles = {word: row[word][:3] for word in ("disliked", "liked") if isinstance(row.get(word), list)}
        causes = "; ".join(f"{word}: {', '.join(map(str, some))}" for word, some in titles.items())
        table.add_row(shown(row.get("before", "")), shown(causes), shown(row.get("after", "")))
    if some:
        console.print(table)


def plot(without: Path, with_: Path) -> Path:
    """Draw ``report.png``: what was gained, and what was dropped.

    Args:
        without: The folder of a run without denoising.
        with_: The folder of a run with ``NoiseAudit``.

    Returns:
        The path of the picture, in the second folder.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the second run has no audit that can be read.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    plot_gain(left, without, with_)
    plot_dropped(right, with_)
    path = with_ / "report.png"
    try:
        with whole_file(path) as part:
            figure.savefig(part, format="png", dpi=130)
    finally:
        pyplot.close(figure)
    return path


def plot_gain(axes: Any, without: Path, with_: Path) -> None:
    """Draw the test metrics of both runs as bars, with the gain above each pair."""
    before, after = read_test(without), read_test(with_)
    names = sorted(before.keys() & after.keys(), key=lambda name: (name.partition("@")[0], len(name), name))
    places = np.arange(len(names))
    for offset, metrics, folder, color in ((-0.2, before, without, "silver"), (0.2, after, with_, "tab:blue")):
        axes.bar(places + offset, [metrics[name] for name in names], 0.4, label=_label(folder.name), color=color)
    for place, name in zip(places, names, strict=True):
        if before[name]:
            top = max(before[name], after[name])
            axes.text(place, top, f"{after[name] / before[name] - 1:+.0%}", ha="center", va="bottom")
    axes.set_xticks(places, [_label(name.removeprefix("test/")) for name in names])
    axes.margins(y=0.12)
    axes.set(title="What was gained (test)")
    axes.legend(loc="upper left")


def plot_dropped(axes: Any, folder: Path) -> None:
    """Draw, for each kind of sample that the data knows, how many are dropped after the last epoch."""
    audit = read_audit(folder)
    if audit is None:
        raise ValueError(f"{folder / 'audit.npz'} is needed: NoiseAudit in the run, and data that knows its noise.")
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
    # With room for the texts.
    axes.set_xlim(0, 1.6 * max((int((kind_of == kind).sum()) for kind in present), default=1))
    share = f"{(kind_of[dropped] == NOISE_KIND).mean():.0%} of it is noise" if dropped.any() else "nothing"
    axes.set(xlabel="training interactions", title=f"What was dropped: {share}")


def _label(text: str) -> str:
    """A text in a picture: a dollar begins no formula, and an underscore at the beginning hides no label."""
    return (
        "\u200b" + printable(text).replace("$", r"\$") if text.startswith("_") else printable(text).replace("$", r"\$")
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print everything, draw the picture and write the page.

    Args:
        arguments: The arguments; None takes those of the process.

    Raises:
        SystemExit: If one of the folders does not exist.
    """
    parser = argparse.ArgumentParser(
        "llmhd report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("without", type=Path, help="folder of a run without denoising")
    about = "folder of a run with LLMHD; the picture needs data that knows its noise"
    parser.add_argument("with_", type=Path, metavar="with", help=about)
    options = parser.parse_args(arguments)
    for folder in (options.without, options.with_):
        if not folder.is_dir():
            parser.error(f"there is no folder {folder}: give the folders of two runs, such as runs/quickstart-llmhd")
    console = terminal.console()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        print_judgements(console, options.with_)
        print_preferences(console, options.with_)
        print_metrics(console, options.without, options.with_)
        differ = differences(options.without, options.with_)
        audited = read_audit(options.with_) is not None
    messages = list(dict.fromkeys([*([differ] if differ else []), *(str(warning.message) for warning in caught)]))
    for message in messages:
        console.print(shown(message))
    picture = "it needs NoiseAudit in the run, and data that knows its noise."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same ones again, and letters that the font of the picture lacks
        try:
            if audited:
                picture = str(plot(options.without, options.with_))
        except OSError as error:
            audited, picture = False, str(error)
        page = options.with_ / "report.html"
        try:
            write_report_page(page, options.without, options.with_, messages)
            written = f"Page: {page}"
        except OSError as error:
            written = f"No page: {error}"
    console.print(shown(f"{'Picture' if audited else 'No picture'}: {picture}"))
    console.print(shown(written))


if __name__ == "__main__":
    main()
