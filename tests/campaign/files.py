"""Data files that are damaged, hostile or only unusual, read by AtomicFiles and by the module for RLMRec's folders."""

from tests.campaign import atomic_files, matrix_files
from tests.campaign.case import Case


def cases() -> list[Case]:
    """Return all cases with data files."""
    return atomic_files.cases() + matrix_files.cases()
