"""Rows of tokens in batches: padding, and what to do when memory runs out."""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of",
)


class TokenBatches:
    """Base class of what reads rows of tokens in batches.

    Args:
        batch_tokens: The tokens of a batch. The number halves when the device runs out of memory and stays halved.
    """

    def __init__(self, batch_tokens: int) -> None:
        self.batch_tokens = batch_tokens

    def in_batches(
        self,
        lengths: Sequence[int],
        choose: Callable[[list[int]], list[int]],
        work: Callable[[list[int]], Iterable[T]],
    ) -> Iterator[tuple[int, T]]:
        """Do some work for each row, the longest first, so that a batch that does not fit is found at the start.

        Args:
            lengths: The tokens of each row.
            choose: A function from the rows that are left, the longest first, to how many of the first are a batch: it
                returns these rows.
            work: A function from some rows to one result each.

        Yields:
            The number of each row and its result.
        """
        left = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        while left:
            rows = choose(left)
            try:
                results = work(rows)
            except RuntimeError as error:
                if len(rows) == 1 or not is_out_of_memory(error):
                    raise
            else:
                yield from zip(rows, results, strict=True)
                left = left[len(rows) :]
                continue
            # The batch that failed may have been smaller than was allowed: half of it must be tried next.
            self.batch_tokens = max(1, min(self.batch_tokens, lengths[rows[0]] * len(rows)) // 2)
            gc.collect()  # out here, where the error no longer holds what the failed batch has computed
            torch.cuda.empty_cache()
            if torch.backends.mps.is_available():
                torch.mps.empty_cache()


def tokens_that_fit(model: Any) -> int:
    """Return how many tokens a batch of a language model may have.

    On a CPU these are 16,384. On a GPU they are what half of the free memory holds, at most 131,072. A token takes its
    keys and values in all layers, which writing keeps, and the intermediate results of one layer. Where this is too
    much, the batch that fails is halved.

    Args:
        model: A causal language model of transformers, on its device.
    """
    if model.device.type != "cuda":
        return 16384
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(1024, min(131_072, free // 2 // bytes_of_token(model.config.get_text_config(), model.dtype.itemsize)))


def bytes_of_token(config: Any, itemsize: int) -> int:
    """Return about how much memory a token takes in a language model.

    Args:
        config: The configuration of the model's text part.
        itemsize: The bytes of a number.
    """
    hidden = config.hidden_size
    heads = _largest(config, "num_attention_heads", 0)  # none without attention, whose state does not grow
    head = _largest(config, "head_dim", hidden // max(heads, 1))
    kept = 2 * config.num_hidden_layers * _largest(config, "num_key_value_heads", heads) * head
    width = _largest(config, "intermediate_size", 4 * hidden)
    numbers: int = kept + 8 * hidden + 3 * width  # eight: a layer's input, norms, queries to values and their sum
    return numbers * itemsize


def _largest(config: Any, name: str, otherwise: int) -> int:
    """Return a number of a configuration, which may have one for each layer, or may not know it."""
    value = getattr(config, name, None) or otherwise
    return max(value) if isinstance(value, list | tuple) else value


def padded(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Pad rows of tokens behind, where no token of a causal model looks.

    Args:
        rows: The token ids of each row.

    Returns:
        The token ids, int64 [rows, longest], and a mask of the same shape that is 1 where they are, 0 at the padding.
    """
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids, mask


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out. PyTorch has a class for most of CUDA; all else is recognised by its text."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY)
