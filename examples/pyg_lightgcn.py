"""PyG's LightGCN in a LightningModule, denoised: in its loss and in its graph.

    python examples/pyg_lightgcn.py

The lines that denoising added are marked. ``graph_patience`` takes clicks that were dropped again and again out of the
graph, too: it calls ``set_graph`` with those that are left.
"""

from typing import Any

import torch
import torch.nn.functional as F
from comparison import Arm, Clicks, Outcome, main, quiet, ranking, top_ten
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader
from torch_geometric.nn import LightGCN

from llmhd_pl import SampleWeights


class Recommender(SampleWeights, LightningModule):  # <- SampleWeights
    """LightGCN with BPR. Nodes are the users, and after them the items."""

    def __init__(self, clicks: Clicks, dim: int = 32) -> None:
        super().__init__()
        self.clicks, self.model = clicks, LightGCN(clicks.num_users + clicks.num_items, dim, num_layers=2)
        self.set_graph(clicks.users, clicks.items)

    def set_graph(self, users: Tensor, items: Tensor) -> None:
        """Propagate over these clicks."""
        edges = torch.stack([users, items + self.clicks.num_users])
        self.edges = torch.cat([edges, edges.flip(0)], dim=1)

    def training_step(self, sample: Tensor, batch_idx: int) -> Tensor:
        """The mean loss of some clicks against random items."""
        users, items = self.clicks.users[sample], self.clicks.items[sample] + self.clicks.num_users
        random = torch.randint(self.clicks.num_items, sample.shape) + self.clicks.num_users
        node = self.model.get_embedding(self.edges)
        positive, negative = ((node[users] * node[other]).sum(dim=1) for other in (items, random))
        losses = F.softplus(negative - positive)
        return (self.sample_weights(None, losses, sample, positive) * losses).mean()  # <- was: losses.mean()

    def configure_optimizers(self) -> Any:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.02)


def train(clicks: Clicks, denoise: Arm, epochs: int, seed: int) -> Outcome:
    """Train the model, and recommend."""
    seed_everything(seed, verbose=False)
    module = Recommender(clicks)
    callbacks = denoise(users=clicks.users, items=clicks.items, graph_patience=2)  # <-
    trainer = Trainer(max_epochs=epochs, callbacks=callbacks, **quiet())
    trainer.fit(module, DataLoader(torch.arange(len(clicks.users)), batch_size=4096, shuffle=True))  # type: ignore[arg-type]
    with torch.no_grad():
        users, items = module.model.get_embedding(module.edges).split([clicks.num_users, clicks.num_items])
    return Outcome(ranking(top_ten(users @ items.T, clicks), clicks), trainer.callbacks, clicks.noise)  # type: ignore[attr-defined]


CLIENTS = {"PyG LightGCN": train}

if __name__ == "__main__":
    main("examples/pyg_lightgcn.py", CLIENTS, epochs=15)
