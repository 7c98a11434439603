"""InteractionDataModule: batches cut from whole tensors, noise for the training split, and evaluation batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from llmhd_pl.datamodules.interactions import Interactions, pair_keys
from llmhd_pl.datamodules.noise import NoiseSource, draw_noise
from llmhd_pl.datamodules.sampling import NegativeSampler, epoch_order, user_owners

Batch = dict[str, Tensor]
NOISE = 2
"""The value of ``train_kinds`` for a sample that is noise; 0 is easy, 1 is hard (see ``SyntheticCatalog``)."""


class InteractionDataModule(LightningDataModule, ABC):
    """Training triples and evaluation users of one data set; children say where the data comes from.

    After ``setup``, row s of ``train_users`` and ``train_items`` (int64 [n], sorted by user, then item) is sample s
    for the whole run; ``noise_mask`` (bool [n]) tells noise apart, for auditing only: no batch holds it.

    Args:
        batch_size: samples per optimiser step, over all devices together, so that a run on more devices takes the
            same steps.
        eval_batch_size: users ranked at once, per device.
        noise_ratio: noise added to train, as a share of its size. Valid and test stay clean.
        noise_source: "random" unobserved pairs, or interactions with a "low_rating".
        negative_lifetime: epochs for which a negative stays with its sample; 1 draws fresh ones every epoch.
        seed: seed of noise, order and negatives. ``train.py`` links it to ``seed_everything``.
    """

    def __init__(
        self,
        batch_size: int = 1024,
        eval_batch_size: int = 1024,
        noise_ratio: float = 0.0,
        noise_source: NoiseSource = "random",
        negative_lifetime: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size < 1:
                raise ValueError(f"{name} is {size}; it must be at least 1.")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.noise_ratio = noise_ratio
        self.noise_source: NoiseSource = noise_source
        self.negative_lifetime = negative_lifetime
        self.seed = seed

    @abstractmethod
    def load(self) -> Interactions:
        """Read or make the clean data."""

    @cached_property
    def interactions(self) -> Interactions:
        """The clean data, loaded when first asked for."""
        return self.load()

    @property
    def num_users(self) -> int:
        """Number of users, with or without interactions; ``train.py`` links it to the model."""
        return self.interactions.num_users

    @property
    def num_items(self) -> int:
        """Number of items, with or without interactions; ``train.py`` links it to the model."""
        return self.interactions.num_items

    def setup(self, stage: str | None = None) -> None:
        """Add the noise, fix the sample numbers and prepare the evaluation masks; done once, whatever the stage."""
        if hasattr(self, "_evaluation"):  # set last, so that a set-up that failed is not taken for done
            return
        data = self.interactions
        noise = draw_noise(data, self.noise_ratio, self.noise_source, self.seed)
        pairs = torch.cat([data.train, noise])
        kinds = torch.zeros(len(pairs), dtype=torch.int8)
        if data.train_kinds is not None:
            kinds[: len(data.train)] = data.train_kinds
        kinds[len(data.train) :] = NOISE
        # Sorted, so that neither the sample number nor the order of ties says which samples are noise.
        order = pair_keys(pairs, data.num_items).argsort()
        self.train_users, self.train_items = pairs[order].T.contiguous()
        self.train_kinds = kinds[order] if data.train_kinds is not None else None
        self.noise_mask = kinds[order] == NOISE
        self._sampler = NegativeSampler(
            self.train_users, self.train_items, data.num_users, data.num_items, self.negative_lifetime, self.seed
        )
        train = torch.stack([self.train_users, self.train_items], dim=1)
        nothing = torch.empty(0, 2, dtype=torch.int64)
        self._evaluation = {
            "valid": _EvaluationUsers(data, relevant=data.valid, seen=train),
            "test": _EvaluationUsers(data, relevant=data.test, seen=torch.cat([train, data.valid])),
            "predict": _EvaluationUsers(data, relevant=nothing, seen=torch.cat([train, data.valid]), all_users=True),
        }

    def train_dataloader(self) -> "TrainBatches":
        """Batches of ``sample``, ``user``, ``positive``, ``negative``, each int64 [B]."""
        trainer = self.trainer
        assert trainer is not None, "train_dataloader() is for a Trainer; without one, iterate over TrainBatches."
        return TrainBatches(self, lambda: trainer.current_epoch, trainer.global_rank, trainer.world_size)

    def val_dataloader(self) -> "EvaluationBatches":
        """Users with valid items; train items count as seen."""
        return self._evaluation_batches("valid")

    def test_dataloader(self) -> "EvaluationBatches":
        """Users with test items; train and valid items count as seen."""
        return self._evaluation_batches("test")

    def predict_dataloader(self) -> "EvaluationBatches":
        """All users; train and valid items count as seen."""
        return self._evaluation_batches("predict")

    def _evaluation_batches(self, split: str) -> "EvaluationBatches":
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return EvaluationBatches(self._evaluation[split], self.eval_batch_size, rank, world_size)


class TrainBatches:
    """The training loader: cuts each epoch's batches from whole tensors, and resumes in the middle of an epoch.

    Every rank walks the same global batches and takes the samples of the users it owns, so all ranks take the same
    number of steps and no sample is seen twice. A rank's share of a batch can be empty.

    Args:
        data: a data module after ``setup``.
        epoch: called when an iteration starts; says which epoch it is.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, data: InteractionDataModule, epoch: Callable[[], int], rank: int = 0, world_size: int = 1):
        self._data, self._epoch = data, epoch
        self.owned: Tensor | None = None
        """bool [n], the samples of this process; None: all of them."""
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
        window = epoch // data.negative_lifetime
        if self._negatives is None or self._negatives[0] != window:
            self._negatives = (window, data._sampler.draw(epoch))
        order = epoch_order(len(data.train_users), data.seed, epoch)
        columns = (order, data.train_users[order], data.train_items[order], self._negatives[1][order])
        # Only once after load_state_dict: an iteration that was broken off starts anew.
        done = self._resume["batch"] if self._resume["epoch"] == epoch else 0
        self._resume = {"epoch": -1, "batch": 0}
        for number, batch in enumerate(zip(*(column.split(data.batch_size) for column in columns), strict=True)):
            if number < done:
                continue
            self._position = {"epoch": epoch, "batch": number + 1}
            if self.owned is not None:
                mine = self.owned[batch[0]]
                batch = tuple(column[mine] for column in batch)
            yield dict(zip(("sample", "user", "positive", "negative"), batch, strict=True))
        self._position = {"epoch": -1, "batch": 0}

    def state_dict(self) -> dict[str, int]:
        """Which batch comes next; Lightning saves it with a checkpoint taken in the middle of an epoch."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batch that the checkpoint had seen."""
        self._position = self._resume = dict(state)


