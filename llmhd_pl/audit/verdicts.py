"""What becomes of the training interactions in a clean copy."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

WEIGHT = "weight"
"""The name of the column, or of the attribute of edges, that is written."""


@dataclass
class Verdicts:
    """What becomes of the training interactions, which are sorted by user, then item.

    Attributes:
        users: The user of each, int64 [n].
        items: The item of each, int64 [n].
        num_items: The number of items.
        weights: The weight of each, above 0, float64 [n].
        drop: Which are left out, bool [n]; None if weights are written.
    """

    users: np.ndarray
    items: np.ndarray
    num_items: int
    weights: np.ndarray
    drop: np.ndarray | None

    def __post_init__(self) -> None:
        self._keys = self.users * self.num_items + self.items

    def rows(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return which training interaction each pair is, int64 [m]; -1 for those that are none.

        Args:
            users: The user of each pair, int64 [m]; -1 for one that the data module does not know.
            items: The item of each pair, int64 [m], likewise.
        """
        keys = users * self.num_items + items
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return np.where((users >= 0) & (items >= 0) & (self._keys[places] == keys), places, -1)

    def weights_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the weight of each of these rows, and 1 for -1, float64 [m]."""
        return np.where(rows < 0, 1.0, self.weights[rows])

    def dropped(self, rows: np.ndarray) -> np.ndarray:
        """Return which of these rows are left out, bool [m]; -1 is not."""
        assert self.drop is not None
        return np.where(rows < 0, False, self.drop[rows])


def numbers_of(found: list[str], names: list[str] | None) -> np.ndarray:
    """Return the number that the data module gives each identifier of the file, int64; -1 if it has left it out.

    Args:
        found: The identifiers of the file.
        names: Those of the data module.
    """
    numbers = pc.index_in(pa.array(found, pa.string()), pa.array(names, pa.string()))
    return np.asarray(pc.fill_null(numbers, -1)).astype(np.int64)
