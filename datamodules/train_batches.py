"""TrainBatches: the batches of an epoch, cut from whole tensors."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmhd_pl.datamodules.sampling import epoch_order, user_owners
from llmhd_pl.sample_weights import Batch

if TYPE_CHECKING:
    from llmhd_pl.datamodules.base import InteractionDataModule

_LOOKED_UP = 1 << 20
"""The samples whose users, items and negatives are looked up at once."""


class TrainBatches:
    """The training loader. It cuts each epoch's batches from whole tensors and can resume in the middle of an epoch.

    Every process walks through the same global batches and takes the samples of the users it owns, so all processes
    take the same number of steps and no sample is seen twice. A process's share of a batch can be empty.

    Args:
        data: A data module after ``setup``.
        epoch: Called when an iteration starts; returns the number of the epoch.
        rank: The rank of this process.
        world_size: The number of processes.
        drawn: The epoch whose order and negatives all epochs have; None: each has its own.
    """

    def __init__(
        self,
        data: "InteractionDataModule",
        epoch: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
        drawn: int | None = None,
    ) -> None:
        self._data, self._epoch, self._drawn = data, epoch, drawn
        self.owned: Tensor | None = None
        """Which samples belong to this process, bool [n]; None if all do."""
        if world_size > 1:
            self.owned = (user_owners(data.train_users, data.num_users, world_size) == rank)[data.train_users]
        self._negatives: tuple[int, Tensor] | None = None
        self._position = {"epoch": -1, "batch": 0}
        self._resume = self._position

    def __len__(self) -> int:
        return -(-len(self._data.train_users) // self._data.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._epoch()
        data = self._data
        drawn = epoch if self._drawn is None else self._drawn
        window = drawn // data.negative_lifetime
        if self._negatives is None or self._negatives[0] != window:
            kind = torch.int32 if data.num_items < 2**31 else torch.int64
            draws = [data.negative_sampler.draw(drawn, candidate).to(kind) for candidate in range(data.num_negatives)]
            self._negatives = (window, torch.stack(draws, dim=1))
        order = epoch_order(len(data.train_users), data.seed, drawn)
        # Skip batches only once after load_state_dict: an iteration that was abandoned starts from its first batch.
        done = self._resume["batch"] if self._resume["epoch"] == epoch else 0
        if done and (before := self._resume.get("batch_size", data.batch_size)) != data.batch_size:
            raise RuntimeError(
                f"The checkpoint was taken within an epoch of batches of {before} samples, and batch_size is "
                f"{data.batch_size}: some samples would be left out, or come twice. Resume with batch_size={before}, "
                "or from a checkpoint of an epoch's end."
            )
        self._resume = {"epoch": -1, "batch": 0}
        for number, batch in enumerate(self._batches(order, self._negatives[1])):
            if number < done:
                continue
            self._position = {"epoch": epoch, "batch": number + 1, "batch_size": data.batch_size}
            own: Batch = dict(zip(("sample", "user", "positive", "negative", "candidates"), batch, strict=False))
            if self.owned is not None:
                mine = self.owned[batch[0]]
                own = {name: column[mine] for name, column in own.items()} | {"shared": batch[3]}
            yield own
        self._position = {"epoch": -1, "batch": 0}

    def _batches(self, order: Tensor, negatives: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Look up the columns of the batches, those of about a million samples at a time."""
        data = self._data
        for some in order.split(data.batch_size * max(_LOOKED_UP // data.batch_size, 1)):
            candidates = negatives[some].long()
            columns = [some, data.train_users[some], data.train_items[some], candidates[:, 0].contiguous()]
            if data.num_negatives > 1:
                columns.append(candidates)
            yield from zip(*(column.split(data.batch_size) for column in columns), strict=True)

    def state_dict(self) -> dict[str, int]:
        """Return which batch comes next. Lightning saves it with a checkpoint taken in the middle of an epoch."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the last batch that the checkpoint has seen."""
        self._position = self._resume = dict(state)
