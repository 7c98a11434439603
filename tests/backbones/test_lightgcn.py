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
