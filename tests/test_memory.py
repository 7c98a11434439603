import platform
import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource, statistics
import torch
from llmhd_pl.memory import keep_freed_memory
{call}
faults = []
for step in range(20):
    torch.ones(40_000_000).sum()  # 160 MB, 39,063 pages
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
# The median, because now and then a single block still faults, even late.
print(int(statistics.median(after - before for before, after in zip(faults[9:], faults[10:]))))
"""


def page_faults(call: str) -> int:
    """Page faults per block that is taken and freed, in a process of its own, because the setting cannot be undone."""
    script = [sys.executable, "-c", PAGE_FAULTS.format(call=call)]
    return int(subprocess.run(script, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="without glibc there is nothing to set")
def test_freed_memory_is_used_again() -> None:
    assert page_faults("keep_freed_memory()") < 100
    if page_faults("") < 100:
        pytest.skip("this machine's huge pages leave no faults to count")
