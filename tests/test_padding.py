"""pad_samples on sequences that are shorter, as long, longer and empty."""

import numpy as np
import pytest
import torch

from llmhd_pl import pad_samples

ROWS = [[4, 7], [1, 2, 3], [10, 11, 12, 13, 14], []]


def test_left_keeps_the_last() -> None:
    padded = pad_samples(ROWS, 3)
    assert padded.dtype == torch.int64
    assert padded.tolist() == [[-1, 4, 7], [1, 2, 3], [12, 13, 14], [-1, -1, -1]]


def test_right_keeps_the_first() -> None:
    padded = pad_samples(ROWS, 3, side="right")
    assert padded.tolist() == [[4, 7, -1], [1, 2, 3], [10, 11, 12], [-1, -1, -1]]


def test_the_rows_may_be_arrays_and_tensors() -> None:
    assert pad_samples([np.array([5, 6]), torch.tensor([8])], 2).tolist() == [[5, 6], [-1, 8]]


def test_no_sequences_give_an_empty_batch() -> None:
    assert pad_samples([], 2).shape == (0, 2)


@pytest.mark.parametrize(("length", "side", "named"), [(0, "left", "length is 0"), (3, "top", "side is 'top'")])
def test_what_cannot_be_is_named(length: int, side: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        pad_samples(ROWS, length, side)  # type: ignore[arg-type]
