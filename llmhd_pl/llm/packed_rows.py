"""Several prompts in one row: a beginning, then its endings, none of which sees another one. For GPUs.

A batch then holds the prompts of many users without a cache and without a copy of what a user's prompts share, so a
device reads it in one forward pass.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from llmhd_pl.llm.token_batches import padded


def rows_of(
    prompts: Iterable[tuple[int, int]], beginnings: Sequence[int], endings: Sequence[Sequence[int]], row_tokens: int
) -> Iterator[list[tuple[int, int]]]:
    """Divide prompts among rows. A row has prompts with one beginning, and is no longer than allowed if it has several.

    Args:
        prompts: The group of each prompt and its number in it; those of a group follow each other.
        beginnings: The tokens of the beginning of each group.
        endings: The tokens of each ending of each group.
        row_tokens: The most tokens of a row.

    Yields:
        The prompts of each row, in their order.
    """
    for group, of_group in groupby(prompts, key=lambda prompt: prompt[0]):
        row: list[tuple[int, int]] = []
        length = beginnings[group]
        for prompt in of_group:
            more = endings[group][prompt[1]]
            if row and length + more > row_tokens:
                yield row
                row, length = [], beginnings[group]
            row.append(prompt)
            length += more
        yield row


class PackedRows:
    """A batch of rows.

    Args:
        rows: The tokens of the beginning of each row, and those of its endings.

    Attributes:
        ids: The tokens, int64 [rows, longest], padded behind.
        positions: The position of each token in its prompt, int64, with the same shape.
        segments: 0 for a token of the beginning, k for one of the k-th ending, -1 for padding; int64, the same shape.
    """

    def __init__(self, rows: Sequence[tuple[list[int], Sequence[list[int]]]]) -> None:
        self.ids, real = padded(
            [[*beginning, *(token for ending in endings for token in ending)] for beginning, endings in rows]
        )
        self.positions = torch.zeros_like(self.ids)
        self.segments = real - 1
        ends: list[tuple[int, int]] = []
        for row, (beginning, endings) in enumerate(rows):
            start = len(beginning)
            self.positions[row, :start] = torch.arange(start)
            for number, ending in enumerate(endings, 1):
                here = slice(start, start + len(ending))
                self.positions[row, here] = torch.arange(len(beginning), len(beginning) + len(ending))
                self.segments[row, here] = number
                start += len(ending)
                ends.append((row, start))
        self._ends = torch.tensor(ends)

    def last(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the places of the last tokens of all endings: their rows [endings, 1] and columns [endings, count]."""
        row, end = self._ends[:, :1], self._ends[:, 1:]
        return row, end - count + torch.arange(count)

    def mask(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return what is added to the products of attention, [rows, 1, longest, longest].

        A token sees the tokens before it in the beginning and in its own ending. Padding sees the beginning, because a
        softmax over nothing would be NaN.

        Args:
            dtype: The floating-point format of the model.
            device: Where the model is.
        """
        segments = self.segments.to(device)
        place = torch.arange(self.ids.shape[1], device=device)
        seen = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])
        seen &= place[None, :] <= place[:, None]
        lowest = torch.finfo(dtype).min
        return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, lowest)[:, None]
