"""The normalised user-item graph and its product with embeddings: the hot path of every graph model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmhd_pl.precision import at_least_float32, keeping_dtype, widest_dtype
from llmhd_pl.sparse import chosen_rows, entry_dots, product, row_of_entries


def symmetric_csr(users: Tensor, items: Tensor, num_users: int, num_items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the CSR pattern of the bipartite graph, users first, then items.

    Args:
        users: The user of each edge, int64 [n].
        items: The item of each edge, int64 [n]. An edge that occurs twice has four entries, which add up in a product.
        num_users: The number of users.
        num_items: The number of items.

    Returns:
        The row pointers ``crow``, int32 [nodes + 1], the columns ``col``, int32 [2n], and ``edge``, int64 [2n]: the
        edge that each entry belongs to. Every edge has two entries.
    """
    nodes = num_users + num_items
    keys, order = torch.cat([users * nodes + items + num_users, (items + num_users) * nodes + users]).sort()
    # The first entry of each row. To count the entries would take as long, and on a GPU make the CPU wait.
    crow = torch.searchsorted(keys, torch.arange(nodes + 1, device=keys.device) * nodes)
    # int32 saves a third of the memory traffic per entry over int64, and MKL and cuSPARSE work with it.
    return crow.int(), keys.remainder_(nodes).int(), order.remainder_(max(len(users), 1))


def edge_normalization(users: Tensor, items: Tensor, num_users: int, num_items: int, keep: Tensor) -> Tensor:
    """Return the value ``(d_u d_i)^-1/2`` of each kept edge, with the degrees of the kept edges, and 0 for the others.

    Args:
        users: The user of each edge, int64 [n].
        items: The item of each edge, int64 [n].
        num_users: The number of users.
        num_items: The number of items.
        keep: Whether each edge is kept, bool [n].

    Returns:
        The values, float32 [n].
    """
    kept = keep.long()
    by_user = kept.new_zeros(num_users).scatter_add_(0, users, kept)
    by_item = kept.new_zeros(num_items).scatter_add_(0, items, kept)
    degrees = by_user[users] * by_item[items]
    return degrees.to(widest_dtype(degrees.device)).rsqrt().float().where(keep, 0.0)


def symmetric_normalization(users: Tensor, items: Tensor, num_users: int, num_items: int) -> tuple[Tensor, ...]:
    """Return ``D^-1/2 A D^-1/2`` as CSR arrays, A being the bipartite graph with users first, then items.

    He et al., LightGCN, SIGIR 2020, equation 8. A node without an edge has an empty row.

    Args:
        users: The user of each edge, int64 [n].
        items: The item of each edge, int64 [n]; no edge may occur twice.
        num_users: The number of users.
        num_items: The number of items.

    Returns:
        ``crow``, int32 [nodes + 1], ``col``, int32 [2n], and ``val``, float32 [2n].
    """
    crow, col, edge = symmetric_csr(users, items, num_users, num_items)
    return crow, col, edge_normalization(users, items, num_users, num_items, torch.ones_like(users).bool())[edge]


