from typing import Any

import pytest
import torch
from small_models import BATCH, ITEMS, NUM_ITEMS, NUM_USERS, USERS, adjacency, attach, dense, info_nce, normalized
from torch import Tensor

from llmhd_pl.backbones import SGL, LightGCN
from llmhd_pl.graph import SymmetricAdjacency


def model(epoch: int = 0, **arguments: Any) -> SGL:
    torch.manual_seed(0)
    made = SGL(NUM_USERS, NUM_ITEMS, **({"embedding_dim": 4, "num_layers": 2, "drop_rate": 0.3} | arguments))
    made.set_graph(USERS, ITEMS)
    attach(made, epoch)
    return made


def to_dense(graph: SymmetricAdjacency) -> Tensor:
    return torch.sparse_csr_tensor(graph.crow, graph.col, graph.val, (11, 11)).to_dense().double()


@pytest.mark.parametrize("augmentation", ["edge_dropout", "node_dropout", "random_walk"])
def test_thinned_graphs(augmentation: Any) -> None:
    views = model(augmentation=augmentation).thinned_graphs()
    assert [len(view) for view in views] == ([2, 2] if augmentation == "random_walk" else [1, 1])
    whole = adjacency()
    matrices = [to_dense(graph) for view in views for graph in view]
    for matrix in matrices:
        kept = (matrix > 0).double()
        assert torch.equal(matrix, matrix.T)
        torch.testing.assert_close(matrix, normalized(kept), atol=1e-6, rtol=1e-6)  # by the degrees of what is left
        if augmentation == "node_dropout":
            assert ((kept == whole) | (kept == 0)).all()
            # int(.3 * 5) users and int(.3 * 6) items are gone; every edge of the others is there.
            gone = [(kept.sum(1) == 0)[:5], (kept.sum(1) == 0)[5:]]
            candidates = [
                whole * torch.outer(keep := torch.ones(11).index_fill(0, torch.tensor([user, item + 5]), 0), keep)
                for user in range(5)
                for item in range(6)
            ]
            assert any(torch.equal(kept, candidate.double()) for candidate in candidates)
            assert all(part.any() for part in gone)
        else:
            assert kept.sum() == 2 * (8 - int(0.3 * 8)) and (whole - kept >= 0).all()
    assert any(not torch.equal(matrices[0], matrix) for matrix in matrices[1:])


@pytest.mark.parametrize("augmentation", ["edge_dropout", "node_dropout", "random_walk"])
def test_loss_and_gradient_equal_the_dense_formula(augmentation: Any) -> None:
    made = model(augmentation=augmentation, temperature=0.4, ssl_weight=0.7, drop_rate=0.2)
    table = dense(made)
    nodes = []
    for view in made.thinned_graphs():
        first, second = (to_dense(graph) for graph in (view[0], view[-1]))
        nodes.append((table + first @ table + second @ first @ table) / 3)
    expected = torch.zeros((), dtype=torch.float64)
    for index, kind in ((BATCH["user"], slice(0, NUM_USERS)), (BATCH["positive"] + NUM_USERS, slice(NUM_USERS, None))):
        expected = expected + info_nce(nodes[0][index], nodes[1][index], nodes[1][kind], 0.4).mean()
    ours = made.auxiliary_loss(BATCH, torch.tensor(4.0))
    torch.testing.assert_close(ours.double(), 0.7 * expected, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(ours, made.embedding.weight)
    (other,) = torch.autograd.grad(0.7 * expected, table)
    torch.testing.assert_close(gradient.double(), other, atol=1e-5, rtol=1e-4)


def test_it_is_lightgcn_and_the_further_term() -> None:
    made = model(l2=0.01)
    lightgcn = LightGCN(NUM_USERS, NUM_ITEMS, embedding_dim=4, num_layers=2, l2=0.01)
    lightgcn.embedding = made.embedding
    lightgcn.set_graph(USERS, ITEMS)
    attach(lightgcn)
    assert torch.equal(made.rank(torch.arange(5)), lightgcn.rank(torch.arange(5)))
    out, plain = made.training_step(BATCH, 0), lightgcn.training_step(BATCH, 0)
    assert torch.equal(out["losses"], plain["losses"])
    torch.testing.assert_close(out["loss"], plain["loss"] + made.auxiliary_loss(BATCH, torch.tensor(4.0)))
    made.attach_denoiser(lambda batch, losses: torch.zeros_like(losses))
    made.l2 = 0
    torch.testing.assert_close(made.training_step(BATCH, 0)["loss"], made.auxiliary_loss(BATCH, torch.tensor(4.0)))


def test_graphs_belong_to_the_seed_and_the_epoch_and_follow_the_graph() -> None:
    def values(made: SGL) -> Tensor:
        return torch.cat([graph.val for view in made.thinned_graphs() for graph in view])

    assert torch.equal(values(model(epoch=3)), values(model(epoch=3)))
    assert not torch.equal(values(model(epoch=3)), values(model(epoch=4)))
    assert not torch.equal(values(model(epoch=3)), values(model(epoch=3, seed=1)))
    made = model()
    first = made.thinned_graphs()
    assert made.thinned_graphs() is first
    made.set_graph(USERS[:5], ITEMS[:5])
    assert len(made.thinned_graphs()[0][0].col) == 10


@pytest.mark.parametrize("arguments", [{"augmentation": "ED"}, {"drop_rate": 1.0}])
def test_bad_arguments(arguments: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        SGL(2, 3, **arguments)
