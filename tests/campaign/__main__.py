"""Tries a few hundred faults on the product and prints what happened, as the table of docs/reliability.md.

    python -m tests.campaign            # all groups
    python -m tests.campaign files      # files, caches, servers or kills

The exit status is 1 if anything went wrong. Each case that did is printed with its error.
"""

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from pathlib import Path

from tests.campaign.case import Case

GROUPS = ("files", "caches", "servers", "kills")


def cases_of(group: str) -> list[Case]:
    """Return the cases of a group."""
    cases: list[Case] = importlib.import_module(f"tests.campaign.{group}").cases()
    return cases


def try_case(case: Case) -> tuple[str, str]:
    """Try one fault in a folder of its own.

    Returns:
        What happened, and the error if that is not what should have happened.
    """
    quiet = contextlib.redirect_stdout(io.StringIO())  # progress bars
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        try:
            return case.check(Path(folder)), ""
        except BaseException:
            return "WRONG", traceback.format_exc()


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.campaign", description=__doc__)
    parser.add_argument("groups", nargs="*", default=GROUPS, metavar="group", help=", ".join(GROUPS))
    wrong = 0
    print("| group | what was tried | times | what happened |\n|---|---|--:|---|", flush=True)
    for group in parser.parse_args().groups:
        started = time.monotonic()
        happened: dict[str, Counter[str]] = defaultdict(Counter)
        for case in cases_of(group):
            result, error = try_case(case)
            happened[case.kind][result] += 1
            if error:
                wrong += 1
                print(f"{group}: {case.kind}: {case.name}\n{error}", file=sys.stderr, flush=True)
        for kind, results in happened.items():
            total = results.total()
            words = "; ".join(f"{result}{f' ({times})' if times < total else ''}" for result, times in results.items())
            print(f"| {group} | {kind} | {total} | {words} |", flush=True)
        print(f"{group}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
