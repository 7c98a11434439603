"""What was read, left out and written: for the terminal and for the README of the folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llmhd_pl
from llmhd_pl.datamodules.prepare.reading import Faults
from llmhd_pl.datamodules.prepare.selection import Selection
from llmhd_pl.datamodules.prepare.sources import Source
from llmhd_pl.terminal import printable

_CLASSES = {"amazon": "AmazonBooks", "amazon-books": "AmazonBooks", "yelp": "Yelp", "steam": "Steam"}


@dataclass(frozen=True)
class Report:
    """The counts of a prepared dump.

    Attributes:
        source: Whose dump it is.
        settings: The arguments of ``prepare`` that matter for this dump, by name.
        files: The name and the bytes of the file of the reviews and of the file of the items.
        broken: A sentence about each file with broken lines: how many, and the first of them.
        reviews: The lines of the file of the reviews that are neither blank nor broken.
        repeated: The reviews left out because a later one of the same user is about the same item.
        below: The interactions with a rating below the threshold; None without ratings.
        positives: The other ones.
        core: The positives in the k-core, before users were drawn.
        core_users: The users in the k-core, before users were drawn.
        num_users: The users in the folder.
        num_items: The items in the folder.
        train: The interactions of the training split.
        valid: Those of the validation split.
        test: Those of the test split.
        low: The interactions in ``low_mat.pkl``; None without ratings.
        described: The items with text.
    """

    source: Source
    settings: dict[str, Any]
    files: list[tuple[str, int]]
    broken: list[str]
    reviews: int
    repeated: int
    below: int | None
    positives: int
    core: int
    core_users: int
    num_users: int
    num_items: int
    train: int
    valid: int
    test: int
    low: int | None
    described: int

    @classmethod
    def of(
        cls,
        source: Source,
        settings: dict[str, Any],
        faults: Sequence[Faults],
        selection: Selection,
        texts: Sequence[dict[str, str]],
    ) -> "Report":
        """Count.

        Args:
            source: Whose dump it is.
            settings: The arguments of ``prepare`` that matter for this dump, by name.
            faults: The broken lines of the file of the reviews and of the file of the items.
            selection: The interactions.
            texts: The text fields of each item.
        """
        low = selection.low
        return cls(
            source=source,
            settings=settings,
            files=[(fault.part.name, fault.part.path.stat().st_size) for fault in faults],
            broken=[str(fault) for fault in faults if fault.broken],
            reviews=faults[0].lines - faults[0].broken,
            repeated=selection.repeated,
            below=None if low is None else selection.below,
            positives=selection.positives,
            core=selection.core,
            core_users=selection.core_users,
            num_users=len(selection.users),
            num_items=len(selection.items),
            train=len(selection.train),
            valid=len(selection.valid),
            test=len(selection.test),
            low=None if low is None else len(low),
            described=sum(map(bool, texts)),
        )

    def sentences(self) -> list[str]:
        """Return the counts in words, a sentence or two for each step."""
        rated = "" if self.below is None else f", and {self.below:,} more are rated below the threshold"
        core, sample = self.settings["k_core"], self.settings["users"]
        low = "there are no ratings" if self.low is None else f"{self.low:,} low ratings"
        return [
            *self.broken,
            f"{self.reviews:,} reviews; {self.repeated:,} are left out for a later one by the same user about the same "
            "item.",
            f"{self.positives:,} positive interactions{rated}.",
            f"k-core {core}: {self.core:,} interactions of {self.core_users:,} users.",
            *([] if sample is None else [f"Drawn: {sample:,} users, and of those the k-core again."]),
            f"{self.num_users:,} users, {self.num_items:,} items ({self.described:,} with text): {self.train:,} / "
            f"{self.valid:,} / {self.test:,} interactions in training, validation and test; {low}.",
        ]

    def readme(self) -> str:
        """Return the README of the folder. The same dump and settings give the same text."""
        options = " ".join(f"--{name} {value}" for name, value in self.settings.items() if value is not None)
        files = "\n".join(f"* `{printable(name)}`: {size:,} bytes" for name, size in self.files)
        counts = "\n".join(f"* {printable(sentence)}" for sentence in self.sentences())
        return (
            f"# {self.source}, prepared by llmhd-pl {llmhd_pl.__version__}\n\n"
            f"```bash\nllmhd prepare {self.source} RAW OUT {options}\n"
            f"llmhd fit --config lightgcn --data {_CLASSES[self.source]} --data.data_dir OUT\n```\n\n"
            f"From these files, or the archive that holds them:\n\n{files}\n\n{counts}\n\n"
            "`trn_mat.pkl`, `val_mat.pkl` and `tst_mat.pkl` are SciPy matrices of users x items, 3:1:1 of each user's "
            "interactions. `low_mat.pkl` has\nthe low ratings, if there are ratings. Line k of `items.jsonl`, "
            "`user_ids.jsonl` and `item_ids.jsonl`, counted from 0, is about item or\nuser k: its text, and its "
            "identifier in the dump. The terms of the dump's owner hold for this folder, too.\n"
        )
