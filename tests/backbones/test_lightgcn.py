import pytest
import torch
from torch_geometric.nn.models import LightGCN as PyGLightGCN

from llmhd_pl.backbones import LightGCN


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


def test_a_step_that_names_a_few_nodes_gets_the_predictions_and_gradients_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other way is that of a device which would have to be waited for, and of a batch that names most nodes."""
    cells = torch.randperm(40 * 30, generator=torch.Generator().manual_seed(0))[:200]
    model = LightGCN(40, 30, embedding_dim=8)
    model.set_graph(cells // 30, cells % 30)
    asked: list[torch.Tensor | None] = []
    layer_sum = model.graph.layer_sum

    def noted(x: torch.Tensor, weights: list[float], rows: torch.Tensor | None = None) -> torch.Tensor:
        asked.append(rows)
        return layer_sum(x, weights, rows)

    monkeypatch.setattr(model.graph, "layer_sum", noted)
    users, items = torch.tensor([3, 7, 3, 11]), torch.tensor([2, 2, 5, 29])
    final = model.final_embeddings()
    expected = (final[users] * final[40 + items]).sum(1)
    ours = model.score(users, items)
    assert asked[0] is None and asked[1] is not None and asked[1].tolist() == [3, 7, 11, 42, 45, 69]
    assert torch.equal(ours, expected)
    upstream = torch.randn(4)
    gradients = (torch.autograd.grad(out, model.embedding.weight, upstream)[0] for out in (ours, expected))
    assert torch.equal(*gradients)

    many = torch.arange(30)
    model.score(many, many)
    assert asked[2] is None
