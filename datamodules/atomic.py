"""AtomicFiles: any data set in RecBole's atomic files (recbole.io/docs/user_guide/data/atomic_files.html)."""

from pathlib import Path

import pyarrow as pa

from llmhd_pl.datamodules.atomic_file import AtomicFile
from llmhd_pl.datamodules.divided import DividedDataModule, Split
from llmhd_pl.datamodules.interactions import Interactions
from llmhd_pl.datamodules.item_rows import matched_texts
from llmhd_pl.datamodules.noise import NoiseSource
from llmhd_pl.datamodules.table import Table

# How to do without a column that is missing.
_WITHOUT = {
    "rating": ", or leave out rating_threshold, noise_below and held_out_from",
    "time": ", or split at random",
}


class AtomicFiles(DividedDataModule):
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
        split: "random", each user's interactions; "temporal", each user's latest interactions are the test split and
            those before them the validation split; "leave-last-out", each user's last interaction and the one before
            it; or "temporal-global", all interactions from a cut-off time on, the same for all users. See
            docs/data.md for ties and for users and items that training does not know.
        split_ratios: The shares of the training, validation and test split: in each user's interactions for "random"
            and "temporal" (as in RecBole, a share above zero gets at least one, as long as one is left for training),
            in all interactions for "temporal-global". "leave-last-out" does not use them.
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
        split_times: For "temporal-global", in place of the shares: the time from which on interactions are for
            validation, and the one from which on they are for the test, as numbers in the unit of the column.

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
        split: Split = "random",
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
        split_times: tuple[int | float | str, int | float | str] | None = None,
    ) -> None:
        super().__init__(
            rating_threshold,
            noise_below,
            held_out_from,
            k_core,
            split,
            split_ratios,
            split_times,
            batch_size,
            eval_batch_size,
            noise_ratio,
            noise_source,
            negative_lifetime,
            seed,
            num_negatives,
        )
        self.data_dir = Path(data_dir)
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
        return self.divide(str(path), *self._read_interactions(path), self._item_texts)

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
        """Return what is needed of the file, and the sorted names of users and items."""
        file = AtomicFile(path)
        wanted = {"user": self.user_field, "item": self.item_field}
        if self.rating_bounds():
            wanted["rating"] = self.rating_field
        if self.timed:
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
            self.user_field,
            self.item_field,
            wanted.get("rating"),
            self.rating_bounds(),
            wanted.get("time"),
            self.split_times or (),
        )
        if len(table) == 0:
            raise ValueError(f"{path} has a header but no rows. Add the interactions, one per line.")
        return table, users, items

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
        return matched_texts(file.batches(dict.fromkeys(file.types, pa.string())), str(path), self.item_field, items)


def _check_id_type(file: AtomicFile, field: str) -> None:
    """Refuse identifiers that are declared to be numbers, which other programs would round to 53 bits."""
    if file.types[field].startswith("float"):
        raise ValueError(
            f"{file.path}: column {field!r} holds identifiers, but its type is {file.types[field]}, in which long "
            f"identifiers become equal. Write {field}:token in the header, and the identifiers as they are."
        )
