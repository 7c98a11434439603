"""TableData: interactions and items of one's own, from Parquet, CSV or data frames."""

from typing import Any

from llmhd_pl.datamodules.divided import DividedDataModule, Split
from llmhd_pl.datamodules.interactions import Interactions
from llmhd_pl.datamodules.noise import NoiseSource
from llmhd_pl.datamodules.tabular import Tabular


class TableData(DividedDataModule):
    """Interactions, and optionally the text of the items, from Parquet files, CSV files or data frames.

    A file ends in ``.parquet`` or ``.csv`` (UTF-8, a header, commas, quotes as in RFC 4180). A data frame is one of
    pandas, polars or Arrow, or any object with ``to_arrow`` or ``to_pandas``.

    Identifiers are text or whole numbers. Users and items are numbered in the order of their identifiers, sorted as
    text, so that the same interactions give the same numbers whatever they are read from. Of a user and an item that
    occur together several times, one row counts: the latest if the split is by time, else the last.

    Args:
        interactions: The interactions, a row each.
        items: The items, a row each, with the same item column as the interactions. All other columns are text about
            the item; of several rows of an item, the first counts. None if there is no text.
        user: The name of the user column.
        item: The name of the item column, in both tables.
        rating: The name of the rating column. ``rating_threshold``, ``noise_below`` and ``held_out_from`` need it.
        time: The name of the time column: numbers, dates or timestamps. All splits but "random" need it.
        rating_threshold: The lowest rating of a positive. Interactions with a lower rating are left out of all splits;
            ``noise_source="low_rating"`` draws from them. None takes every interaction, rated or not.
        noise_below: Training interactions with a rating below this stay in the training split and count as noise in
            ``noise_mask``; see ``AtomicFiles``.
        held_out_from: The lowest rating of a validation or test interaction; see ``AtomicFiles``.
        k_core: The smallest number of interactions that a user and an item must have after the threshold; 0 keeps all.
        split: "random", each user's interactions; "temporal", each user's latest interactions are the test split and
            those before them the validation split; "leave-last-out", each user's last interaction and the one before
            it; or "temporal-global", all interactions from a cut-off time on, the same for all users. See
            docs/data.md for ties and for users and items that training does not know.
        split_ratios: The shares of the training, validation and test split; see ``AtomicFiles``.
        split_times: For "temporal-global", in place of the shares: the time from which on interactions are for
            validation, and the one from which on they are for the test. Numbers in the unit of the column, or for
            dates and timestamps text such as "2026-01-31".
        batch_size: The number of samples per optimiser step, over all devices together.
        eval_batch_size: The number of users ranked at once on each device.
        noise_ratio: The amount of noise added to the training split, as a share of its size.
        noise_source: "random" for unobserved pairs, "popular" for such of active users and popular
            items, "low_rating" for interactions below ``rating_threshold``.
        negative_lifetime: The number of epochs for which a negative stays with its sample.
        seed: The seed of the random split, the noise, the order and the negatives.
        num_negatives: The number of items that are drawn for each sample; see ``InteractionDataModule``.

    Raises:
        ValueError: If an argument is out of range, or ``rating`` or ``time`` is needed and not given; the message says
            which.
    """

    def __init__(
        self,
        interactions: Any,
        items: Any = None,
        user: str = "user_id",
        item: str = "item_id",
        rating: str | None = None,
        time: str | None = None,
        rating_threshold: float | None = None,
        noise_below: float | None = None,
        held_out_from: float | None = None,
        k_core: int = 0,
        split: Split = "random",
        split_ratios: tuple[float, float, float] = (0.6, 0.2, 0.2),
        split_times: tuple[int | float | str, int | float | str] | None = None,
        batch_size: int = 1024,
        eval_batch_size: int = 1024,
        noise_ratio: float = 0.0,
        noise_source: NoiseSource = "random",
        negative_lifetime: int = 5,
        seed: int = 0,
        num_negatives: int = 1,
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
        if self.rating_bounds() and rating is None:
            raise ValueError(
                "rating is None, but rating_threshold, noise_below and held_out_from compare ratings. Set rating to "
                "the name of their column, or leave these out."
            )
        if self.timed and time is None:
            raise ValueError(f"time is None, but split is {split!r}. Set time to the name of its column.")
        if user == item:
            raise ValueError(f"user and item are both {user!r}. Name the column of each.")
        self.given, self.given_items = interactions, items
        self.user, self.item, self.rating, self.time = user, item, rating, time

    def load(self) -> Interactions:
        """Read, filter, number and split the interactions.

        Raises:
            FileNotFoundError: If a file does not exist.
            TypeError: If something else than a path or a data frame was given.
            ValueError: If a file is broken or of another kind (see ``Tabular``), a column that is needed is missing or
                of a type that it cannot have, a value is missing or out of range, no interaction is left, or the items
                name none of those in the interactions.
        """
        source = Tabular(self.given, "interactions")
        rating = self.rating if self.rating_bounds() else None
        time = self.time if self.timed else None
        for what, column in (("user", self.user), ("item", self.item), ("rating", rating), ("time", time)):
            if column is not None:
                source.need(column, what)
        items = None if self.given_items is None else Tabular(self.given_items, "items")
        if items is not None:
            items.need(self.item, "item")
        table, users, names = source.interactions(
            self.user, self.item, rating, self.rating_bounds(), time, self.split_times or ()
        )
        if len(table) == 0:
            raise ValueError(f"{source.name} has no rows. Add the interactions, a row each.")
        texts = (lambda _: []) if items is None else (lambda left: items.texts(self.item, left))
        return self.divide(source.name, table, users, names, texts)
