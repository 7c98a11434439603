"""The identifiers that users and items have in the source, beside RLMRec's matrices, which number them."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from llmhd_pl.datamodules.interactions import encodable
from llmhd_pl.datamodules.numbered_lines import numbered_lines
from llmhd_pl.files import json_text

USER_IDS, ITEM_IDS = "user_ids.jsonl", "item_ids.jsonl"
"""The files: line k, counted from 0, is ``{"user": k, "id": "AG7..."}``, or ``"item"`` in place of ``"user"``."""


def write_ids(folder: Path, what: Literal["user", "item"], names: Iterable[str]) -> None:
    """Write the file of the identifiers of the users or of the items.

    Args:
        folder: The folder of the data set.
        what: Whose identifiers they are.
        names: The identifiers, in the order of the numbers.
    """
    with _path(folder, what).open("w", encoding="utf-8") as file:
        file.writelines(json_text({what: number, "id": name}) + "\n" for number, name in enumerate(names))


def load_ids(folder: Path, what: Literal["user", "item"], count: int) -> list[str] | None:
    """Read the file of the identifiers of the users or of the items.

    Args:
        folder: The folder of the data set.
        what: Whose identifiers they are.
        count: The number of users or items.

    Returns:
        The identifiers, in the order of the numbers; None if there is no such file.

    Raises:
        ValueError: If a line is not as it must be, or their number is not ``count``.
    """
    path = _path(folder, what)
    if not os.path.lexists(path):
        return None
    names: list[str] = []
    for number, entry in numbered_lines(path, what):
        if entry is None or type(entry.get("id")) is not str:  # a number is no text, though it is kept as one
            raise ValueError(
                f'{path}, line {number + 1}: expected {{"{what}": {number}, "id": "..."}}. Write the {what}s in '
                "their order, or remove the file."
            )
        names.append(encodable(entry["id"]))
    if len(names) != count:
        raise ValueError(
            f"{path} has {len(names)} lines, but the matrices have {count} {what}s. Write one line for each {what}, or "
            "remove the file."
        )
    return names


def _path(folder: Path, what: Literal["user", "item"]) -> Path:
    return folder / (USER_IDS if what == "user" else ITEM_IDS)
