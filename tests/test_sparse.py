import torch
from hypothesis import given
from hypothesis import strategies as st

from llmhd_pl.sparse import Csr, chosen_rows


def dense(matrix: Csr, width: int) -> torch.Tensor:
    crow, col, val = matrix
    whole = torch.zeros(len(crow) - 1, width)
    for row in range(len(crow) - 1):
        for entry in range(int(crow[row]), int(crow[row + 1])):
            whole[row, col[entry]] += val[entry]
    return whole


@given(st.integers(1, 9), st.integers(0, 100), st.data())
def test_chosen_rows_and_their_transpose(n: int, seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole = torch.rand(n, n, generator=generator) * (torch.rand(n, n, generator=generator) < 0.4)
    matrix = whole.to_sparse_csr()
    arrays = matrix.crow_indices().int(), matrix.col_indices().int(), matrix.values()
    rows = torch.tensor(data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True)))
    chosen, transposed = chosen_rows(*arrays, rows)
    assert torch.equal(dense(chosen, n), whole[rows])
    assert torch.equal(dense(transposed, len(rows)), whole[rows].T)
    for crow, col, val in (chosen, transposed):
        assert (crow.dtype, col.dtype, val.dtype) == (torch.int32, torch.int32, torch.float32)


def test_the_entries_of_a_row_keep_their_order() -> None:
    """A sum in another order would differ in its last digit."""
    crow, col = torch.tensor([0, 3, 3, 4], dtype=torch.int32), torch.tensor([2, 0, 1, 1], dtype=torch.int32)
    chosen, transposed = chosen_rows(crow, col, torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2, 0]))
    assert [part.tolist() for part in chosen] == [[0, 1, 4], [1, 2, 0, 1], [4.0, 1.0, 2.0, 3.0]]
    assert [part.tolist() for part in transposed] == [[0, 1, 3, 4], [1, 0, 1, 1], [2.0, 4.0, 3.0, 1.0]]
