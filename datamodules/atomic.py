"""AtomicFiles: any data set in RecBole's atomic files (recbole.io/docs/user_guide/data/atomic_files.html)."""

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.datamodules.interactions import NOISE, Interactions
from llmhd_pl.datamodules.noise import NoiseSource

# How to do without a column that is missing.
_WITHOUT = {
    "rating": ", or leave out rating_threshold, noise_below and held_out_from",
    "time": ", or split at random",
}
_TYPES = ("token", "token_seq", "float", "float_seq")


def read_atomic(path: Path) -> pd.DataFrame:
    """Read one atomic file: tab-separated, UTF-8, with a header of ``name:type``.

    Args:
        path: The file.

    Returns:
        The table, with columns named without their type. Tokens and sequences stay text, floats become float64.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not UTF-8, the header is malformed or names a column twice, a row has the wrong
            number of fields, or a value in a float column is not a number.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing.")
    try:
        with path.open(encoding="utf-8") as file:
            header, *rows = [line.rstrip("\r\n").split("\t") for line in file] or [[""]]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}). Convert it to UTF-8.") from error
    types: dict[str, str] = {}
    for column in header:
        name, _, kind = column.partition(":")
        if not name or kind not in _TYPES:
            raise ValueError(
                f"{path}, line 1: column {column!r} is not 'name:type' with a type of {', '.join(_TYPES)}."
            )
        if name in types:
            raise ValueError(f"{path}, line 1: column {name!r} is named twice.")
        types[name] = kind
    for number, row in enumerate(rows, start=2):
        if len(row) != len(types):
            raise ValueError(f"{path}, line {number}: {len(row)} fields, but the header names {len(types)}.")
    table = pd.DataFrame(rows, columns=list(types), dtype=str)
    for name in (name for name, kind in types.items() if kind == "float"):
        numbers = pd.to_numeric(table[name], errors="coerce")
        if numbers.isna().any():
            bad = int(np.asarray(numbers.isna()).argmax())
            raise ValueError(f"{path}, line {bad + 2}: {name} is {table[name].iloc[bad]!r}, not a number.")
        table[name] = numbers.astype(np.float64)
    return table


def k_core(table: pd.DataFrame, k: int) -> pd.DataFrame:
    """Remove users and items with fewer than k interactions, repeatedly, until every one left has at least k.

    Args:
        table: The interactions, with the columns ``user`` and ``item``.
        k: The smallest number of interactions that a user or an item may have.

    Returns:
        The remaining rows, in their order. The table can be empty.
    """
    while True:
        users, items = (table.groupby(column)[column].transform("size") for column in ("user", "item"))
        keep = (users >= k) & (items >= k)
        if keep.all():
            return table
        table = table[keep]


class AtomicFiles(InteractionDataModule):
    """A folder with one ``.inter`` file and, for the text of the items, optionally one ``.item`` file.

    Users and items are numbered in the order of their first appearance in the ``.inter`` file.

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
            as the validation split.
        split_ratios: The shares of the training, validation and test split in each user's interactions. As in RecBole,
            a share above zero gets at least one interaction, as long as one is left for training.
        user_field: The name of the user column.
        item_field: The name of the item column, in both files.
        rating_field: The name of the rating column.
        time_field: The name of the time column.
        batch_size: The number of samples per optimiser step, over all devices together.
        eval_batch_size: The number of users ranked at once on each device.
        noise_ratio: The amount of noise added to the training split, as a share of its size.
        noise_source: "random" for unobserved pairs, "low_rating" for interactions below ``rating_threshold``.
        negative_lifetime: The number of epochs for which a negative stays with its sample.
        seed: The seed of the random split, the noise, the order and the negatives.

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
    ) -> None:
        super().__init__(batch_size, eval_batch_size, noise_ratio, noise_source, negative_lifetime, seed)
        if split not in ("random", "temporal"):
            raise ValueError(f"split is {split!r}; it must be 'random' or 'temporal'.")
        if len(split_ratios) != 3 or min(split_ratios) < 0 or split_ratios[0] == 0 or abs(sum(split_ratios) - 1) > 1e-6:
            raise ValueError(
                f"split_ratios is {split_ratios}; it must be three shares that sum to 1, the first above 0."
            )
        if k_core < 0:
            raise ValueError(f"k_core is {k_core}; it cannot be negative.")
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
            ValueError: If a file is malformed (see ``read_atomic``), there are several files of a kind, a column is
                missing, an id is empty, no interaction is left, or the ``.item`` file names none of the items.
        """
        if not self.data_dir.is_dir():
            what = "is a file" if self.data_dir.exists() else "does not exist"
            raise FileNotFoundError(f"{self.data_dir.resolve()} {what}. Set data_dir to the folder of the .inter file.")
        path = self._only_file("inter")
        if path is None:
            raise FileNotFoundError(f"No .inter file is in {self.data_dir.resolve()}. Set data_dir to its folder.")
        table = self._read_interactions(path)
        low = table.iloc[:0]
        if self.rating_threshold is not None:
            liked = table["rating"] >= self.rating_threshold
            table, low = table[liked], table[~liked]
        table = k_core(table, self.k_core)
        if table.empty:
            raise ValueError(
                f"{path}: no interaction is left after rating_threshold={self.rating_threshold} and "
                f"k_core={self.k_core}. Lower them."
            )
        # Users and items are numbered in the order of their first appearance in the file.
        users, items = (pd.Index(table[column].unique()) for column in ("user", "item"))
        low = low[low["user"].isin(users) & low["item"].isin(items)]
        parts = self._split(table)
        if self.held_out_from is not None:
            parts[(parts > 0) & (table["rating"] < self.held_out_from).to_numpy()] = -1  # in no split
        kinds = None
        if self.noise_below is not None:
            noise = (table["rating"][parts == 0] < self.noise_below).to_numpy()
            kinds = torch.from_numpy(noise * np.int8(NOISE))

        def pairs(rows: pd.DataFrame) -> Tensor:
            numbers = np.stack([users.get_indexer(rows["user"]), items.get_indexer(rows["item"])], axis=1)
            return torch.from_numpy(numbers.astype(np.int64))

        return Interactions(
            name=str(path),
            num_users=len(users),
            num_items=len(items),
            train=pairs(table[parts == 0]),
            valid=pairs(table[parts == 1]),
            test=pairs(table[parts == 2]),
            low_rated=None if self.rating_threshold is None else pairs(low),
            train_kinds=kinds,
            items=self._item_texts(items),
            user_names=list(users),
            item_names=list(items),
        )

    def _only_file(self, ending: str) -> Path | None:
        """Return the one file with this ending, or None if there is none."""
        files = sorted(self.data_dir.glob(f"*.{ending}"))
        if len(files) > 1:
            raise ValueError(f"{self.data_dir} holds several .{ending} files: {', '.join(f.name for f in files)}.")
        return files[0] if files else None

    def _read_interactions(self, path: Path) -> pd.DataFrame:
        """Return the columns user, item, rating and time that are needed; of a repeated pair, only the last row."""
        table = read_atomic(path)
        wanted = {"user": self.user_field, "item": self.item_field}
        if any(bound is not None for bound in (self.rating_threshold, self.noise_below, self.held_out_from)):
            wanted["rating"] = self.rating_field
        if self.split == "temporal":
            wanted["time"] = self.time_field
        for what, field in wanted.items():
            if field not in table:
                raise ValueError(
                    f"{path} has no column {field!r} for the {what}; it has {', '.join(table.columns)}. "
                    f"Set {what}_field{_WITHOUT.get(what, '')}."
                )
            if what in ("rating", "time") and table[field].dtype != np.float64:
                raise ValueError(f"{path}: column {field!r} must have the type float to serve as the {what}.")
        for what in ("user", "item"):
            if (empty := (table[wanted[what]] == "").to_numpy()).any():
                raise ValueError(f"{path}, line {int(empty.argmax()) + 2}: {wanted[what]} is empty. Remove the row.")
        table = table[list(wanted.values())].set_axis(list(wanted), axis=1)
        return table.drop_duplicates(["user", "item"], keep="last")

    def _split(self, table: pd.DataFrame) -> np.ndarray:
        """Return 0, 1 or 2 (train, valid, test) for each row."""
        if self.split == "temporal":
            order = np.asarray(table["time"].argsort(kind="stable"))
        else:
            order = np.random.default_rng([self.seed, 0x5117]).permutation(len(table))
        by_user = table["user"].iloc[order]
        groups = by_user.groupby(by_user, sort=False)
        place = groups.cumcount().to_numpy()
        total = groups.transform("size").to_numpy()
        # 1e-9: 0.2 * 15 is 3.0000000000000004 in one order of multiplication and 2.9999999999999996 in another
        valid, test = (np.floor(ratio * total + 1e-9).astype(np.int64) for ratio in self.split_ratios[1:])
        train = total - valid - test
        for ratio, count in ((self.split_ratios[2], test), (self.split_ratios[1], valid)):
            short = (count == 0) & (ratio > 0) & (train > 1)
            count += short
            train -= short
        parts = np.empty(len(table), dtype=np.int64)
        parts[order] = (place >= train).astype(np.int64) + (place >= total - test)
        return parts

    def _item_texts(self, items: "pd.Index[str]") -> list[dict[str, str]]:
        """Return the non-empty fields of each item; an empty list if there is no ``.item`` file."""
        path = self._only_file("item")
        if path is None:
            return []
        table = read_atomic(path)
        if self.item_field not in table:
            raise ValueError(f"{path} has no column {self.item_field!r}; it has {', '.join(table.columns)}.")
        table = table.drop_duplicates(self.item_field).set_index(self.item_field).astype(str)
        missing = items[~items.isin(table.index)]
        if len(missing) == len(items):
            raise ValueError(
                f"{path}: none of its {len(table)} items is in the interactions, which name items such as "
                f"{items[0]!r}; this file names {', '.join(map(repr, table.index[:1])) or 'none'}. "
                f"Use the same {self.item_field} in both files."
            )
        if len(missing):
            warnings.warn(
                f"{path} has no row for {len(missing)} of {len(items)} items, such as {missing[0]!r}. Items without "
                "text are not judged; the loss alone decides on them.",
                stacklevel=2,
            )
        # pandas 2 drops the rows of a table without columns
        rows = table.reindex(items, fill_value="").to_dict("records") or [{}] * len(items)
        return [{str(name): text for name, text in row.items() if text} for row in rows]
