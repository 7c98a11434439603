import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmhd_pl import sparse
from llmhd_pl.graph import SymmetricAdjacency, WeightedAdjacency, edge_normalization, symmetric_normalization


def random_edges(num_users: int, num_items: int, seed: int) -> tuple[Tensor, Tensor]:
    cells = torch.randperm(num_users * num_items, generator=torch.Generator().manual_seed(seed))
    cells = cells[: max(1, len(cells) // 3)]
    return cells // num_items, cells % num_items


def dense(users: Tensor, items: Tensor, num_users: int, num_items: int) -> Tensor:
    """``D^-1/2 A D^-1/2`` as the paper writes it."""
    a = torch.zeros(num_users + num_items, num_users + num_items, dtype=torch.float64)
    a[users, items + num_users] = 1
    a[items + num_users, users] = 1
    degree = a.sum(1)
    scale = torch.where(degree > 0, degree, torch.inf).rsqrt()
    return scale[:, None] * a * scale


def test_normalisation_by_hand() -> None:
    # user 0 - items 0 and 1; user 1 - item 0; item 2 alone
    crow, col, val = symmetric_normalization(torch.tensor([1, 0, 0]), torch.tensor([0, 1, 0]), 2, 3)
    assert crow.tolist() == [0, 2, 3, 5, 6, 6]
    assert col.tolist() == [2, 3, 2, 0, 1, 0]
    half, root = 1 / 2, 1 / 2**0.5
    assert val.tolist() == pytest.approx([half, root, root, half, root, root])


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 100), st.lists(st.floats(-2, 2), min_size=1, max_size=4))
def test_layer_sum_and_its_gradient_equal_the_dense_computation(
    u: int, i: int, seed: int, weights: list[float]
) -> None:
    users, items = random_edges(u, i, seed)
    adjacency = SymmetricAdjacency(*symmetric_normalization(users, items, u, i))
    a = dense(users, items, u, i)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(u + i, 5, generator=generator, requires_grad=True)
    upstream = torch.randn(u + i, 5, generator=generator)
    out = adjacency.layer_sum(x, weights)
    (gradient,) = torch.autograd.grad(out, x, upstream)

    reference = x.detach().double().requires_grad_()
    expected = sum((w * torch.linalg.matrix_power(a, k) @ reference for k, w in enumerate(weights)), torch.zeros(()))
    (expected_gradient,) = torch.autograd.grad(expected, reference, upstream.double())
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient.double(), expected_gradient, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(adjacency(x).double(), a @ x.detach().double(), atol=1e-5, rtol=1e-5)


@given(
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(0, 100),
    st.lists(st.floats(-2, 2), min_size=2, max_size=4),
    st.data(),
)
def test_chosen_rows_of_a_layer_sum_and_their_gradient_are_those_of_the_whole(
    u: int, i: int, seed: int, weights: list[float], data: st.DataObject
) -> None:
    adjacency = SymmetricAdjacency(*symmetric_normalization(*random_edges(u, i, seed), u, i))
    rows = torch.tensor(data.draw(st.lists(st.integers(0, u + i - 1), min_size=1, unique=True)))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(u + i, 5, generator=generator, requires_grad=True)
    upstream = torch.randn(len(rows), 5, generator=generator)
    whole, some = adjacency.layer_sum(x, weights)[rows], adjacency.layer_sum(x, weights, rows)
    assert some.dtype == torch.float32
    torch.testing.assert_close(some, whole)
    gradients = (torch.autograd.grad(out, x, upstream)[0] for out in (some, whole))
    torch.testing.assert_close(*gradients)


def test_product_stays_float32_under_autocast() -> None:
    users, items = random_edges(5, 6, 0)
    adjacency = SymmetricAdjacency(*symmetric_normalization(users, items, 5, 6))
    x = torch.randn(11, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = adjacency(x.bfloat16())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, adjacency(x.bfloat16().float()))


