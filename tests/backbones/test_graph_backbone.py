import pytest
import torch
from pytorch_lightning import Trainer
from small_models import ITEMS, NUM_ITEMS, NUM_USERS, USERS, adjacency
from torch import Tensor

from llmhd_pl.backbones import LightGCN
from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.graph import SymmetricAdjacency, symmetric_csr


def test_without_a_graph_it_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="set_graph"):
        LightGCN(2, 2).rank(torch.arange(2))


def test_takes_the_graph_from_the_data_module_and_follows_a_new_one() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    model = LightGCN(40, 50)
    sizes = []
    for noise_ratio in (0.0, 0.5):
        data = SyntheticCatalog(40, 50, num_topics=5, books_per_reader=10, noise_ratio=noise_ratio)
        trainer.validate(model, data, verbose=False)
        assert model.adjacency is not None
        assert len(model.adjacency.val) == 2 * len(data.train_users)
        sizes.append(len(model.adjacency.val))
    assert sizes[1] > sizes[0]


def test_with_loaders_alone_it_asks_for_a_graph() -> None:
    data = SyntheticCatalog(40, 50, num_topics=5, books_per_reader=10)
    data.setup()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(RuntimeError, match="set_graph"):
        trainer.validate(LightGCN(40, 50), data.val_dataloader(), verbose=False)
    model = LightGCN(40, 50)
    model.set_graph(data.train_users, data.train_items)
    trainer.validate(model, data.val_dataloader(), verbose=False)


def test_a_child_may_bring_another_matrix() -> None:
    class Unnormalised(LightGCN):
        def build_adjacency(self, users: Tensor, items: Tensor) -> SymmetricAdjacency:
            crow, col, _ = symmetric_csr(users, items, self.num_users, self.num_items)
            return SymmetricAdjacency(crow, col, torch.ones(len(col)))

    model = Unnormalised(NUM_USERS, NUM_ITEMS, num_layers=1)
    model.set_graph(USERS, ITEMS)
    table = model.embedding.weight.detach().double()
    torch.testing.assert_close(model.final_embeddings().double(), (table + adjacency() @ table) / 2)
