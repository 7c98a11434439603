"""The normalised user-item graph and its product with embeddings: the hot path of every graph model."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")


def symmetric_csr(users: Tensor, items: Tensor, num_users: int, num_items: int) -> tuple[Tensor, Tensor, Tensor]:
    """CSR pattern of the bipartite graph with users first, then items, and which edge each entry belongs to.

    Args:
        users: int64 [n], the user of each edge.
        items: int64 [n], its item; no edge twice.
        num_users: number of users.
        num_items: number of items.

    Returns:
        ``crow`` int32 [nodes + 1], ``col`` int32 [2n], ``edge`` int64 [2n]: every edge has two entries.
    """
    nodes = num_users + num_items
    row = torch.cat([users, items + num_users])
    col = torch.cat([items + num_users, users])
    order = (row * nodes + col).argsort()
    degree = torch.bincount(row, minlength=nodes)
    crow = torch.cat([torch.zeros_like(degree[:1]), degree.cumsum(0)])
    # int32: a third of the memory traffic per entry less than int64, and what MKL and cuSPARSE work with
    return crow.int(), col[order].int(), order % max(len(users), 1)


def edge_normalization(users: Tensor, items: Tensor, num_users: int, num_items: int, keep: Tensor) -> Tensor:
    """The value ``(d_u d_i)^-1/2`` of each edge where only some are kept, and degrees count those; 0 for the others.

    Args:
        users: int64 [n], the user of each edge.
        items: int64 [n], its item.
        num_users: number of users.
        num_items: number of items.
        keep: bool [n].

    Returns:
        float32 [n].
    """
    by_user = torch.bincount(users[keep], minlength=num_users)
    by_item = torch.bincount(items[keep], minlength=num_items)
    return (by_user[users] * by_item[items]).double().rsqrt().float().where(keep, 0.0)


def symmetric_normalization(users: Tensor, items: Tensor, num_users: int, num_items: int) -> tuple[Tensor, ...]:
    """CSR arrays of ``D^-1/2 A D^-1/2``, A the bipartite graph with users first, then items.

    He et al., LightGCN, SIGIR 2020, equation 8. A node without an edge gets an empty row.

    Args:
        users: int64 [n], the user of each edge.
        items: int64 [n], its item; no edge twice.
        num_users: number of users.
        num_items: number of items.

    Returns:
        ``crow`` int32 [nodes + 1], ``col`` int32 [2n], ``val`` float32 [2n].
    """
    crow, col, edge = symmetric_csr(users, items, num_users, num_items)
    every = torch.ones_like(users, dtype=torch.bool)
    return crow, col, edge_normalization(users, items, num_users, num_items, every)[edge]


def _product(crow: Tensor, col: Tensor, val: Tensor, x: Tensor) -> Tensor:
    """A matrix in CSR times ``x`` [columns, d], both float32, without a gradient: [rows, d]."""
    if x.device.type == "cpu":
        # A row of the product is a weighted bag of x's rows, and PyTorch has a kernel for that which knows AVX-512;
        # MKL's for CSR uses the oldest instructions on all but Intel's processors (benchmarks/product.py).
        return F.embedding_bag(col, x, crow, mode="sum", per_sample_weights=val, include_last_offset=True)
    matrix = torch.sparse_csr_tensor(crow, col, val, (len(crow) - 1, len(x)), check_invariants=False)
    return torch.mm(matrix, x)


class _LayerSum(torch.autograd.Function):
    """``sum_k weights[k] A^k x`` by Horner's rule, with a gradient.

    A is symmetric, so the gradient is the same sum, applied to what comes in; autograd would transpose A in every layer
    of every step.
    """

    @staticmethod
    def forward(ctx: Any, graph: "SymmetricAdjacency", x: Tensor, weights: tuple[float, ...]) -> Tensor:
        ctx.constants = graph, weights
        return graph._layer_sum(x, weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        graph, weights = ctx.constants
        return None, graph._layer_sum(gradients[0].contiguous(), weights), None


class SymmetricAdjacency(nn.Module):
    """A symmetric sparse matrix that multiplies node embeddings; no gradient flows to its values.

    It is kept as three dense buffers, because DDP cannot broadcast sparse ones, and they stay out of checkpoints,
    because the data gives them.

    Args:
        crow: CSR row pointers, int32 [nodes + 1].
        col: CSR column indices, int32 [entries].
        val: values, float32 [entries].
    """

    crow: Tensor
    col: Tensor
    val: Tensor

    def __init__(self, crow: Tensor, col: Tensor, val: Tensor) -> None:
        super().__init__()
        for name, buffer in (("crow", crow), ("col", col), ("val", val)):
            self.register_buffer(name, buffer, persistent=False)

    def layer_sum(self, x: Tensor, weights: Sequence[float]) -> Tensor:
        """``sum_k weights[k] A^k x``, in float32 under autocast too: no bf16 sparse product exists.

        Args:
            x: node embeddings, [nodes, d].
            weights: of the layers 0 to K.

        Returns:
            float32 [nodes, d].
        """
        with torch.autocast(x.device.type, enabled=False):
            total: Tensor = _LayerSum.apply(self, x.float(), tuple(weights))  # type: ignore[no-untyped-call]
        return total

    def _layer_sum(self, x: Tensor, weights: tuple[float, ...]) -> Tensor:
        total = x * weights[-1]
        for weight in reversed(weights[:-1]):
            total = _product(self.crow, self.col, self.val, total)
            if weight:
                total.add_(x, alpha=weight)
        return total

    def forward(self, x: Tensor) -> Tensor:
        """``A x``: float32 [nodes, d]."""
        return self.layer_sum(x, (0.0, 1.0))


class _WeightedProduct(torch.autograd.Function):
    """``S(w) x`` with gradients to both, S(w) symmetric with value w_e at both entries of edge e."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, graph: "WeightedAdjacency") -> Tensor:
        ctx.save_for_backward(weights, x)
        ctx.graph = graph
        return graph._product(weights, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (weights, x), graph, upstream = ctx.saved_tensors, ctx.graph, gradients[0].contiguous()
        of_weights = None
        if ctx.needs_input_grad[0]:
            of_weights = torch.zeros_like(weights).index_add_(0, graph.edge, graph._dots(upstream, x))
        return of_weights, graph._product(weights, upstream) if ctx.needs_input_grad[1] else None, None


class _EdgeDots(torch.autograd.Function):
    """``x_u x_i`` of each edge; its gradient is a product with the symmetric matrix of what comes in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: "WeightedAdjacency") -> Tensor:
        ctx.save_for_backward(x)
        ctx.graph = graph
        dots = graph._dots(x, x)
        return dots.new_empty(len(dots) // 2).index_copy_(0, graph.edge[: len(dots) // 2], dots[: len(dots) // 2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.graph._product(gradients[0], ctx.saved_tensors[0]), None


class WeightedAdjacency(SymmetricAdjacency):
    """A 0/1 bipartite graph whose edges can be given weights that have a gradient.

    Args:
        users: int64 [n], the user of each edge.
        items: int64 [n], its item; no edge twice.
        num_users: number of users.
        num_items: number of items.
    """

    edge: Tensor

    def __init__(self, users: Tensor, items: Tensor, num_users: int, num_items: int) -> None:
        crow, col, edge = symmetric_csr(users, items, num_users, num_items)
        super().__init__(crow, col, torch.ones(len(col), device=col.device))
        self.register_buffer("edge", edge, persistent=False)

    def weighted(self, weights: Tensor, x: Tensor) -> Tensor:
        """``S x``, S with the weight of edge e at both of its entries; in float32 under autocast too.

        Args:
            weights: of the edges, [n].
            x: node embeddings, [nodes, d].

        Returns:
            float32 [nodes, d].
        """
        with torch.autocast(x.device.type, enabled=False):
            product: Tensor = _WeightedProduct.apply(weights.float(), x.float(), self)  # type: ignore[no-untyped-call]
        return product

    def edge_dots(self, x: Tensor) -> Tensor:
        """The dot product of the two ends of each edge, of embeddings [nodes, d]: float32 [n]."""
        with torch.autocast(x.device.type, enabled=False):
            dots: Tensor = _EdgeDots.apply(x.float(), self)  # type: ignore[no-untyped-call]
        return dots

    def _product(self, weights: Tensor, x: Tensor) -> Tensor:
        return _product(self.crow, self.col, weights.index_select(0, self.edge), x)

    def _dots(self, left: Tensor, right: Tensor) -> Tensor:
        """``left_r right_c`` of every entry (r, c): [2n]."""
        nodes = len(self.crow) - 1
        zeros = torch.zeros_like(self.val)
        pattern = torch.sparse_csr_tensor(self.crow, self.col, zeros, (nodes, nodes), check_invariants=False)
        dots: Tensor = torch.sparse.sampled_addmm(pattern, left, right.t(), beta=0.0).values()
        return dots
