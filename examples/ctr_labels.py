"""A click-through model on labelled rows, DeepFM, denoised.

    python examples/ctr_labels.py

Rows are (user, item, label): 1 for a click, 0 for an item that was not clicked. Some labels are wrong. The lines that
denoising added are marked. With labels, a click is suspicious among the clicks and a non-click among the non-clicks,
and the judge agrees with a non-click if the item does *not* fit.
"""

from typing import Any

import torch
import torch.nn.functional as F
from comparison import Arm, Clicks, Outcome, main, quiet
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional.classification import binary_auroc

from llmhd_pl import SampleWeights


class DeepFM(SampleWeights, LightningModule):  # <- SampleWeights
    """A factorisation machine and a perceptron over the same embeddings (Guo et al., IJCAI 2017)."""

    def __init__(self, clicks: Clicks, dim: int = 16) -> None:
        super().__init__()
        sizes = (clicks.num_users, clicks.num_items)
        self.linear = torch.nn.ModuleList(torch.nn.Embedding(size, 1) for size in sizes)
        self.factors = torch.nn.ModuleList(torch.nn.Embedding(size, dim) for size in sizes)
        self.deep = torch.nn.Sequential(torch.nn.Linear(2 * dim, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
        for table in (*self.linear, *self.factors):
            torch.nn.init.normal_(table.weight, std=0.05)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits, [B]."""
        user, item = (table(ids) for table, ids in zip(self.factors, (users, items), strict=True))
        first = sum(table(ids).squeeze(1) for table, ids in zip(self.linear, (users, items), strict=True))
        return first + (user * item).sum(dim=1) + self.deep(torch.cat([user, item], dim=1)).squeeze(1)  # type: ignore[no-any-return]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The mean cross-entropy."""
        sample, users, items, labels = batch
        logits = self(users, items)
        losses = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
        return (self.sample_weights(batch, losses, sample, logits) * losses).mean()  # <- was: losses.mean()

    def configure_optimizers(self) -> Any:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.01, weight_decay=1e-5)


def negatives_of(users: Tensor, known: Tensor, num_items: int, generator: torch.Generator) -> Tensor:
    """A random item for each of some users that is not among the known (user, item) pairs."""
    items = torch.randint(num_items, users.shape, generator=generator)
    while (taken := torch.isin(users * num_items + items, known)).any():
        items[taken] = torch.randint(num_items, (int(taken.sum()),), generator=generator)
    return items


def train(clicks: Clicks, denoise: Arm, epochs: int, seed: int) -> Outcome:
    """Train the model on clicks and as many non-clicks, and measure it on those that are held out."""
    seed_everything(seed, verbose=False)
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.cat([torch.stack([clicks.users, clicks.items], dim=1), clicks.test])
    known = pairs[:, 0] * clicks.num_items + pairs[:, 1]
    not_clicked = negatives_of(clicks.users, known, clicks.num_items, generator)
    users, items = clicks.users.repeat(2), torch.cat([clicks.items, not_clicked])
    labels = torch.ones_like(users)
    labels[len(clicks.users) :] = 0
    noise = torch.cat([clicks.noise, torch.zeros_like(clicks.noise)])
    module = DeepFM(clicks)
    rate = float(noise.float().mean())
    callbacks = denoise(users=users, items=items, labels=labels, drop_rate=rate)  # <-
    trainer = Trainer(max_epochs=epochs, callbacks=callbacks, **quiet())
    table = TensorDataset(torch.arange(len(users)), users, items, labels)  # <- the row number
    trainer.fit(module, DataLoader(table, batch_size=256, shuffle=True))
    held_out, unseen = clicks.test.T, negatives_of(clicks.test[:, 0], known, clicks.num_items, generator)
    with torch.no_grad():
        logits = torch.cat([module(*held_out), module(held_out[0], unseen)])
    truth = torch.arange(len(logits)) < len(clicks.test)
    return Outcome({"AUC": float(binary_auroc(logits, truth.long()))}, trainer.callbacks, noise)  # type: ignore[attr-defined]


CLIENTS = {"DeepFM": train}

if __name__ == "__main__":
    main("examples/ctr_labels.py", CLIENTS, epochs=8)
