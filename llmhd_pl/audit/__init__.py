"""How noisy is my data? ``llmhd audit --data AtomicFiles --data.data_dir data/my-shop --scorer LexicalScorer``.

Judges every interaction beside other users with the same item, and estimates which share came about by chance. No
recommender is trained. ``docs/audit.md`` says how to read what it finds.
"""

from collections.abc import Sequence

from llmhd_pl.audit.findings import Audit
from llmhd_pl.audit.measure import audit, suspicious

__all__ = ["Audit", "audit", "main", "suspicious"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Audit interactions, and show what was found.

    Args:
        arguments: The arguments; None takes those of the process.

    Raises:
        SystemExit: If the arguments are wrong.
    """
    from llmhd_pl.audit.command import run  # it imports all methods, whose callbacks import this package

    run(arguments)
