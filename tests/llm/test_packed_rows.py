from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from llmhd_pl.llm.packed_rows import PackedRows, rows_of


def test_a_token_sees_its_beginning_and_its_own_ending() -> None:
    batch = PackedRows([([5, 6], [[7], [8, 9]]), ([5], [[3]])])
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9], [5, 3, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 2, 3], [0, 1, 0, 0, 0]]
    mask = batch.mask(torch.float32, torch.device("cpu"))
    assert mask.shape == (2, 1, 5, 5) and set(mask.unique().tolist()) == {0, torch.finfo(torch.float32).min}
    first, second = (mask[:, 0] == 0).int().tolist()
    assert first == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]
    assert second[:2] == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]
    assert all(row[0] == 1 for row in second)  # padding sees something, or the softmax would be NaN
    rows, columns = batch.last(1)
    assert rows.tolist() == [[0], [0], [1]] and columns.tolist() == [[2], [4], [1]]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 9), min_size=1, max_size=6)), max_size=5),
    st.integers(1, 40),
)
def test_every_prompt_is_in_one_row_and_rows_are_as_long_as_they_may_be(
    groups: list[tuple[int, list[int]]], row_tokens: int
) -> None:
    beginnings, endings = [length for length, _ in groups], [lengths for _, lengths in groups]
    prompts = [(group, ending) for group, lengths in enumerate(endings) for ending in range(len(lengths))]
    rows = list(rows_of(prompts, beginnings, endings, row_tokens))
    assert [prompt for row in rows for prompt in row] == prompts

    def length(row: list[tuple[int, int]]) -> int:
        return beginnings[row[0][0]] + sum(endings[group][ending] for group, ending in row)

    for row in rows:
        assert len({group for group, _ in row}) == 1
        assert len(row) == 1 or length(row) <= row_tokens
    for row, following in pairwise(rows):
        if following[0][0] == row[0][0]:
            assert length([*row, following[0]]) > row_tokens
