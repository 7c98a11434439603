import pytest
import torch
from pytorch_lightning import Trainer
from torch_geometric.nn.models import LightGCN as PyGLightGCN

from llmhd_pl.backbones import LightGCN
from llmhd_pl.datamodules import SyntheticCatalog


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_scores_and_gradients_equal_pygs(num_layers: int) -> None:
    users = torch.tensor([0, 0, 1, 2, 2, 2])  # user 3 has no edge
    items = torch.tensor([0, 1, 1, 0, 2, 3])  # item 4 has no edge
    ours = LightGCN(4, 5, embedding_dim=8, num_layers=num_layers)
    ours.set_graph(users, items)
    theirs = PyGLightGCN(num_nodes=9, embedding_dim=8, num_layers=num_layers)
    theirs.embedding.weight.data = ours.embedding.weight.data.clone()
    edge_index = torch.cat([torch.stack([users, items + 4]), torch.stack([items + 4, users])], dim=1)

    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(5))
    our_scores = ours.score(pairs[:, 0], pairs[:, 1])
    their_scores = theirs(edge_index, torch.stack([pairs[:, 0], pairs[:, 1] + 4]))
    torch.testing.assert_close(our_scores, their_scores)
    torch.testing.assert_close(ours.rank(torch.arange(4)).flatten(), their_scores)

    upstream = torch.randn(len(pairs))
    (our_gradient,) = torch.autograd.grad(our_scores, ours.embedding.weight, upstream)
    (their_gradient,) = torch.autograd.grad(their_scores, theirs.embedding.weight, upstream)
    torch.testing.assert_close(our_gradient, their_gradient)


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


def test_evaluation_propagates_once() -> None:
    data = SyntheticCatalog(40, 50, num_topics=5, books_per_reader=10, eval_batch_size=7)
    model = LightGCN(40, 50)
    calls = []
    propagate = model.final_embeddings
    model.final_embeddings = lambda: calls.append(1) or propagate()  # type: ignore[method-assign,func-returns-value]
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.validate(model, data, verbose=False)
    trainer.test(model, data, verbose=False)
    assert len(calls) == 2
