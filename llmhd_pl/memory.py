"""What the memory allocator of glibc does with freed memory."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step. Call it only if you own the process, as the command line does.

    By default glibc returns a block of some MB to the kernel when it is freed, and every tensor of node embeddings or
    predictions is that large. The kernel fills the next block with zeros, page by page, in every step. With this
    setting the process keeps its peak memory as long as it lives. Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def return_freed_memory() -> None:
    """Give memory that was freed back to the kernel, once, after work that needed much more than what comes after it.

    Of what is freed in blocks of less than 32 MB, glibc keeps most, and pieces too small for the next blocks add up.
    Without glibc nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
