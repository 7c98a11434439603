"""Interactions small enough to check against plain Python, and a data module that serves them."""

import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from llmhd_pl.datamodules import InteractionDataModule, Interactions

Pair = tuple[int, int]


class InMemory(InteractionDataModule):
    def __init__(self, interactions: Interactions, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._given = interactions
        self.loads = 0

    def load(self) -> Interactions:
        self.loads += 1
        return self._given


def ready(interactions: Interactions, **arguments: Any) -> InMemory:
    """A data module after ``setup``."""
    data = InMemory(interactions, **arguments)
    data.setup()
    return data


def tensor(pairs: Any) -> Tensor:
    return torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2)


def pairs_of(*columns: Tensor) -> list[Pair]:
    """The rows of an [n, 2] tensor, or of two columns, as tuples."""
    table = columns[0] if len(columns) == 1 else torch.stack(columns, dim=1)
    return [(user, item) for user, item in table.tolist()]


def make(num_users: int, num_items: int, train: Any, valid: Any = (), test: Any = (), **more: Any) -> Interactions:
    return Interactions("small", num_users, num_items, tensor(train), tensor(valid), tensor(test), **more)


@st.composite
def interactions(draw: st.DrawFn, max_users: int = 7, max_items: int = 9) -> Interactions:
    """Up to 7 users and 9 items. Some have no interactions; some users lack a single item of the catalog."""
    num_users = draw(st.integers(1, max_users))
    num_items = draw(st.integers(2, max_items))
    parts: dict[str, list[Pair]] = {"none": [], "train": [], "valid": [], "test": [], "low": []}
    for user in range(num_users):
        saturated = draw(st.booleans())
        cell = st.just("train") if saturated else st.sampled_from(sorted(parts))
        row = draw(st.lists(cell, min_size=num_items, max_size=num_items))
        if saturated or set(row) == {"train"}:
            row[draw(st.integers(0, num_items - 1))] = draw(st.sampled_from(["none", "valid", "test", "low"]))
        for item, part in enumerate(row):
            parts[part].append((user, item))
    if not parts["train"]:
        first = draw(st.sampled_from([(user, item) for user in range(num_users) for item in range(num_items)]))
        for part in parts.values():
            if first in part:
                part.remove(first)
        parts["train"].append(first)
    low = parts["low"] + parts["train"][::2] + parts["test"][::2]  # observed pairs among them are no noise
    return make(num_users, num_items, parts["train"], parts["valid"], parts["test"], low_rated=tensor(low))


def naive_k_core(pairs: set[Any], k: int) -> set[Any]:
    """Remove one offending pair at a time."""
    pairs = set(pairs)
    while True:
        users, items = Counter(user for user, *_ in pairs), Counter(item for _, item, *_ in pairs)
        for pair in pairs:
            if users[pair[0]] < k or items[pair[1]] < k:
                pairs.remove(pair)
                break
        else:
            return pairs


def within_100_mb(work: Callable[[], Any]) -> Any:
    """Do some work under a limit of 100 MB for the memory that this process asks for in addition."""
    with Path("/proc/self/statm").open() as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 100_000_000, before[1]))
    try:
        return work()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
