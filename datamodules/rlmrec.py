"""Amazon-Books, Yelp and Steam in the layout of RLMRec (github.com/HKUDS/RLMRec), with the text of the items."""

import json
from pathlib import Path

from torch import Tensor

from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.datamodules.interactions import Interactions, unique_pairs
from llmhd_pl.datamodules.noise import NoiseSource
from llmhd_pl.datamodules.pickles import load_matrix, load_pickle


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
    if lines.is_file():
        texts = []
        with lines.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    item = json.loads(line)
                except (ValueError, RecursionError) as error:  # ValueError includes text that is not UTF-8
                    raise ValueError(f"{lines}, line {number}: not JSON ({error}).") from error
                if not isinstance(item, dict) or item.get("item") != number - 1:
                    raise ValueError(f'{lines}, line {number}: expected an object with "item": {number - 1}.')
                texts.append({key: str(value) for key, value in item.items() if key != "item" and value})
        if len(texts) != num_items:
            raise ValueError(f"{lines} has {len(texts)} lines, but the matrices have {num_items} items.")
        return texts
    if profiles.is_file():
        loaded = load_pickle(profiles)
        if not isinstance(loaded, dict):
            raise ValueError(f"{profiles} holds a {type(loaded).__name__}; a dict from item to profile is expected.")
        texts = [{} for _ in range(num_items)]
        for item, entry in loaded.items():
            if not isinstance(item, int) or not 0 <= item < num_items:
                raise ValueError(f"{profiles} names item {item!r}, but the items are numbered 0 to {num_items - 1}.")
            text = entry.get("profile") if isinstance(entry, dict) else None
            if not isinstance(text, str):
                raise ValueError(f'{profiles}, item {item}: expected a dict with a text under "profile".')
            texts[item] = {"profile": text}
        return texts
    return []


class RLMRecDataModule(InteractionDataModule):
    """A folder in RLMRec's layout: ``trn_mat.pkl``, ``val_mat.pkl`` and ``tst_mat.pkl``, each users x items.

    Two kinds of files are optional: the text of the items in ``items.jsonl`` (one JSON object per line, line k for item
    k) or in RLMRec's ``itm_prf.pkl``, and the matrix ``low_mat.pkl`` of interactions with a low rating, from which
    ``noise_source="low_rating"`` draws.

    Args:
        data_dir: The folder.
        batch_size: The number of samples per optimiser step, over all devices together.
        eval_batch_size: The number of users ranked at once on each device.
        noise_ratio: The amount of noise added to the training split, as a share of its size.
        noise_source: "random" for unobserved pairs, "low_rating" for the interactions in ``low_mat.pkl``.
        negative_lifetime: The number of epochs for which a negative stays with its sample.
        seed: The seed of the noise, the order and the negatives.
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
    ) -> None:
        super().__init__(batch_size, eval_batch_size, noise_ratio, noise_source, negative_lifetime, seed)
        self.data_dir = Path(data_dir)

    def load(self) -> Interactions:
        """Read the matrices and the text of the items.

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
        if not paths["low"].is_file():
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
        )


class AmazonBooks(RLMRecDataModule):
    """RLMRec's split of Amazon-Books: 11,000 users, 9,332 items, 120,464 / 40,290 / 40,106 interactions."""


class Yelp(RLMRecDataModule):
    """RLMRec's split of Yelp: 11,091 users, 11,010 items, 166,620 / 55,479 / 55,436 interactions."""


class Steam(RLMRecDataModule):
    """RLMRec's split of Steam: 23,310 users, 5,237 items, 316,190 / 104,897 / 104,835 interactions."""