def test_the_graph_is_not_in_the_state_dict_and_has_no_sparse_buffer() -> None:
    adjacency = SymmetricAdjacency(*symmetric_normalization(*random_edges(5, 6, 0), 5, 6))
    assert adjacency.state_dict() == {}
    assert all(buffer.layout == torch.strided for buffer in adjacency.buffers())


def test_normalisation_of_the_kept_edges_by_hand() -> None:
    users, items = torch.tensor([1, 0, 0]), torch.tensor([0, 1, 0])
    keep = torch.tensor([True, False, True])
    root = 1 / 2**0.5
    assert edge_normalization(users, items, 2, 3, keep).tolist() == pytest.approx([root, 0, root])


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 100))
def test_weighted_product_and_edge_dots_equal_the_dense_computation(u: int, i: int, seed: int) -> None:
    users, items = random_edges(u, i, seed)  # unsorted
    graph = WeightedAdjacency(users, items, u, i)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(u + i, 5, generator=generator, requires_grad=True)
    weights, scale = (torch.randn(size, generator=generator, requires_grad=True) for size in (len(users), u + i))
    upstream = torch.randn(u + i, 5, generator=generator)

    def product(weights: Tensor, scale: Tensor, x: Tensor) -> Tensor:
        spread = graph.spread(weights)
        values, transposed = (spread * scale.index_select(0, ends) for ends in (graph.row, graph.col))
        return graph.product(values, transposed.detach(), x)

    def dense_sums_and_product(weights: Tensor, scale: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(u + i, u + i, dtype=x.dtype)
        half = zeros.index_put((users, items + u), weights)
        return (half + half.T).sum(1), scale[:, None] * (half + half.T) @ x

    def dense_dots(x: Tensor) -> Tensor:
        return (x[users] * x[items + u]).sum(1)

    references = [values.detach().double().requires_grad_() for values in (weights, scale, x)]
    with torch.autocast("cpu", torch.bfloat16):
        ours = graph.row_sums(graph.spread(weights)), product(weights, scale, x), graph.edge_dots(x)
    theirs = *dense_sums_and_product(*references), dense_dots(references[2])
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)

    def loss(sums: Tensor, product: Tensor, dots: Tensor) -> Tensor:
        return (sums**2).sum() + (product * upstream).sum() + (dots**2).sum()

    our_gradients = torch.autograd.grad(loss(*ours), (weights, scale, x))
    their_gradients = torch.autograd.grad(loss(*theirs), references)
    for one, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-4, rtol=1e-4)


WITHOUT_A_WARNING = """
import warnings
import torch
from llmhd_pl.graph import WeightedAdjacency
warnings.simplefilter("error")
filters = list(warnings.filters)
nodes = torch.arange(4)
graph = WeightedAdjacency(nodes, nodes, 4, 4)
for _ in range(2):
    graph.edge_dots(torch.ones(8, 3, requires_grad=True)).sum().backward()
assert warnings.filters == filters
"""


def test_pytorchs_warning_about_csr_tensors_is_suppressed_and_no_filter_stays() -> None:
    """In its own process, because PyTorch warns once per process."""
    subprocess.run([sys.executable, "-c", WITHOUT_A_WARNING], check=True)


def test_without_csr_tensors_the_products_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS has none: what it does instead, run on the CPU under another name."""
    users, items = random_edges(7, 5, 0)
    adjacency = SymmetricAdjacency(*symmetric_normalization(users, items, 7, 5))
    weighted = WeightedAdjacency(users, items, 7, 5)
    x, values = torch.randn(12, 3), torch.rand(2 * len(users))
    wanted = adjacency.layer_sum(x, (0.5, 0.3, 0.2)), weighted.product(values, values, x), weighted.edge_dots(x)
    monkeypatch.setattr(sparse, "_has_csr", lambda device: False)
    found = adjacency.layer_sum(x, (0.5, 0.3, 0.2)), weighted.product(values, values, x), weighted.edge_dots(x)
    torch.testing.assert_close(found, wanted)
