"""Backbones whose prediction is a dot product of two embeddings."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pytorch_lightning.trainer.states import TrainerStatus
from torch import Tensor

from llmhd_pl.backbones.base import Backbone, Negatives, Objective
from llmhd_pl.backbones.ranges import check_integers
from llmhd_pl.precision import at_least_float32
from llmhd_pl.ranking import AT_ONCE, Top, top_items_by_blocks
from llmhd_pl.sample_weights import Batch

Similarity = Literal["dot", "cosine"]
_BLOCK = 2**21
"""The predictions of a block of a ranking: 8 MiB of float32, which stay in a processor's cache."""
_LARGE_BLOCK = 2**27
"""And on another device, which had better not wait for many small ones."""


class EmbeddingBackbone(Backbone):
    """A backbone that predicts the dot product, or the cosine, of a user's and an item's embedding.

    The parameters are one table of free embeddings, users first, then items. A child class turns them into the final
    embeddings, from which predictions are made.

    Args:
        num_users: The number of users.
        num_items: The number of items.
        embedding_dim: The length of an embedding.
        objective: The loss, "bpr", "bce" or "softmax"; see ``Backbone``.
        learning_rate: The learning rate of Adam.
        l2: The weight of the L2 term; see ``Backbone``.
        ks: The cutoffs of the metrics.
        similarity: The prediction: "dot" is the dot product of the final embeddings, "cosine" that of their
            directions. None is "cosine" for the objective "softmax" and "dot" for the others.
        softmax_temperature: The temperature of "softmax"; see ``Backbone``.
        negatives: The items that an observed one is compared with; see ``Backbone``.

    Raises:
        ValueError: If ``embedding_dim`` is less than 1, the similarity is unknown, or an argument is not valid; see
            ``Backbone``.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        embedding_dim: int = 64,
        objective: Objective = "bpr",
        learning_rate: float = 1e-3,
        l2: float = 1e-4,
        ks: Sequence[int] = (5, 10, 20),
        similarity: Similarity | None = None,
        softmax_temperature: float = 0.15,
        negatives: Negatives | None = None,
    ) -> None:
        super().__init__(num_users, num_items, objective, learning_rate, l2, ks, softmax_temperature, negatives)
        if similarity not in (None, "dot", "cosine"):
            raise ValueError(f"similarity is {similarity!r}; it must be 'dot' or 'cosine'.")
        check_integers(1, embedding_dim=embedding_dim)
        self.similarity = similarity or ("cosine" if objective == "softmax" else "dot")
        self.embedding = torch.nn.Embedding(num_users + num_items, embedding_dim)
        for table in self.embedding.weight.split([num_users, num_items]):
            torch.nn.init.xavier_uniform_(table)
        self._frozen: Tensor | None = None  # what predictions are products of, for a whole evaluation
        self._held: Tensor | None = None  # the same for a single ranking

    @abstractmethod
    def final_embeddings(self) -> Tensor:
        """Return the embeddings from which predictions are made: [users + items, d]."""

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the dot products or the cosines of (user, item) pairs.

        Args:
            users: The user of each pair, int64 [n].
            items: The item of each pair, int64 [n].

        Returns:
            One prediction per pair, [n].
        """
        user, item = self._rows(torch.cat([users, items + self.num_users])).chunk(2)
        return (user * item).sum(dim=1)

    def score_against(self, users: Tensor, items: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predictions of users with their own items and, by one product, with shared ones; see ``Backbone``.

        The product is in float32 even under autocast, since it is divided by a temperature.

        Args:
            users: The users, int64 [n].
            items: The own items of each user, int64 [n, k].
            shared: The shared items, int64 [m].

        Returns:
            Predictions, float32 [n, k] and [n, m].
        """
        nodes = torch.cat([users, items.flatten() + self.num_users, shared + self.num_users])
        user, item, others = self._rows(nodes).split([len(users), items.numel(), len(shared)])
        own = (user[:, None] * item.view(*items.shape, item.shape[1])).sum(dim=2)
        with torch.autocast(user.device.type, enabled=False):
            return own, torch.mm(at_least_float32(user), at_least_float32(others).t())

    def _rows(self, nodes: Tensor) -> Tensor:
        """Return what predictions are products of, for some nodes: [n, d]."""
        return self._compared(F.embedding(nodes, self.final_embeddings()))

    def _compared(self, embeddings: Tensor) -> Tensor:
        """Return the embeddings, or for the cosine their directions: [n, d]."""
        return F.normalize(embeddings, dim=1) if self.similarity == "cosine" else embeddings

    def rank(self, users: Tensor, items: slice = slice(None)) -> Tensor:
        """Return the predictions of all items, in float32 even under autocast: bf16 would tie the top items.

        Args:
            users: The users, int64 [n].
            items: The items, by default all of them.

        Returns:
            Predictions, float32 [n, items].
        """
        final = self._final() if self._held is None else self._held
        with torch.autocast(final.device.type, enabled=False):
            return torch.mm(at_least_float32(final[users]), at_least_float32(final[self.num_users :][items]).t())

    def top_of_many(self, users: Tensor, seen: Tensor, k: int) -> Top:
        """Return the top K of a large catalogue by blocks of items; see ``Backbone``.

        Args:
            users: The users, int64 [n].
            seen: The (row, item) pairs to leave out, int64 [2, m].
            k: The length of the ranking.
        """
        self._held = self._final().detach()
        try:
            width = max((_BLOCK if self.device.type == "cpu" else _LARGE_BLOCK) // len(users), 1)
            blocks = (self.rank(users, slice(first, first + width)) for first in range(0, self.num_items, width))
            few = max(AT_ONCE // self.num_items, 1)
            return top_items_by_blocks(blocks, self.rank, users, seen, k, few, self._where())
        finally:
            self._held = None

    def squared_norms(self, batch: Batch) -> Tensor:
        """Return the squared norm of the free embeddings of each sample's user, positive and negative: [B]."""
        nodes = torch.cat([batch["user"], batch["positive"] + self.num_users, batch["negative"] + self.num_users])
        # The table has a dense gradient already, by the loss. On a CPU it takes up the few rows of a sparse one sooner
        # than a second dense one; a GPU would have to wait for the sparse one's number of rows.
        rows = F.embedding(nodes, self.embedding.weight, sparse=self.embedding.weight.device.type == "cpu")
        return rows.square().sum(dim=1).view(3, -1).sum(dim=0)

    # Weights do not change during an evaluation, so the final embeddings are computed once for all of its batches. An
    # evaluation that an error or Ctrl-C has ended has no end to forget them at, so they are used while one is running.

    def _final(self) -> Tensor:
        """Return what predictions are products of: [users + items, d]."""
        if self._frozen is not None and self._evaluates():
            return self._frozen
        return self._compared(self.final_embeddings())

    def _evaluates(self) -> bool:
        trainer = self._trainer
        if trainer is None or trainer.state.status != TrainerStatus.RUNNING:
            return False
        return trainer.evaluating or trainer.predicting

    def _freeze(self) -> None:
        # Detached: the table itself would become a second parameter of that name, which checkpoints would hold.
        self._frozen = self._compared(self.final_embeddings()).detach()

    def on_validation_epoch_start(self) -> None:
        """Compute the final embeddings for the whole validation."""
        self._freeze()

    def on_validation_epoch_end(self) -> None:
        """Forget the final embeddings of the validation."""
        self._frozen = None

    def on_test_epoch_start(self) -> None:
        """Compute the final embeddings for the whole test."""
        self._freeze()

    def on_test_epoch_end(self) -> None:
        """Forget the final embeddings of the test."""
        self._frozen = None

    def on_predict_epoch_start(self) -> None:
        """Compute the final embeddings for all predictions."""
        self._freeze()

    def on_predict_epoch_end(self) -> None:
        """Forget the final embeddings of the predictions."""
        self._frozen = None
