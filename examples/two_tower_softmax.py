"""A two-tower model with the softmax over the items of its batch, denoised.

    python examples/two_tower_softmax.py

The lines that denoising added are marked. The items of the other clicks of a batch are the negatives, and their logits
are corrected by how often they are drawn (Yi et al., RecSys 2019), so there is no sampled item in the batch.
"""

from typing import Any

import torch
import torch.nn.functional as F
from comparison import Arm, Clicks, Outcome, main, quiet, ranking, top_ten
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from llmhd_pl import SampleWeights

TEMPERATURE = 0.1


def tower(size: int, dim: int) -> torch.nn.Module:
    """An embedding through a layer."""
    return torch.nn.Sequential(torch.nn.Embedding(size, dim), torch.nn.Linear(dim, dim))


class TwoTower(SampleWeights, LightningModule):  # <- SampleWeights
    """Cosines of users and items."""

    def __init__(self, clicks: Clicks, dim: int = 32) -> None:
        super().__init__()
        self.users, self.items = tower(clicks.num_users, dim), tower(clicks.num_items, dim)
        self.popularity = clicks.items.bincount(minlength=clicks.num_items).clamp(min=1).log()

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """The predictions of all pairs, [users, items]."""
        return F.normalize(self.users(users)) @ F.normalize(self.items(items)).T / TEMPERATURE

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The mean loss of some clicks against each other's items."""
        sample, users, items = batch
        logits = self.predict(users, items)
        same = (items[:, None] == items) & ~torch.eye(len(items), dtype=torch.bool)  # no negative of itself
        corrected = (logits - self.popularity[items]).masked_fill(same, -torch.inf)
        losses = F.cross_entropy(corrected, torch.arange(len(items)), reduction="none")
        return (self.sample_weights(batch, losses, sample, logits.diagonal()) * losses).mean()  # <- was: losses.mean()

    def configure_optimizers(self) -> Any:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.01, weight_decay=1e-6)


def train(clicks: Clicks, denoise: Arm, epochs: int, seed: int) -> Outcome:
    """Train the model, and recommend."""
    seed_everything(seed, verbose=False)
    module = TwoTower(clicks)
    callbacks = denoise(users=clicks.users, items=clicks.items)  # <-
    trainer = Trainer(max_epochs=epochs, callbacks=callbacks, **quiet())
    table = TensorDataset(torch.arange(len(clicks.users)), clicks.users, clicks.items)  # <- the row number
    trainer.fit(module, DataLoader(table, batch_size=256, shuffle=True))
    with torch.no_grad():
        scores = module.predict(torch.arange(clicks.num_users), torch.arange(clicks.num_items))
    return Outcome(ranking(top_ten(scores, clicks), clicks), trainer.callbacks, clicks.noise)  # type: ignore[attr-defined]


CLIENTS = {"two towers": train}

if __name__ == "__main__":
    main("examples/two_tower_softmax.py", CLIENTS, epochs=15)
