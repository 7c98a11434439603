"""The published formats: which files a dump consists of, and how its reviews call what is needed."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmhd_pl.datamodules.prepare.texts import Texts, amazon_texts, steam_texts, yelp_texts
from llmhd_pl.dump_lines import Fields

Source = Literal["amazon", "amazon-books", "yelp", "steam"]
"""The dumps that can be read. "amazon-books" is "amazon" under the name of the paper's category."""

_AMAZON_ENDING = re.compile(r"\.jsonl?(\.gz)?$")
_TAR_ENDINGS = (".tar", ".tgz", ".tar.gz")


@dataclass(frozen=True)
class Part:
    """A file of a dump, or a file in a tar archive.

    Attributes:
        path: The file, or the archive. Either may be packed with gzip, whatever its name.
        member: The name of the file in the archive, without folders; None if there is no archive.
    """

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """The name of the file, without folders."""
        return self.member or self.path.name

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}, {self.member}"


@dataclass(frozen=True)
class Format:
    """How the fields of one edition are called.

    Attributes:
        reviews: The fields of a review.
        item: The field of the identifier in the file of the items.
        texts: Makes the text of an item from its fields.
    """

    reviews: Fields
    item: str
    texts: Texts


_FORMATS: dict[str, tuple[Format, ...]] = {
    "amazon": (
        Format(Fields("reviewerID", "asin", "overall", "unixReviewTime"), "asin", amazon_texts),  # 2014 and 2018
        Format(Fields("user_id", "parent_asin", "rating", "timestamp"), "parent_asin", amazon_texts),  # 2023
    ),
    "yelp": (Format(Fields("user_id", "business_id", "stars", "date"), "business_id", yelp_texts),),
    # A review of Steam says that somebody has played a game; there is no rating. Many have no user_id.
    "steam": (Format(Fields("username", "product_id", None, "date"), "id", steam_texts),),
}


def find(source: Source, folder: Path) -> tuple[Part, Part]:
    """Find the files of a dump by their names.

    Args:
        source: Whose dump it is.
        folder: The folder that holds the files.

    Returns:
        The file of the reviews and the file of the items.

    Raises:
        FileNotFoundError: If there is no such folder, or a file is missing; the message says which names were looked
            for.
        ValueError: If several files could be meant.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {what}. Name the folder that holds the files of the dump.")
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    if source in ("amazon", "amazon-books"):
        dumps = [path for path in files if _AMAZON_ENDING.search(path.name)]
        looked = "reviews_X_5.json.gz, reviews_X.json.gz (2014), X_5.json.gz, X.json.gz (2018) or X.jsonl.gz (2023)"
        reviews = _only(folder, [path for path in dumps if not path.name.startswith("meta_")], looked)
        items = _only(
            folder, [path for path in dumps if path.name.startswith("meta_")], "meta_X.json.gz or meta_X.jsonl.gz"
        )
        return Part(reviews), Part(items)
    if source == "steam":
        reviews, items = (
            _only(folder, _called(files, name), name) for name in ("steam_reviews.json.gz", "steam_games.json.gz")
        )
        return Part(reviews), Part(items)
    names = ("yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json")
    if any(_called(files, name) for name in names):
        reviews, items = (_only(folder, _called(files, name), name) for name in names)
        return Part(reviews), Part(items)
    archive = _only(
        folder,
        [path for path in files if path.name.endswith(_TAR_ENDINGS)],
        f"{' and '.join(names)}, or the archive yelp_dataset.tar or .tgz that holds them",
    )
    return Part(archive, names[0]), Part(archive, names[1])


def _called(files: list[Path], name: str) -> list[Path]:
    """Return the files of this name, packed or not."""
    plain = name.removesuffix(".gz")
    return [path for path in files if path.name in (plain, f"{plain}.gz")]


def _only(folder: Path, found: list[Path], looked: str) -> Path:
    """Return the one file that was found."""
    if not found:
        present = ", ".join(path.name for path in sorted(folder.iterdir())[:10]) or "nothing"
        raise FileNotFoundError(
            f"{folder} has no file {looked}; it holds {present}. Put the file there under the name that it is "
            "published by."
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} holds several files that could be {looked}: {names}. Move all but one elsewhere.")
    return found[0]


def recognised(source: Source, part: Part, sample: bytes) -> tuple[Format, bool]:
    """Recognise the edition by the first lines of the reviews.

    Args:
        source: Whose dump it is.
        part: The file, for the message.
        sample: Its first lines.

    Returns:
        The names of its fields, and whether the lines are Python literals and not JSON.

    Raises:
        ValueError: If none of the published formats has such lines.
    """
    formats = _FORMATS["amazon" if source == "amazon-books" else source]
    for known in formats:
        fields = known.reviews
        needed = [name for name in (fields.user, fields.item, fields.rating, fields.time) if name is not None]
        if all(re.search(rb"""["']%s["']\s*:""" % name.encode(), sample) for name in needed):
            return known, is_literal(part, sample)
    wanted = " or ".join(
        ", ".join(filter(None, (one.reviews.user, one.reviews.item, one.reviews.rating, one.reviews.time)))
        for one in formats
    )
    raise ValueError(
        f"{part}: the first lines are no reviews of {source}; looked for the fields {wanted}. Take the file as its "
        "owner publishes it."
    )


def is_literal(part: Part, sample: bytes) -> bool:
    """Return whether the first line that begins an object is a Python literal, and not JSON.

    Args:
        part: The file, for the message.
        sample: Its first lines.

    Raises:
        ValueError: If no line begins an object.
    """
    first = re.search(rb"""^(?:\xef\xbb\xbf)?[ \t]*\{\s*(u?["'])""", sample, re.MULTILINE)
    if first is None:
        raise ValueError(
            f"{part}: the first lines are neither JSON objects nor Python literals. Take the file as its owner "
            "publishes it, and check that it is no archive of another kind."
        )
    return first[1] != b'"'
