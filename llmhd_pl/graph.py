"""The normalised user-item graph and its product with embeddings: the hot path of every graph model."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")


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
    nodes = num_users + num_items
    row = torch.cat([users, items + num_users])
    col = torch.cat([items + num_users, users])
    order = (row * nodes + col).argsort()
    row, col = row[order], col[order]
    degree = torch.bincount(row, minlength=nodes)
    val = (degree[row] * degree[col]).double().rsqrt().float()
    crow = torch.cat([torch.zeros_like(degree[:1]), degree.cumsum(0)])
    # int32: a third of the memory traffic per entry less than int64, and what MKL and cuSPARSE work with
    return crow.int(), col.int(), val


def _layer_sum(matrix: Tensor, x: Tensor, weights: tuple[float, ...], scratch: Tensor) -> Tensor:
    """``sum_k weights[k] A^k x`` by Horner's rule, one fused multiply-add a layer; only the result is allocated."""
    last = len(weights) - 1
    total = torch.mul(x, weights[last], out=torch.empty_like(x) if last == 0 else scratch[0])
    for layer in range(last - 1, -1, -1):
        out = torch.empty_like(x) if layer == 0 else scratch[(last - layer) % 2]
        total = torch.addmm(x, matrix, total, beta=weights[layer], out=out)
    return total


class _LayerSum(torch.autograd.Function):
    """``_layer_sum`` with a gradient. A is symmetric, so it is the same sum, applied to the incoming gradient.

    Autograd would transpose A in every layer of every step.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, x: Tensor, weights: tuple[float, ...], scratch: Tensor) -> Tensor:
        ctx.constants = matrix, weights, scratch
        return _layer_sum(matrix, x, weights, scratch)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        matrix, weights, scratch = ctx.constants
        return None, _layer_sum(matrix, gradients[0].contiguous(), weights, scratch), None, None


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
        self._scratch = torch.empty(0)

    def layer_sum(self, x: Tensor, weights: Sequence[float]) -> Tensor:
        """``sum_k weights[k] A^k x``, in float32 under autocast too: no bf16 sparse product exists.

        Args:
            x: node embeddings, [nodes, d].
            weights: of the layers 0 to K.

        Returns:
            float32 [nodes, d].
        """
        x, nodes = x.float(), len(self.crow) - 1
        if self._scratch.shape[1:] != x.shape or self._scratch.device != x.device:
            # Kept from step to step: fresh memory costs as much time as half a product. A normal tensor, also when
            # the first call is an evaluation's.
            with torch.inference_mode(False):
                self._scratch = torch.empty(2, *x.shape, device=x.device)
        with torch.autocast(x.device.type, enabled=False):
            matrix = torch.sparse_csr_tensor(self.crow, self.col, self.val, (nodes, nodes), check_invariants=False)
            total: Tensor = _LayerSum.apply(matrix, x, tuple(weights), self._scratch)  # type: ignore[no-untyped-call]
        return total

    def forward(self, x: Tensor) -> Tensor:
        """``A x``: float32 [nodes, d]."""
        return self.layer_sum(x, (0.0, 1.0))
