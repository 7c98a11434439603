from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import BATCH, ITEMS, NUM_ITEMS, NUM_USERS, USERS, adjacency, attach, dense
from torch import Tensor

from llmhd_pl.backbones import RGCF


def model(**arguments: Any) -> RGCF:
    torch.manual_seed(0)
    given = {"embedding_dim": 4, "added_edges": 0.5, "temperature": 0.4, "ssl_weight": 0.3, "l2": 0.1}
    made = RGCF(NUM_USERS, NUM_ITEMS, **(given | arguments))
    made.set_graph(USERS, ITEMS)
    attach(made)
    return made


def mean_of_layers(matrix: Tensor, x: Tensor) -> Tensor:
    return (x + matrix @ x + matrix @ matrix @ x) / 3


def denoised(table: Tensor, prune_below: float) -> tuple[Tensor, Tensor]:
    """Features, and the row-normalised matrix of the weighted edges."""
    features = adjacency() @ table
    cosine = F.cosine_similarity(features[USERS], features[ITEMS + NUM_USERS])
    weights = (cosine + 1) / 2
    matrix = adjacency(torch.where(weights < prune_below, 0, weights))
    return features, matrix / (matrix.sum(1, keepdim=True) + 1e-7)


@pytest.mark.parametrize("prune_below", [0.0, 0.5])
def test_denoised_embeddings_and_gradients_equal_the_dense_formula(prune_below: float) -> None:
    made = model(prune_below=prune_below)
    table = dense(made)
    features, matrix = denoised(table, prune_below)
    assert ((matrix > 0).sum() < 16) == (prune_below > 0)  # something is pruned
    ours, theirs = made.final_embeddings(), mean_of_layers(matrix, features)
    torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(ours.shape)
    (gradient,) = torch.autograd.grad(ours, made.embedding.weight, upstream)
    (expected,) = torch.autograd.grad(theirs, table, upstream.double(), retain_graph=True)
    torch.testing.assert_close(gradient.double(), expected, atol=1e-5, rtol=1e-4)
    (constant,) = torch.autograd.grad(mean_of_layers(matrix.detach(), features), table, upstream.double())
    assert not torch.allclose(expected, constant, rtol=1e-2)  # gradient does flow through the values of the edges


def test_the_whole_step_equals_the_dense_formula() -> None:
    made = model(prune_below=0.3)
    table = dense(made)
    features, matrix = denoised(table, 0.3)
    final = mean_of_layers(matrix, features)
    graph = made.draw_edges(features.detach().float())
    rows = torch.repeat_interleave(torch.arange(11), graph.crow.diff())
    added = torch.zeros(11, 11, dtype=torch.float64)
    added.index_put_((rows, graph.col.long()), torch.ones(8, dtype=torch.float64), accumulate=True)
    assert added.sum() == 2 * int(0.5 * 8) and torch.equal(added, added.T)
    values = matrix.detach()[torch.cat([USERS, ITEMS + 5]), torch.cat([ITEMS + 5, USERS])]  # pruned ones included
    diverse = matrix.detach() + values.median() * added
    scale = (diverse.sum(1) + 1e-7).rsqrt()
    others = mean_of_layers(scale[:, None] * diverse * scale, features)

    users, nodes = BATCH["user"], [BATCH[kind] + 5 for kind in ("positive", "negative")]
    positive, negative = ((final[users] * final[node]).sum(1) for node in nodes)
    expected = F.softplus(negative - positive).mean()
    expected = expected + 0.1 / 2 * sum(features[node].square().sum() for node in (users, *nodes)) / 4
    cosine = F.normalize(final[users]) @ F.normalize(others[:5]).T / 0.4  # user 3 has no edge: cosine 0
    expected = expected + 0.3 * F.cross_entropy(cosine, users, reduction="sum")
    out = made.training_step(BATCH, 0)
    torch.testing.assert_close(out["loss"].double(), expected, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(out["loss"], made.embedding.weight)
    (other,) = torch.autograd.grad(expected, table)
    torch.testing.assert_close(gradient.double(), other, atol=1e-5, rtol=1e-4)
    # nothing of the step is kept: new embeddings give a new graph
    made.embedding.weight.data.normal_()
    features, matrix = denoised(dense(made), 0.3)
    torch.testing.assert_close(made.final_embeddings().double(), mean_of_layers(matrix, features), atol=1e-5, rtol=1e-5)
    norms = sum(features[node].square().sum(1) for node in (users, *nodes))
    torch.testing.assert_close(made.squared_norms(BATCH).double(), norms, atol=1e-5, rtol=1e-5)


def test_added_edges_are_the_most_similar_of_ten_times_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of users are 1 and of items their number: the highest products have the highest items."""
    made = model()
    features = torch.cat([torch.ones(5, 1), torch.arange(6.0)[:, None]])
    drawn: list[Tensor] = []
    randint = torch.randint

    def note(*args: Any, **kwargs: Any) -> Tensor:
        drawn.append(randint(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(torch, "randint", note)
    graph = made.draw_edges(features)
    assert [len(draw) for draw in drawn] == [40, 40]
    chosen = graph.col[:4].long() - 5
    assert torch.equal(chosen.sort().values, drawn[1].sort().values[-4:])
    again = made.draw_edges(features)
    assert torch.equal(again.col, graph.col)  # of the same step
    other = model(seed=1).draw_edges(features)
    assert not torch.equal(drawn[-1], drawn[1])
    assert other.crow.shape == graph.crow.shape


@pytest.mark.parametrize(("num_users", "num_items"), [(3, 4), (30, 20)])  # more pairs than there are, and fewer
def test_the_pairs_that_are_kept_have_the_highest_products(
    monkeypatch: pytest.MonkeyPatch, num_users: int, num_items: int
) -> None:
    made = RGCF(num_users, num_items, embedding_dim=4, added_edges=0.5)
    made.set_graph(torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 3]))
    features, drawn = torch.randn(num_users + num_items, 4), []
    randint = torch.randint
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: drawn.append(randint(*args, **kwargs)) or drawn[-1])
    graph = made.draw_edges(features)
    assert [draw.tolist() for draw in drawn] == [draw.tolist() for draw in drawn if len(draw) == 30]
    users, items = drawn[0].sort().values, drawn[1]  # each item comes with a user that was drawn
    dots = (features[users] * features[num_users + items]).sum(1)
    best = dots.topk(3).indices
    kept = zip(graph.row[:3].tolist(), graph.col[:3].tolist(), strict=True)
    assert sorted(kept) == sorted(zip(users[best].tolist(), (items[best] + num_users).tolist(), strict=True))


def test_extreme_graphs_give_finite_numbers() -> None:
    for arguments, least in (({}, 1.1), ({"added_edges": 0.0}, 0.02)):
        made = model(**arguments)
        made.prune_below = least  # above 1: even an edge whose ends have the same direction is cut
        loss = made.training_step(BATCH, 0)["loss"]
        loss.backward()
        assert (
            loss.isfinite() and made.embedding.weight.grad is not None and made.embedding.weight.grad.isfinite().all()
        )
