"""A Lightning recommender that does not know llmhd_pl, and the two ways to denoise it.

    python examples/plain_lightning.py

``TwoTower`` stands for the code that you have. ``TwoTowerDenoised`` differs from it in one line of its training step.
``TwoTowerWeighted`` has multiplied its losses by a weight in the batch all along and does not change at all. All three
show the callbacks what they need: batches are dicts with ``sample`` (the row of the training table) and ``negative``,
and ``training_step`` returns ``losses``, ``positive_score`` and ``negative_score`` beside ``loss``.
"""

import argparse
import logging
import tempfile
import warnings

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llmhd_pl import LLMHD, LexicalScorer, SampleRecorder, SampleWeights, SyntheticCatalog

Batch = dict[str, Tensor]


# --- The code that you have -------------------------------------------------------------------------------------------


class Clicks(Dataset[dict[str, int]]):
    """One row per observed click, with a random item as its negative."""

    def __init__(self, users: Tensor, items: Tensor, num_items: int) -> None:
        self.users, self.items, self.num_items = users.tolist(), items.tolist(), num_items

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, row: int) -> dict[str, int]:
        negative = int(torch.randint(self.num_items, ()))
        return {"sample": row, "user": self.users[row], "positive": self.items[row], "negative": negative}


class TwoTower(LightningModule):
    """Embeddings through a tower for users and one for items; BPR on the dot products."""

    def __init__(self, num_users: int, num_items: int, dim: int = 32) -> None:
        super().__init__()
        self.user_tower = torch.nn.Sequential(torch.nn.Embedding(num_users, dim), torch.nn.Linear(dim, dim))
        self.item_tower = torch.nn.Sequential(torch.nn.Embedding(num_items, dim), torch.nn.Linear(dim, dim))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Predictions of (user, item) pairs."""
        return torch.sum(self.user_tower(users) * self.item_tower(items), dim=1)

    def training_step(self, batch: Batch, batch_idx: int) -> Batch:
        """The mean loss."""
        positive, negative = self(batch["user"], batch["positive"]), self(batch["user"], batch["negative"])
        losses = F.softplus(negative - positive)
        loss = losses.mean()
        return self.outputs(loss, losses, positive, negative)

    def outputs(self, loss: Tensor, losses: Tensor, positive: Tensor, negative: Tensor) -> Batch:
        """The loss, and what callbacks look at."""
        self.log("loss", loss, on_step=False, on_epoch=True)
        seen = {"losses": losses, "positive_score": positive, "negative_score": negative}
        return {"loss": loss, **{name: value.detach() for name, value in seen.items()}}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.02)


# --- First way: inherit SampleWeights, and change one line ------------------------------------------------------------


class TwoTowerDenoised(SampleWeights, TwoTower):
    """The same with weights from the callbacks."""

    def training_step(self, batch: Batch, batch_idx: int) -> Batch:
        """The mean of the weighted losses."""
        positive, negative = self(batch["user"], batch["positive"]), self(batch["user"], batch["negative"])
        losses = F.softplus(negative - positive)
        loss = (self.sample_weights(batch, losses) * losses).mean()  # <- the line that changed
        return self.outputs(loss, losses, positive, negative)


# --- Second way: a module that multiplies by a weight in the batch stays as it is -------------------------------------


class TwoTowerWeighted(TwoTower):
    """The same for weighted clicks."""

    def training_step(self, batch: Batch, batch_idx: int) -> Batch:
        """The mean of the weighted losses."""
        positive, negative = self(batch["user"], batch["positive"]), self(batch["user"], batch["negative"])
        losses = F.softplus(negative - positive)
        loss = (batch.get("weight", 1.0) * losses).mean()
        return self.outputs(loss, losses, positive, negative)


# --- Train all three --------------------------------------------------------------------------------------------------


def denoising(shop: SyntheticCatalog, weight_key: str | None) -> LLMHD:
    """LLMHD for a module and data that are not llmhd_pl's: say who clicked what, and what the items are."""
    return LLMHD(
        LexicalScorer(),
        drop_rate=0.15,
        ramp_iterations=60,
        weight_key=weight_key,
        users=shop.train_users,
        items=shop.train_items,
        texts=shop.interactions.items,
    )


@torch.no_grad()
def recall(model: TwoTower, shop: SyntheticCatalog, k: int = 10) -> float:
    """The share of the held-out clicks that are among their user's k best items which are not in train."""
    scores = model.user_tower(torch.arange(shop.num_users)) @ model.item_tower(torch.arange(shop.num_items)).T
    scores[shop.train_users, shop.train_items] = -torch.inf
    users, items = shop.interactions.test.T
    return float((scores.topk(k).indices[users] == items[:, None]).any(dim=1).float().mean())


def main() -> None:
    """Train, and print what denoising found and gained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--readers", type=int, default=600)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    # A book shop whose misclicks are known. Only its clicks and the texts of its books are used.
    shop = SyntheticCatalog(num_readers=arguments.readers, num_books=400, num_topics=8)
    shop.setup()
    folder = tempfile.TemporaryDirectory()
    table = Table(
        "module", "Recall@10", "training loss", "dropped", "of them noise", title="examples/plain_lightning.py"
    )
    for kind, weight_key in ((TwoTower, None), (TwoTowerDenoised, None), (TwoTowerWeighted, "weight")):
        seed_everything(0, verbose=False)
        model = kind(shop.num_users, shop.num_items)
        clicks = DataLoader(Clicks(shop.train_users, shop.train_items, shop.num_items), batch_size=256, shuffle=True)
        callbacks: list[Callback] = [] if kind is TwoTower else [*denoising(shop, weight_key)]
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=arguments.epochs,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            default_root_dir=folder.name,  # for preferences.jsonl and judgements.jsonl
            callbacks=callbacks,
        )
        trainer.fit(model, clicks)
        row = [kind.__name__, f"{recall(model, shop):.4f}", f"{float(trainer.callback_metrics['loss']):.4f}"]
        for recorder in (callback for callback in callbacks if isinstance(callback, SampleRecorder)):
            dropped = recorder.store.weights == 0
            row += [str(int(dropped.sum())), f"{float(shop.noise_mask[dropped].float().mean()):.0%}"]
        table.add_row(*row)
    print(f"{int(shop.noise_mask.sum())} of {len(shop.noise_mask)} clicks are noise.")
    Console().print(table)


if __name__ == "__main__":
    main()
