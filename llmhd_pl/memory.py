"""How a process keeps the memory that it has freed."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step: for whoever owns the process, as ``train.py`` does.

    By default a block of some MB, which every tensor of node embeddings or predictions is, is given back to the kernel
    when it is freed, and the kernel fills the next one with zeros, page by page, in every step. The
    process keeps its peak for as long as it lives. Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