class _EvaluationUsers:
    """Users to rank for, with what is relevant to them and what they have seen, each as rows of a CSR matrix."""

    def __init__(self, data: Interactions, relevant: Tensor, seen: Tensor, all_users: bool = False) -> None:
        self.relevant = _Rows(relevant, data.num_users)
        self.seen = _Rows(seen, data.num_users)
        self.users = torch.arange(data.num_users) if all_users else self.relevant.sizes.nonzero().flatten()


class _Rows:
    """The items of each user: CSR without values."""

    def __init__(self, pairs: Tensor, num_users: int) -> None:
        self.sizes = torch.bincount(pairs[:, 0], minlength=num_users)
        self._first = torch.cumsum(self.sizes, 0) - self.sizes
        self._items = pairs[pairs[:, 0].argsort(stable=True), 1]

    def of(self, users: Tensor) -> Tensor:
        """(position in ``users``, item) of every entry of these users: int64 [2, n]."""
        sizes = self.sizes[users]
        row = torch.repeat_interleave(torch.arange(len(users)), sizes)
        offset = torch.arange(len(row)) - (torch.cumsum(sizes, 0) - sizes)[row]
        return torch.stack([row, self._items[self._first[users][row] + offset]])


class EvaluationBatches:
    """Batches of ``user`` int64 [b], and ``seen`` and ``relevant`` int64 [2, n]: (row of the batch, item).

    Users are dealt out to the ranks; each user is ranked once, and all ranks see the same number of batches.
    """

    def __init__(self, users: _EvaluationUsers, batch_size: int, rank: int, world_size: int) -> None:
        self._evaluation = users
        self._users = users.users[rank::world_size]
        self._batches = -(-len(users.users) // (world_size * batch_size))

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        if self._batches == 0:
            return
        for users in self._users.tensor_split(self._batches):
            yield {
                "user": users,
                "seen": self._evaluation.seen.of(users),
                "relevant": self._evaluation.relevant.of(users),
            }
