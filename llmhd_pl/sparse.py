"""Sparse matrices as CSR arrays, and their products with embeddings: the hot path of every graph model."""

import warnings
from functools import cache

import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

Csr = tuple[Tensor, Tensor, Tensor]
"""A matrix: row pointers, int32 [rows + 1], columns, int32 [entries], and values, float [entries]."""


def _has_csr(device: torch.device) -> bool:
    """Return whether a device has CSR tensors and bags with weights; Apple's MPS has not."""
    return device.type in ("cpu", "cuda")


@cache
def _suppress_beta_warning() -> None:
    """Make a first CSR tensor without PyTorch's warning that they are in beta, which comes once in a process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)


def _csr_tensor(crow: Tensor, col: Tensor, val: Tensor, num_columns: int) -> Tensor:
    """Return the matrix as a PyTorch tensor, [rows, num_columns]. Its arrays are not checked."""
    _suppress_beta_warning()
    return torch.sparse_csr_tensor(crow, col, val, (len(crow) - 1, num_columns), check_invariants=False)


def product(crow: Tensor, col: Tensor, val: Tensor, x: Tensor) -> Tensor:
    """Return a matrix in CSR times ``x`` [columns, d], without a gradient: [rows, d]."""
    # Without the mark of a gradient: within a function of autograd the kernel would prepare for one all the same.
    val, x = val.detach().to(x.dtype), x.detach()  # float64 in a run in float64
    if not _has_csr(x.device):
        return x.new_zeros(len(crow) - 1, x.shape[1]).index_add_(
            0, row_of_entries(crow, col), val[:, None] * x.index_select(0, col)
        )
    if x.device.type == "cpu" or torch.are_deterministic_algorithms_enabled():
        # A row of the product is a weighted bag of rows of x, and PyTorch's kernel for that uses AVX-512. MKL's product
        # of CSR matrices uses the oldest instructions on all processors but Intel's (benchmarks/product.py). On a GPU
        # the kernel sums a row in one order always, which cuSPARSE does not promise, but a popular item's row slowly.
        return F.embedding_bag(col, x, crow, mode="sum", per_sample_weights=val, include_last_offset=True)
    return torch.mm(_csr_tensor(crow, col, val, len(x)), x)


def row_of_entries(crow: Tensor, col: Tensor) -> Tensor:
    """Return the row of each entry, int32 [entries]."""
    return torch.repeat_interleave(crow.diff(), output_size=len(col))


def entry_dots(crow: Tensor, col: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return the dot product ``left_r right_c`` of every entry (r, c) of a CSR pattern, without a gradient.

    Args:
        crow: The CSR row pointers, int32 [rows + 1].
        col: The CSR column indices, int32 [entries]; on a CPU in any order, also repeated ones.
        left: A vector for each row, [rows, d].
        right: A vector for each column, [columns, d].

    Returns:
        One number per entry, [entries].
    """
    # sampled_addmm takes no more entries than the matrix has places, not even repeated ones.
    if not _has_csr(left.device) or len(col) > len(left) * len(right):
        return (left.index_select(0, row_of_entries(crow, col)) * right.index_select(0, col)).sum(dim=1)
    pattern = _csr_tensor(crow, col, left.new_zeros(len(col)), len(right))
    dots: Tensor = torch.sparse.sampled_addmm(pattern, left, right.t(), beta=0.0).values()
    return dots


def chosen_rows(crow: Tensor, col: Tensor, val: Tensor, rows: Tensor) -> tuple[Csr, Csr]:
    """Return some rows of a square matrix as a matrix, and the transpose of that.

    Args:
        crow: The CSR row pointers, int32 [n + 1], on the CPU, like everything here.
        col: The CSR column indices, int32 [entries].
        val: The values, float [entries].
        rows: The rows, int64 [m].

    Returns:
        The matrices, [m, n] and [n, m]. The entries of a row have the order that they have in the given matrix.
    """
    square = sp.csr_matrix((val.numpy(), col.numpy(), crow.numpy()), shape=(len(crow) - 1,) * 2, copy=False)
    chosen = square[rows.numpy()]
    first, second = (
        (torch.from_numpy(m.indptr), torch.from_numpy(m.indices), torch.from_numpy(m.data))
        for m in (chosen, chosen.tocsc())  # the columns of the one are the rows of the other
    )
    return first, second
