"""AtomicFiles: any data set in RecBole's atomic files (recbole.io/docs/user_guide/data/atomic_files.html)."""

import warnings
from contextlib import nullcontext
from itertools import compress
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from rich.console import Console

from llmhd_pl.datamodules.arguments import check_finite, check_split, check_whole
from llmhd_pl.datamodules.atomic_file import AtomicFile
from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.datamodules.interactions import NOISE, Interactions
from llmhd_pl.datamodules.noise import NoiseSource
from llmhd_pl.datamodules.table import Table, k_core, renumber, replace, sort_pairs, split
from llmhd_pl.memory import return_freed_memory

_MANY = 2_000_000
"""The interactions from which splitting takes so long, about a second, that it is shown."""
# How to do without a column that is missing.
_WITHOUT = {
    "rating": ", or leave out rating_threshold, noise_below and held_out_from",
    "time": ", or split at random",
}


class AtomicFiles(InteractionDataModule):
    """A folder with one ``.inter`` file and, for the text of the items, optionally one ``.item`` file.

    Users and items are numbered in the order of their identifiers, sorted as text, so that the order of the rows does
    not matter. Of a user and an item that occur together several times, one row counts: the latest for a temporal
    split, else the last in the file. Files whose names begin with a dot are not looked at.

    Args:
        data_dir: The folder.
        rating_threshold: The lowest rating of a positive. Interactions with a lower rating are left out of all splits;
            ``noise_source="low_rating"`` draws from them. None takes every interaction, rated or not.
        noise_below: Training interactions with a rating below this stay in the training split and count as noise in
            ``noise_mask`` and ``train_kinds``: real noise with a known truth (the protocol of Wang et al., WSDM 2021).
            None marks no interaction as noise.
        held_out_from: The lowest rating of a validation or test interaction. Those that the split puts there with a
            lower rating are in no split. None keeps all of them.
        k_core: The smallest number of interactions that a user and an item must have after the threshold; 0 keeps all.
        split: "random", or "temporal" to take each user's latest interactions as the test split and those before them
            as the validation split. Interactions of the same time are in a random order, the same for every seed.
        split_ratios: The shares of the training, validation and test split in each user's interactions. As in RecBole,
            a share above zero gets at least one interaction, as long as one is left for training.
        user_field: The name of the user column.
        item_field: The name of the item column, in both files.
        rating_field: The name of the rating column.
        time_field: The name of the time column.
        batch_size: The number of samples per optimiser step, over all devices together.
        eval_batch_size: The number of users ranked at once on each device.
        noise_ratio: The amount of noise added to the training split, as a share of its size.
        noise_source: "random" for unobserved pairs, "popular" for such of active users and popular
            items, "low_rating" for interactions below ``rating_threshold``.
        negative_lifetime: The number of epochs for which a negative stays with its sample.
        seed: The seed of the random split, the noise, the order and the negatives.
        num_negatives: The number of items that are drawn for each sample; see ``InteractionDataModule``.

    Raises:
        ValueError: If an argument is out of range; the message says which.
    """

    def __init__(
        self,
        data_dir: str,
        rating_threshold: float | None = None,
        noise_below: float | None = None,
        held_out_from: float | None = None,
        k_core: int = 0,
        split: Literal["random", "temporal"] = "random",
        split_ratios: tuple[float, float, float] = (0.6, 0.2, 0.2),
        user_field: str = "user_id",
        item_field: str = "item_id",
        rating_field: str = "rating",
        time_field: str = "timestamp",
        batch_size: int = 1024,
        eval_batch_size: int = 1024,
        noise_ratio: float = 0.0,
        noise_source: NoiseSource = "random",
        negative_lifetime: int = 5,
        seed: int = 0,
        num_negatives: int = 1,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, noise_ratio, noise_source, negative_lifetime, seed, num_negatives)
        check_split(split, split_ratios)
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
        self.data_dir = Path(data_dir)
        self.rating_threshold = rating_threshold
        self.noise_below, self.held_out_from = noise_below, held_out_from
        self.k_core = k_core
        self.split: Literal["random", "temporal"] = split
        self.split_ratios = split_ratios
        self.user_field, self.item_field = user_field, item_field
        self.rating_field, self.time_field = rating_field, time_field

    def load(self) -> Interactions:
        """Read, filter, number and split the interactions.

        Raises:
            FileNotFoundError: If there is no folder or no ``.inter`` file in it.
            ValueError: If a file is malformed (see ``AtomicFile``), there are several files of a kind, a column that is
                needed is missing or of the wrong type, no interaction is left, or the ``.item`` file names none of the
                items.
        """
        if not self.data_dir.is_dir():
            what = "is a file" if self.data_dir.exists() else "does not exist"
            raise FileNotFoundError(
                f"{self.data_dir.absolute()} {what}. Set data_dir to the folder of the .inter file."
            )
        path = self.only_file("inter")
        if path is None:
            raise FileNotFoundError(f"No .inter file is in {self.data_dir.absolute()}. Set data_dir to its folder.")
        table, user_names, item_names = self._read_interactions(path)
        with Console().status(f"splitting {len(table):,} interactions") if len(table) > _MANY else nullcontext():
            return self._split(path, table, user_names, item_names)

    def only_file(self, ending: str) -> Path | None:
        """Return the one file of the folder with this ending that is not hidden, or None if there is none.

        Args:
            ending: The ending, without its dot.

        Raises:
            ValueError: If there are several, or it is no file.
        """
        paths = sorted(path for path in self.data_dir.glob(f"*.{ending}") if not path.name.startswith("."))
        files = [path for path in paths if path.is_file()]
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise ValueError(f"{self.data_dir} holds several .{ending} files: {names}. Move all but one elsewhere.")
        if paths and not files:
            raise ValueError(
                f"{paths[0]} is a folder or a link that leads nowhere, not a file. Put the .{ending} file in its place."
            )
        return files[0] if files else None

    def _read_interactions(self, path: Path) -> tuple[Table, list[str], list[str]]:
        """Return what is needed of the file, each pair once, sorted, and the sorted names of users and items."""
        file = AtomicFile(path)
        wanted = {"user": self.user_field, "item": self.item_field}
        if self._bounds():
            wanted["rating"] = self.rating_field
        if self.split == "temporal":
            wanted["time"] = self.time_field
        for what, field in wanted.items():
            if field not in file.types:
                raise ValueError(
                    f"{path} has no column {field!r} for the {what}; it has {', '.join(file.types)}. "
                    f"Set {what}_field{_WITHOUT.get(what, '')}."
                )
            if what in ("user", "item"):
                _check_id_type(file, field)
            elif file.types[field] != "float":
                raise ValueError(
                    f"{path}: column {field!r} must have the type float to serve as the {what}. Write {field}:float in "
                    f"the header{_WITHOUT[what]}."
                )
        table, users, items = file.interactions(
            self.user_field, self.item_field, wanted.get("rating"), self._bounds(), wanted.get("time")
        )
        if len(table) == 0:
            raise ValueError(f"{path} has a header but no rows. Add the interactions, one per line.")
        return_freed_memory()
        sort_pairs(table, len(items))
        return_freed_memory()
        return table, users, items

    def _bounds(self) -> list[float]:
        """Return the ratings that matter, sorted."""
        bounds = (self.rating_threshold, self.noise_below, self.held_out_from)
        return sorted({bound for bound in bounds if bound is not None})

    def _reach(self, table: Table, bound: float) -> np.ndarray:
        """Return which ratings are equal to one of these bounds or above it."""
        assert table.grades is not None
        return table.grades > self._bounds().index(bound)

    def _split(self, path: Path, table: Table, user_names: list[str], item_names: list[str]) -> Interactions:
        """Filter the interactions, number those that are left anew, and divide them."""
        low = Table(table.users[:0], table.items[:0])
        if self.rating_threshold is not None:
            liked = self._reach(table, self.rating_threshold)
            low = Table(table.users[~liked], table.items[~liked])
            table.take(liked)
        table.take(k_core(table.users, table.items, self.k_core))
        if len(table) == 0:
            raise ValueError(
                f"{path}: no interaction is left after rating_threshold={self.rating_threshold} and "
                f"k_core={self.k_core}. Lower them."
            )
        known_users, new_users = renumber(table.users, len(user_names))
        known_items, new_items = renumber(table.items, len(item_names))
        low.take(known_users[low.users] & known_items[low.items])
        for rows in (table, low):
            replace(rows.users, new_users)
            replace(rows.items, new_items)
        user_names, item_names = list(compress(user_names, known_users)), list(compress(item_names, known_items))
        # A split by time does not depend on the seed.
        parts = split(table, self.split_ratios, 0 if self.split == "temporal" else self.seed)
        table.times = None
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
            name=str(path),
            num_users=len(user_names),
            num_items=len(item_names),
            train=train,
            valid=valid,
            test=test,
            low_rated=low_rated,
            train_kinds=kinds,
            items=self._item_texts(item_names),
            user_names=user_names,
            item_names=item_names,
        )

    def _item_texts(self, items: list[str]) -> list[dict[str, str]]:
        """Return the non-empty fields of each item as the file writes them; an empty list without an ``.item`` file."""
        path = self.only_file("item")
        if path is None:
            return []
        file = AtomicFile(path)
        if self.item_field not in file.types:
            raise ValueError(
                f"{path} has no column {self.item_field!r}; it has {', '.join(file.types)}. Name the column of the "
                "items as in the .inter file."
            )
        _check_id_type(file, self.item_field)
        names = pa.array(items, pa.string())
        texts: list[dict[str, str]] = [{} for _ in items]
        described = np.zeros(len(items), dtype=bool)
        rows, example = 0, "none"
        for batch in file.batches(dict.fromkeys(file.types, pa.string())):
            ids = batch.column(self.item_field)
            example = repr(ids[0].as_py()) if rows == 0 and len(batch) else example
            rows += len(batch)
            numbers = pc.fill_null(pc.index_in(ids, names), -1).to_numpy()
            fresh = np.flatnonzero(numbers >= 0)
            _, first = np.unique(numbers[fresh], return_index=True)  # of several rows of an item, the first counts
            fresh = fresh[first]
            fresh = fresh[~described[numbers[fresh]]]
            described[numbers[fresh]] = True
            fields = batch.drop_columns([self.item_field]).take(pa.array(fresh)).to_pylist() or [{}] * len(fresh)
            for number, row in zip(numbers[fresh].tolist(), fields, strict=True):
                texts[number] = {name: text for name, text in row.items() if text}
        missing = np.flatnonzero(~described)
        if len(missing) == len(items):
            raise ValueError(
                f"{path}: none of its {rows} items is in the interactions, which name items such as "
                f"{items[0]!r}; this file names {example}. Use the same {self.item_field} in both files."
            )
        if len(missing):
            warnings.warn(
                f"{path} has no row for {len(missing)} of {len(items)} items, such as "
                f"{items[int(missing[0])]!r}. Items without text are not judged; the loss alone decides on "
                "them.",
                stacklevel=2,
            )
        return texts


def _check_id_type(file: AtomicFile, field: str) -> None:
    """Refuse identifiers that are declared to be numbers, which other programs would round to 53 bits."""
    if file.types[field].startswith("float"):
        raise ValueError(
            f"{file.path}: column {field!r} holds identifiers, but its type is {file.types[field]}, in which long "
            f"identifiers become equal. Write {field}:token in the header, and the identifiers as they are."
        )