class _LayerSum(torch.autograd.Function):
    """``sum_k weights[k] A^k x`` by Horner's rule, with a gradient.

    A is symmetric, so the gradient is the same sum of the incoming gradient. Autograd by itself would transpose A for
    every layer of every step.
    """

    @staticmethod
    def forward(ctx: Any, graph: "SymmetricAdjacency", x: Tensor, weights: tuple[float, ...]) -> Tensor:
        ctx.constants = graph, weights
        return graph._layer_sum(x, weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        graph, weights = ctx.constants
        return None, graph._layer_sum(gradients[0].contiguous(), weights), None


class _LayerSumOfRows(torch.autograd.Function):
    """Some rows of ``sum_k weights[k] A^k x``, K > 0, with a gradient.

    The last product is one with these rows of A alone, and in the gradient the first one with their transpose: for a
    batch that names a few of many nodes, half of the work of two layers.
    """

    @staticmethod
    def forward(ctx: Any, graph: "SymmetricAdjacency", x: Tensor, weights: tuple[float, ...], rows: Tensor) -> Tensor:
        chosen, transposed = chosen_rows(graph.crow, graph.col, graph.val, rows)
        ctx.constants = graph, weights, rows, transposed
        total = product(*chosen, graph._layer_sum(x, weights[1:]))
        return total.add_(x.index_select(0, rows), alpha=weights[0]) if weights[0] else total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        graph, weights, rows, transposed = ctx.constants
        gradient = gradients[0].contiguous()
        crow, col, val = transposed
        *others, last = weights
        total = product(crow, col, val.to(gradient.dtype) * last, gradient)
        for layer, weight in enumerate(reversed(others)):
            if layer:
                total = product(graph.crow, graph.col, graph.val, total)
            if weight:
                total.index_add_(0, rows, gradient, alpha=weight)
        return None, total, None, None


class SymmetricAdjacency(nn.Module):
    """A symmetric sparse matrix that multiplies node embeddings. Its values get no gradient.

    The matrix is three dense buffers, because DDP cannot broadcast sparse ones. They are not in checkpoints, because
    the data determines them.

    Args:
        crow: The CSR row pointers, int32 [nodes + 1].
        col: The CSR column indices, int32 [entries].
        val: The values, float32 [entries].
    """

    crow: Tensor
    col: Tensor
    val: Tensor

    def __init__(self, crow: Tensor, col: Tensor, val: Tensor) -> None:
        super().__init__()
        for name, buffer in (("crow", crow), ("col", col), ("val", val)):
            self.register_buffer(name, buffer, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move the matrix along with its module, but keep its values in float32."""
        return super()._apply(keeping_dtype(fn), recurse)  # type: ignore[no-untyped-call]

    def layer_sum(self, x: Tensor, weights: Sequence[float], rows: Tensor | None = None) -> Tensor:
        """Return ``sum_k weights[k] A^k x``, in float32 even under autocast: there is no sparse product in bf16.

        Args:
            x: The node embeddings, [nodes, d].
            weights: The weights of the layers 0 to K; with ``rows``, K is at least 1.
            rows: The rows of the sum that are wanted, int64 [n], each once, and on a CPU; None for all of them.

        Returns:
            The weighted sum of the layers, float32 [nodes, d], or [n, d] with ``rows``.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_float32(x)
            total: Tensor = (
                _LayerSum.apply(self, x, tuple(weights))  # type: ignore[no-untyped-call]
                if rows is None
                else _LayerSumOfRows.apply(self, x, tuple(weights), rows)  # type: ignore[no-untyped-call]
            )
        return total

    def _layer_sum(self, x: Tensor, weights: tuple[float, ...]) -> Tensor:
        total = x
        for layer, weight in enumerate(reversed(weights[:-1])):
            val = self.val if layer else self.val.to(x.dtype) * weights[-1]  # on sparse data fewer numbers than x
            total = product(self.crow, self.col, val, total)
            if weight:
                total.add_(x, alpha=weight)
        return total if len(weights) > 1 else x * weights[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``A x`` of node embeddings, [nodes, d]: float32 [nodes, d]."""
        return self.layer_sum(x, (0.0, 1.0))


class _EntryProduct(torch.autograd.Function):
    """The product of a matrix in CSR and x, with gradients to its values and to x; the pattern is symmetric."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, transposed: Tensor, x: Tensor, graph: "WeightedAdjacency") -> Tensor:
        ctx.save_for_backward(transposed, x)
        ctx.graph = graph
        return product(graph.crow, graph.col, values, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (transposed, x), graph, upstream = ctx.saved_tensors, ctx.graph, gradients[0].contiguous()
        of_values = entry_dots(graph.crow, graph.col, upstream, x) if ctx.needs_input_grad[0] else None
        of_x = product(graph.crow, graph.col, transposed, upstream) if ctx.needs_input_grad[2] else None
        return of_values, None, of_x, None


class _EdgeDots(torch.autograd.Function):
    """``x_u x_i`` of each edge. The gradient is the product of x with the symmetric matrix of incoming gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: "WeightedAdjacency") -> Tensor:
        ctx.save_for_backward(x)
        ctx.graph = graph
        users, edges = graph.num_users, len(graph.col) // 2  # the entries of the users' rows are all edges once
        dots = entry_dots(graph.crow[: users + 1], graph.col[:edges], x[:users], x)
        return torch.empty_like(dots).index_copy_(0, graph.edge[:edges], dots)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        graph, (x,) = ctx.graph, ctx.saved_tensors
        return product(graph.crow, graph.col, graph.spread(gradients[0]), x), None


class WeightedAdjacency(SymmetricAdjacency):
    """A bipartite graph, users first, then items, whose values may differ from step to step and get a gradient.

    Every edge has two entries in the matrix. The values of its own, ``val``, are all 1.

    Args:
        users: The user of each edge, int64 [n].
        items: The item of each edge, int64 [n]. What occurs twice is two edges between the same nodes.
        num_users: The number of users.
        num_items: The number of items.
    """

    edge: Tensor
    """The edge of each entry, int64 [2n]."""
    row: Tensor
    """The row of each entry, int32 [2n]; ``col`` is its column."""

    def __init__(self, users: Tensor, items: Tensor, num_users: int, num_items: int) -> None:
        crow, col, edge = symmetric_csr(users, items, num_users, num_items)
        super().__init__(crow, col, torch.ones(len(col), device=col.device))
        self.num_users = num_users
        self.register_buffer("edge", edge, persistent=False)
        self.register_buffer("row", row_of_entries(crow, col), persistent=False)

    def spread(self, weights: Tensor) -> Tensor:
        """Return the weight of the edge of each entry, [2n], of the weights of the edges, [n]."""
        return weights.index_select(0, self.edge)

    def row_sums(self, values: Tensor) -> Tensor:
        """Return the sums of the values of the entries, [2n], over each row: [nodes]."""
        return values.new_zeros(len(self.crow) - 1).index_add(0, self.row, values)

    def product(self, values: Tensor, transposed: Tensor, x: Tensor) -> Tensor:
        """Return ``M x`` for a matrix M of any values; in float32 even under autocast.

        Args:
            values: The value of each entry (r, c) in M, [2n].
            transposed: The value of each entry in the transpose of M, that is of (c, r) in M, [2n]; without gradient.
            x: The node embeddings, [nodes, d].

        Returns:
            The product, float32 [nodes, d].
        """
        with torch.autocast(x.device.type, enabled=False):
            values, transposed, x = (at_least_float32(each) for each in (values, transposed, x))
            product: Tensor = _EntryProduct.apply(values, transposed, x, self)  # type: ignore[no-untyped-call]
        return product

    def edge_dots(self, x: Tensor) -> Tensor:
        """Return the dot product of the two ends of each edge, in float32 even under autocast.

        Args:
            x: The node embeddings, [nodes, d].

        Returns:
            One number per edge, float32 [n].
        """
        with torch.autocast(x.device.type, enabled=False):
            dots: Tensor = _EdgeDots.apply(at_least_float32(x), self)  # type: ignore[no-untyped-call]
        return dots
