"""DividedDataModule: what data modules share that divide interactions with ratings and times themselves."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from itertools import compress
from typing import Literal

import numpy as np
import torch
from rich.console import Console

from llmhd_pl.datamodules.arguments import check_cuts, check_finite, check_split, check_whole
from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.datamodules.interactions import NOISE, Interactions
from llmhd_pl.datamodules.noise import NoiseSource
from llmhd_pl.datamodules.table import (
    Table,
    cut_times,
    k_core,
    known_from_training,
    place_in_time,
    renumber,
    replace,
    sort_pairs,
    split,
    split_at,
)
from llmhd_pl.memory import return_freed_memory

Split = Literal["random", "temporal", "leave-last-out", "temporal-global"]
_MANY = 2_000_000
"""The interactions from which splitting takes so long, about a second, that it is shown."""


class DividedDataModule(InteractionDataModule):
    """A data module that filters, numbers and divides the interactions of a table.

    A child class reads the table with the columns that ``rating_bounds`` and ``timed`` ask for, and returns what
    ``divide`` makes of it. ``AtomicFiles`` and ``TableData`` describe the arguments.

    Raises:
        ValueError: If an argument is out of range; the message says which.
    """

    def __init__(
        self,
        rating_threshold: float | None,
        noise_below: float | None,
        held_out_from: float | None,
        k_core: int,
        split: Split,
        split_ratios: tuple[float, float, float],
        split_times: tuple[int | float | str, int | float | str] | None,
        batch_size: int = 1024,
        eval_batch_size: int = 1024,
        noise_ratio: float = 0.0,
        noise_source: NoiseSource = "random",
        negative_lifetime: int = 5,
        seed: int = 0,
        num_negatives: int = 1,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, noise_ratio, noise_source, negative_lifetime, seed, num_negatives)
        check_split(split, split_ratios, Split)
        check_cuts(split, split_times)
        for name, bound in (
            ("rating_threshold", rating_threshold),
            ("noise_below", noise_below),
            ("held_out_from", held_out_from),
        ):
            check_finite(name, bound)
        check_whole("k_core", k_core, 0)
        if noise_below is not None and rating_threshold is not None and noise_below <= rating_threshold:
            raise ValueError(
                f"noise_below is {noise_below}, but nothing rated below rating_threshold ({rating_threshold}) is in "
                "the training split. Raise noise_below, or leave out rating_threshold."
            )
        self.rating_threshold = rating_threshold
        self.noise_below, self.held_out_from = noise_below, held_out_from
        self.k_core = k_core
        self.split: Split = split
        self.split_ratios, self.split_times = split_ratios, split_times

    def rating_bounds(self) -> list[float]:
        """Return the ratings that matter, sorted; none if no rating does."""
        bounds = (self.rating_threshold, self.noise_below, self.held_out_from)
        return sorted({bound for bound in bounds if bound is not None})

    @property
    def timed(self) -> bool:
        """Whether the split needs times."""
        return self.split != "random"

    def divide(
        self,
        name: str,
        table: Table,
        user_names: list[str],
        item_names: list[str],
        texts: Callable[[list[str]], list[dict[str, str]]],
    ) -> Interactions:
        """Filter the interactions, divide them, and number the users and items that are left.

        Args:
            name: Where the interactions come from, for messages.
            table: The interactions in the order of their source, with grades for ``rating_bounds``, and with times and
                cuts if they are needed. It is emptied.
            user_names: The identifiers of the users, sorted.
            item_names: The identifiers of the items, sorted.
            texts: Returns the text fields of the items that are left, given their identifiers.

        Raises:
            ValueError: If no interaction is left, or none for training.
        """
        with Console().status(f"splitting {len(table):,} interactions") if len(table) > _MANY else nullcontext():
            if self.split == "leave-last-out":
                assert table.times is not None
                table.times = place_in_time(table.times)
            return_freed_memory()
            sort_pairs(table, len(item_names))
            return_freed_memory()
            low = Table(table.users[:0], table.items[:0], times=None if table.times is None else table.times[:0])
            if self.rating_threshold is not None:
                liked = self._reach(table, self.rating_threshold)
                low = Table(table.users, table.items, times=table.times)
                low.take(~liked)
                table.take(liked)
            table.take(k_core(table.users, table.items, self.k_core))
            if len(table) == 0:
                raise ValueError(
                    f"{name}: no interaction is left after rating_threshold={self.rating_threshold} and "
                    f"k_core={self.k_core}. Lower them."
                )
            parts = self._parts(name, table, low)
            known_users, new_users = renumber(table.users, len(user_names))
            known_items, new_items = renumber(table.items, len(item_names))
            low.take(known_users[low.users] & known_items[low.items])
            for rows in (table, low):
                replace(rows.users, new_users)
                replace(rows.items, new_items)
            user_names, item_names = list(compress(user_names, known_users)), list(compress(item_names, known_items))
            if self.held_out_from is not None:
                parts[(parts > 0) & ~self._reach(table, self.held_out_from)] = -1  # in no split
            kinds = None
            if self.noise_below is not None:
                kinds = torch.from_numpy(~self._reach(table, self.noise_below)[parts == 0] * np.int8(NOISE))
            train, valid, test = (table.pairs(parts == part) for part in range(3))
            low_rated = None if self.rating_threshold is None else low.pairs()
            table.take(np.empty(0, dtype=np.int64))  # a slice would keep the memory
            return_freed_memory()
        return Interactions(
            name=name,
            num_users=len(user_names),
            num_items=len(item_names),
            train=train,
            valid=valid,
            test=test,
            low_rated=low_rated,
            train_kinds=kinds,
            items=texts(item_names),
            user_names=user_names,
            item_names=item_names,
        )

    def _parts(self, name: str, table: Table, low: Table) -> np.ndarray:
        """Return the split of each row, and remove from both tables what a cut-off time leaves out."""
        if self.split != "temporal-global":
            # A split by time does not depend on the seed.
            ratios = None if self.split == "leave-last-out" else self.split_ratios
            parts = split(table, ratios, 0 if self.timed else self.seed)
            table.times = low.times = None
            return parts
        assert table.times is not None and low.times is not None
        cuts = table.cuts or cut_times(table.times, self.split_ratios)
        if cuts[0] > cuts[1]:
            raise ValueError(f"split_times is {self.split_times}, but the test begins after the validation. Swap them.")
        parts = split_at(table.times, cuts)
        low.take(low.times < cuts[0])  # noise in the training split is not from later either
        table.times = low.times = None
        if not (parts == 0).any():
            raise ValueError(
                f"{name}: no interaction is before the first cut-off time, so that there is nothing to learn from. Set "
                "split_times, or choose smaller held-out shares in split_ratios."
            )
        known = known_from_training(table, parts)
        if not known.all():
            warnings.warn(
                f"{name}: {int((~known).sum())} of {int((parts > 0).sum())} interactions from the first cut-off time "
                "on are of users or items without training interactions; they are in no split.",
                stacklevel=2,
            )
        table.take(known)
        return np.asarray(parts[known])

    def _reach(self, table: Table, bound: float) -> np.ndarray:
        """Return which ratings are equal to one of these bounds or above it."""
        assert table.grades is not None
        reached: np.ndarray = table.grades > self.rating_bounds().index(bound)
        return reached
