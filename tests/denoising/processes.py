"""Simulated processes: threads that meet in a summing ``reduce``, as all-reduce does."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from llmhd_pl.denoising.selection import Reduce


def split(values: Tensor, owner: Tensor, process: int) -> Tensor:
    """What one process knows of float values [n] or [n, 2]: NaN where it is not the owner, int64 [n]."""
    mine = (owner == process).view(-1, *[1] * (values.dim() - 1))
    return torch.where(mine, values, torch.nan)


def in_processes(count: int, work: Callable[[int, Reduce], Any]) -> list[Any]:
    """Run ``work(process, reduce)`` in each of ``count`` threads; a reduce that not all take part in fails."""
    barrier = threading.Barrier(count, timeout=20)
    parts: list[Any] = [None] * count

    def run(process: int) -> Any:
        def reduce(tensor: Tensor) -> Tensor:
            parts[process] = tensor.clone()
            barrier.wait()
            total = torch.stack(parts).sum(dim=0)
            barrier.wait()
            return total.to(tensor.dtype)

        try:
            return work(process, reduce)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
