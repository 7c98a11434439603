"""Amazon-Books, Yelp and Steam in the layout of RLMRec (github.com/HKUDS/RLMRec), with the text of the items."""

import os
from pathlib import Path

from torch import Tensor

from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.datamodules.ids import load_ids
from llmhd_pl.datamodules.interactions import Interactions, encodable, unique_pairs
from llmhd_pl.datamodules.noise import NoiseSource
from llmhd_pl.datamodules.numbered_lines import numbered_lines
from llmhd_pl.datamodules.pickles import brief, load_matrix, load_pickle

_SPREAD = 100
"""The most users and items for each training interaction, beyond the first 100,000."""


def load_item_texts(folder: Path, num_items: int) -> list[dict[str, str]]:
    """Read the text of the items from ``items.jsonl`` or, if there is none, from RLMRec's ``itm_prf.pkl``.

    Args:
        folder: The folder of the data set.
        num_items: The number of items.

    Returns:
        The text fields of each item, without empty ones; an empty list if the folder has neither file.

    Raises:
        RefusedPickleError: If ``itm_prf.pkl`` names a class, which a dict of texts does not need.
        ValueError: If a line is not a JSON object, stands in the wrong place or is missing, a profile is malformed or
            names an item that does not exist, or a file is damaged.
    """
    lines, profiles = folder / "items.jsonl", folder / "itm_prf.pkl"
    if os.path.lexists(lines):
        return _read_lines(lines, num_items)
    if os.path.lexists(profiles):
        return _read_profiles(profiles, num_items)
    return []


def _read_lines(path: Path, num_items: int) -> list[dict[str, str]]:
    """Read ``items.jsonl``."""
    texts: list[dict[str, str]] = []
    for number, item in numbered_lines(path, "item"):
        if item is None:
            raise ValueError(
                f'{path}, line {number + 1}: expected an object with "item": {number}. Write the items in their order, '
                "those without text too."
            )
        texts.append({encodable(key): encodable(value) for key, value in item.items() if key != "item" and value})
    if len(texts) != num_items:
        raise ValueError(
            f"{path} has {len(texts)} lines, but the matrices have {num_items} items. Write one line for each item."
        )
    return texts


def _read_profiles(path: Path, num_items: int) -> list[dict[str, str]]:
    """Read ``itm_prf.pkl``."""
    loaded = load_pickle(path)
    if not isinstance(loaded, dict):
        kind = type(loaded).__name__.lstrip("_")
        raise ValueError(f"{path} holds a {kind}; a dict from item to profile is expected. Write it anew.")
    texts: list[dict[str, str]] = [{} for _ in range(num_items)]
    cleaned: dict[str, str] = {}  # a text that many items share stays one text
    for item, entry in loaded.items():
        if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < num_items:
            raise ValueError(
                f"{path} names item {brief(item)}, but the items are numbered 0 to {num_items - 1}. Remove it, or give "
                "it its number."
            )
        text = entry.get("profile") if isinstance(entry, dict) else None
        if not isinstance(text, str):
            raise ValueError(f'{path}, item {item}: expected a dict with a text under "profile". Write it anew.')
        if text not in cleaned:
            cleaned[text] = encodable(text)
        texts[item] = {"profile": cleaned[text]}
    return texts


class RLMRecDataModule(InteractionDataModule):
    """A folder in RLMRec's layout: ``trn_mat.pkl``, ``val_mat.pkl`` and ``tst_mat.pkl``, each users x items.

    Three kinds of files are optional: the text of the items in ``items.jsonl`` (one JSON object per line, line k for
    item k) or in RLMRec's ``itm_prf.pkl``, the matrix ``low_mat.pkl`` of interactions with a low rating, from which
    ``noise_source="low_rating"`` draws, and the identifiers of the source in ``user_ids.jsonl`` and
    ``item_ids.jsonl``. ``llmhd prepare`` writes such folders.

    Args:
        data_dir: The folder.
        batch_size: The number of samples per optimiser step, over all devices together.
        eval_batch_size: The number of users ranked at once on each device.
        noise_ratio: The amount of noise added to the training split, as a share of its size.
        noise_source: "random" for unobserved pairs, "popular" for such of active users and popular
            items, "low_rating" for the interactions in ``low_mat.pkl``.
        negative_lifetime: The number of epochs for which a negative stays with its sample.
        seed: The seed of the noise, the order and the negatives.
        num_negatives: The number of items that are drawn for each sample; see ``InteractionDataModule``.
    """

    def __init__(
        self,
        data_dir: str,
        batch_size: int = 1024,
        eval_batch_size: int = 1024,
        noise_ratio: float = 0.0,
        noise_source: NoiseSource = "random",
        negative_lifetime: int = 5,
        seed: int = 0,
        num_negatives: int = 1,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, noise_ratio, noise_source, negative_lifetime, seed, num_negatives)
        self.data_dir = Path(data_dir)

    def load(self) -> Interactions:
        """Read the matrices, the text of the items and the identifiers.

        Raises:
            FileNotFoundError: If the folder or one of the three matrices is missing.
            RefusedPickleError: If a pickle names a class other than the array classes of NumPy and SciPy.
            ValueError: If a file cannot be read or contradicts another; the message names it.
        """
        if not self.data_dir.is_dir():
            raise FileNotFoundError(
                f"There is no folder {self.data_dir}. Set --data.data_dir to the folder that holds trn_mat.pkl."
            )
        paths = {split: self.data_dir / f"{split}_mat.pkl" for split in ("trn", "val", "tst", "low")}
        if not os.path.lexists(paths["low"]):
            del paths["low"]
        shape: tuple[int, int] | None = None
        pairs: dict[str, Tensor] = {}
        for split, path in paths.items():
            this_shape, users, items = load_matrix(path)
            if shape is not None and this_shape != shape:
                raise ValueError(
                    f"{path} is {this_shape[0]} users x {this_shape[1]} items, but {paths['trn'].name} is "
                    f"{shape[0]} x {shape[1]}. The files do not belong together."
                )
            if shape is None and sum(this_shape) > _SPREAD * len(users) + 100_000:
                raise ValueError(
                    f"{path} is {this_shape[0]} users x {this_shape[1]} items for {len(users)} interactions, and each "
                    "user and item takes memory. Number those that occur from 0 without gaps (np.unique with "
                    "return_inverse=True does), and write the matrices in this shape."
                )
            shape = this_shape
            pairs[split] = unique_pairs(users, items, shape[1])
        assert shape is not None
        return Interactions(
            name=str(self.data_dir),
            num_users=shape[0],
            num_items=shape[1],
            train=pairs["trn"],
            valid=pairs["val"],
            test=pairs["tst"],
            low_rated=pairs.get("low"),
            items=load_item_texts(self.data_dir, shape[1]),
            user_names=load_ids(self.data_dir, "user", shape[0]),
            item_names=load_ids(self.data_dir, "item", shape[1]),
        )


class AmazonBooks(RLMRecDataModule):
    """RLMRec's split of Amazon-Books: 11,000 users, 9,332 items, 120,464 / 40,290 / 40,106 interactions."""


class Yelp(RLMRecDataModule):
    """RLMRec's split of Yelp: 11,091 users, 11,010 items, 166,620 / 55,479 / 55,436 interactions."""


class Steam(RLMRecDataModule):
    """RLMRec's split of Steam: 23,310 users, 5,237 items, 316,190 / 104,897 / 104,835 interactions."""
