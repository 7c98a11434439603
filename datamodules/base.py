"""InteractionDataModule: the samples of a data set, noise in the training split, and its batches."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from llmhd_pl.datamodules.arguments import check_whole
from llmhd_pl.datamodules.evaluation import EvaluationBatches
from llmhd_pl.datamodules.interactions import NOISE, Interactions, pair_keys
from llmhd_pl.datamodules.noise import NoiseSource, draw_noise
from llmhd_pl.datamodules.sampling import NegativeSampler
from llmhd_pl.datamodules.train_batches import TrainBatches
from llmhd_pl.fingerprint import fingerprint


class InteractionDataModule(LightningDataModule, ABC):
    """The training triples and the evaluation users of one data set. A subclass writes ``load``.

    ``setup`` adds the noise and sets the attributes below. Row s of the training tensors is sample s for the whole run.

    Args:
        batch_size: The number of samples per optimiser step, over all devices together, so that a run on more devices
            takes the same steps.
        eval_batch_size: The number of users ranked at once on each device.
        noise_ratio: The amount of noise added to the training split, as a share of its size. The validation and test
            splits stay clean.
        noise_source: "random" for unobserved pairs, "popular" for such of active users and popular
            items, "low_rating" for interactions with a low rating.
        negative_lifetime: The number of epochs for which a negative stays with its sample; 1 draws fresh negatives
            every epoch.
        num_negatives: The number of items that are drawn for each sample. With more than one, batches hold them as
            ``candidates``, int64 [B, k], for models with ``negatives="hardest"`` or a softmax over each sample's own.
        seed: The seed of the noise, the order and the negatives. The command line links it to ``seed_everything``.

    Raises:
        ValueError: If a batch size or the number of negatives is below 1, or the seed is negative.
    """

    train_users: Tensor
    """The user of each training sample, int64 [n], sorted by user, then item."""
    train_items: Tensor
    """The observed item of each training sample, int64 [n]."""
    train_kinds: Tensor | None
    """Whether each training sample is easy (0), hard (1) or noise (2), int8 [n]; None if the data does not know."""
    noise_mask: Tensor
    """Which training samples are known to be noise, bool [n]. It is for auditing only: no batch holds it."""
    negative_sampler: NegativeSampler
    """Draws the negative of every training sample in an epoch."""

    def __init__(
        self,
        batch_size: int = 1024,
        eval_batch_size: int = 1024,
        noise_ratio: float = 0.0,
        noise_source: NoiseSource = "random",
        negative_lifetime: int = 5,
        seed: int = 0,
        num_negatives: int = 1,
    ) -> None:
        super().__init__()
        for name, size in (
            ("batch_size", batch_size),
            ("eval_batch_size", eval_batch_size),
            ("num_negatives", num_negatives),
        ):
            check_whole(name, size, 1)
        check_whole("seed", seed, 0)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.noise_ratio = noise_ratio
        self.noise_source: NoiseSource = noise_source
        self.negative_lifetime = negative_lifetime
        self.num_negatives = num_negatives
        self.seed = seed

    @abstractmethod
    def load(self) -> Interactions:
        """Read or generate the interactions, without added noise."""

    @cached_property
    def interactions(self) -> Interactions:
        """The interactions without added noise, loaded on first access."""
        return self.load()

    @property
    def num_users(self) -> int:
        """The number of users, with or without interactions. The command line links it to the model."""
        return self.interactions.num_users

    @property
    def num_items(self) -> int:
        """The number of items, with or without interactions. The command line links it to the model."""
        return self.interactions.num_items

    def setup(self, stage: str | None = None) -> None:
        """Add the noise and number the samples. This is done once, whatever the stage.

        Raises:
            FileNotFoundError: If the data is not there.
            ValueError: If the data is malformed, the noise cannot be drawn (see ``draw_noise``) or no negative exists
                for a user (see ``NegativeSampler``).
        """
        if hasattr(self, "negative_sampler"):  # set last, so that a setup that failed runs again
            return
        data = self.interactions
        noise = draw_noise(data, self.noise_ratio, self.noise_source, self.seed)
        pairs = torch.cat([data.train, noise]) if len(noise) else data.train
        kinds = torch.zeros(len(pairs), dtype=torch.int8)
        if data.train_kinds is not None:
            kinds[: len(data.train)] = data.train_kinds
        kinds[len(data.train) :] = NOISE
        # Sorted, so that neither the sample number nor the order of ties reveals which samples are noise.
        keys = pair_keys(pairs, data.num_items)
        if not (keys[1:] > keys[:-1]).all():  # sorting takes more time and memory
            order = keys.argsort()
            pairs, kinds = pairs[order], kinds[order]
        del keys
        self.train_users, self.train_items = pairs.T.contiguous()
        self.train_kinds = kinds if data.train_kinds is not None else None
        self.noise_mask = kinds == NOISE
        self.negative_sampler = NegativeSampler(
            self.train_users,
            self.train_items,
            data.num_users,
            data.num_items,
            self.negative_lifetime,
            self.seed,
            data.user_names,
        )

    @cached_property
    def fingerprint(self) -> dict[str, list[Any]]:
        """What the numbers of users, items and samples stand for; a checkpoint of a ``Backbone`` holds it."""
        data = self.interactions
        return fingerprint(
            (data.num_users, data.user_names),
            (data.num_items, data.item_names),
            torch.stack([self.train_users, self.train_items], dim=1),
            self.noise_mask,
            data.valid,
            data.test,
        )

    def train_dataloader(self) -> TrainBatches:
        """Return batches of ``sample``, ``user``, ``positive`` and ``negative``, each int64 [B].

        With several negatives there are ``candidates``, int64 [B, k], whose first column is ``negative``; with several
        processes there is ``shared``, the sampled items of the whole batch, the same on every process.

        Raises:
            RuntimeError: If there is no trainer, which knows the epoch.
        """
        trainer = self.trainer
        if trainer is None:
            raise RuntimeError("train_dataloader() needs a Trainer. Without one, iterate over TrainBatches.")
        # Whoever overfits a few batches wants to see the same ones in every epoch.
        drawn = 0 if getattr(trainer, "overfit_batches", 0) > 0 else None
        return TrainBatches(self, lambda: trainer.current_epoch, trainer.global_rank, trainer.world_size, drawn)

    def val_dataloader(self) -> EvaluationBatches:
        """Return the users with validation items; their training items count as seen."""
        valid = self.interactions.valid
        return self._evaluation_batches(valid[:, 0].unique(), valid)

    def test_dataloader(self) -> EvaluationBatches:
        """Return the users with test items; their training and validation items count as seen."""
        test = self.interactions.test
        return self._evaluation_batches(test[:, 0].unique(), test, self.interactions.valid)

    def predict_dataloader(self) -> EvaluationBatches:
        """Return all users; their training and validation items count as seen, and no item is relevant."""
        nothing = torch.empty(0, 2, dtype=torch.int64)
        return self._evaluation_batches(torch.arange(self.num_users), nothing, self.interactions.valid)

    def _evaluation_batches(self, users: Tensor, relevant: Tensor, *seen_after_train: Tensor) -> EvaluationBatches:
        train = torch.stack([self.train_users, self.train_items], dim=1)
        seen = torch.cat([train, *seen_after_train])
        where: tuple[Any, ...] = (0, 1, "cpu")
        if trainer := self.trainer:
            where = (trainer.global_rank, trainer.world_size, trainer.strategy.root_device)
        return EvaluationBatches(users, seen, relevant, self.num_users, self.eval_batch_size, *where)
