"""PromptReader: reads prompts with a common beginning in the cheapest way that is exact for the model."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from llmhd_pl.llm.packed_rows import PackedRows
from llmhd_pl.llm.same_logits import is_exact, same_logits
from llmhd_pl.llm.token_batches import is_out_of_memory, padded

Way = Literal["shared prefix", "packed rows", "copied prefix", "whole prompts", "one by one"]
"""How prompts are read, the cheapest way first. A beginning is read once, and its endings go on from what the model
keeps of it, which stays one row; or they follow it in the same row; or they go on from copies of what the model keeps.
Otherwise the beginning is read again for each ending, many prompts at a time or one at a time."""

_PROMPTS_OF_A_ROW = 4
"""The most tokens of a packed row, in prompts. Longer rows would hardly save more of the beginning, and attention grows
with the square."""


@dataclass(frozen=True)
class Beginning:
    """The beginning of prompts.

    Attributes:
        ids: Its tokens.
        cache: What the model keeps of them, one row; None if each ending is read together with them.
    """

    ids: list[int]
    cache: Any = None


class PromptReader:
    """Computes the logits at the ends of prompts, in batches.

    A batch is padded behind its rows. That is exact for every causal model, whatever it keeps of earlier tokens: keys
    and values, a window of them, or a recurrent state. Padding in front would shift windows and enter into states.

    Args:
        model: A causal language model in eval mode.

    Attributes:
        way: How prompts are read; ``choose_way`` decides it.
        longest: The tokens of the prompt that it was decided by; 0 before.
        row_tokens: The most tokens of a packed row.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.way: Way = "whole prompts"
        self.longest = self.row_tokens = 0

    def must_choose(self, longest: int) -> bool:
        """Return whether ``choose_way`` must be called before prompts of up to so many tokens are read.

        Packed rows have a mask of their own in place of a model's window, so they are right for prompts that fit in it.
        """
        return not self.longest or (self.way == "packed rows" and longest > self.longest)

    def choose_way(self, prefix: list[int], ending: list[int], tail: list[int], positions: int) -> None:
        """Take the cheapest way that gives the logits of a plain forward pass of the whole prompt.

        A model may go on from a beginning wrongly without any error: it may ignore its state, or count positions from
        the wrong place. So a long and a short prompt are read together in every way, until a way is right.

        Args:
            prefix: The tokens of a beginning. If there are none, nothing is decided.
            ending: The tokens of an ending; the short prompt has only the last of them.
            tail: The tokens that follow every ending.
            positions: How many tokens at the end of the prompt are compared.

        Raises:
            ValueError: If not even whole prompts can be padded behind, so that the model is not causal.
        """
        if not prefix:
            return
        pair = [[*ending, *tail], [*ending[-1:], *tail]]
        self.row_tokens = _PROMPTS_OF_A_ROW * (len(prefix) + len(pair[0]))
        whole = [torch.tensor([[*prefix, *rest]], device=self.model.device) for rest in pair]
        expected = torch.cat([self.model(input_ids=ids).logits[:, -positions:] for ids in whole])
        faults: list[str] = []
        for way in get_args(Way):
            self.way = way
            fault = None if way == "one by one" else self._fault(prefix, pair, expected)
            if fault is None:
                break
            faults.append(fault)
        self.longest = len(prefix) + len(pair[0])
        if self.way == "one by one" and (is_exact(self.model) or not getattr(self.model.config, "is_decoder", True)):
            raise ValueError(
                f"{type(self.model).__name__} is no causal language model as it is configured: its answer to a prompt "
                "depends on what stands behind the prompt. Take another model."
            )
        if self.way in ("whole prompts", "one by one"):
            warnings.warn(
                f"{type(self.model).__name__} does not go on rightly from a beginning that it has read before "
                f"({faults[2]}). So prompts are read {'whole' if self.way == 'whole prompts' else 'one by one'}, which "
                "is exact, but takes longer.",
                stacklevel=2,
            )

    def _fault(self, prefix: list[int], pair: list[list[int]], expected: Tensor) -> str | None:
        """Return what is wrong with the current way, or None."""
        from llmhd_pl.llm import shared_prefix  # imports transformers, which takes seconds

        sharing = self.way == "shared prefix"
        if sharing and not shared_prefix.enable(self.model):
            return "it does not run with PyTorch's attention on a CPU"
        try:
            half = len(prefix) // 2
            beginning = self.read(prefix[half:], self.read(prefix[:half]))
            before, compared = 0, 1
            if self.way == "packed rows":
                # A window shows in the ending that is the farthest from the beginning, or in a prompt longer than it.
                before, compared = max(0, (self.row_tokens - len(prefix)) // len(pair[0]) - 1), len(pair)
            found = self.logits(beginning, [*[pair[0]] * before, *pair], expected.shape[1])
            both = zip(found[-compared:], expected[-compared:], strict=True)
            same = [same_logits(one, other, self.model) for one, other in both]
            fault = None if all(same) else "the answers would change"
        except Exception as error:  # there is no common error for what a model cannot do
            if is_out_of_memory(error):
                shortest = len(prefix) + sum(map(len, pair))
                if self.way == "packed rows" and self.row_tokens > shortest:
                    self.row_tokens = max(shortest, self.row_tokens // 2)
                    return self._fault(prefix, pair, expected)
                if len(pair) == 1:
                    raise
                return self._fault(prefix, pair[1:], expected[1:])
            fault = f"{type(error).__name__}: {error}"
        if sharing and fault is not None:
            shared_prefix.disable(self.model)
        return fault

    def read(self, ids: list[int], begun: Beginning | None = None) -> Beginning:
        """Read the beginning of prompts, as far as it can be read before them.

        Args:
            ids: Some tokens.
            begun: The tokens before them, if there are any. It stays as it is.
        """
        from transformers import DynamicCache

        begun = begun or Beginning([])
        cache = copy.deepcopy(begun.cache)
        if ids and self.way in ("shared prefix", "copied prefix"):
            cache = DynamicCache(config=self.model.config) if cache is None else cache
            last_logits(self.model, [ids], 1, past_key_values=cache, use_cache=True)
        return Beginning([*begun.ids, *ids], cache)

    def logits(self, beginning: Beginning, endings: Sequence[list[int]], positions: int) -> Tensor:
        """Return the logits of the last tokens of each prompt, [endings, positions, vocabulary].

        Args:
            beginning: The beginning of the prompts.
            endings: The tokens of the endings, each at least ``positions``.
            positions: The number of tokens.
        """
        if self.way == "packed rows":
            return self.packed([(beginning.ids, endings)], positions)
        if beginning.cache is None:
            prompts = [[*beginning.ids, *ending] for ending in endings]
            batches = [[prompt] for prompt in prompts] if self.way == "one by one" else [prompts]
            return torch.cat([last_logits(self.model, batch, positions, use_cache=False) for batch in batches])
        if self.way == "shared prefix":
            return self._shared(beginning, endings, positions)
        rows = copy.deepcopy(beginning.cache)
        # Layers with a state have no batch_repeat_interleave.
        rows.reorder_cache(torch.zeros(len(endings), dtype=torch.int64, device=self.model.device))
        return last_logits(self.model, endings, positions, past_key_values=rows, use_cache=True)

    def packed(self, rows: Sequence[tuple[list[int], Sequence[list[int]]]], positions: int) -> Tensor:
        """Return the logits of the last tokens of each prompt in packed rows, [prompts, positions, vocabulary].

        Args:
            rows: The tokens of a beginning and of its endings each; the endings have at least ``positions``.
            positions: The number of tokens.
        """
        batch, device = PackedRows(rows), self.model.device
        row, column = batch.last(positions)
        return _logits_at(
            self.model,
            batch.ids,
            (row.to(device), column.to(device)),
            attention_mask=batch.mask(self.model.dtype, device),
            position_ids=batch.positions.to(device),
            use_cache=False,
        )

    def _shared(self, beginning: Beginning, endings: Sequence[list[int]], positions: int) -> Tensor:
        from llmhd_pl.llm.shared_prefix import SharedPrefix

        shared = SharedPrefix(beginning.cache)
        start, width = len(beginning.ids), max(len(ending) for ending in endings)
        place = torch.arange(start, start + width, device=self.model.device).expand(len(endings), -1)
        arguments: dict[str, Any] = {"position_ids": place, "use_cache": False, "shared_prefix": shared}
        logits = last_logits(self.model, endings, positions, **arguments)
        if not shared.complete:
            raise RuntimeError("Not every layer of the model has attended to the prefix.")
        return logits


def last_logits(model: Any, rows: Sequence[list[int]], positions: int, **arguments: Any) -> Tensor:
    """Return the logits of the last tokens of each row, [rows, positions, vocabulary].

    Args:
        model: A causal language model.
        rows: Token ids, each row at least ``positions``; shorter ones are padded behind.
        positions: The number of tokens.
        arguments: Whatever else the model is given.
    """
    ids, mask = padded(rows)
    device = model.device
    row_of = torch.arange(len(rows), device=device)[:, None]
    place = (mask.sum(dim=1, keepdim=True) - positions + torch.arange(positions)).to(device)
    return _logits_at(model, ids, (row_of, place), **arguments)


def _logits_at(model: Any, ids: Tensor, places: tuple[Tensor, Tensor], **arguments: Any) -> Tensor:
    """Return the logits at some places of token ids [rows, tokens]: their rows and columns, broadcast to any shape.

    The vocabulary is large, so no other logits are computed if the model makes them all by its output layer.
    """
    with _picked(model.get_output_embeddings(), ids.shape, places):
        logits: Tensor = model(input_ids=ids.to(model.device), **arguments).logits
    return logits[places] if logits.shape[1] == ids.shape[1] else logits


@contextmanager
def _picked(head: torch.nn.Module | None, shape: torch.Size, places: tuple[Tensor, Tensor]) -> Iterator[None]:
    """Let an output layer see some places of the hidden states [*shape, size] and no others."""
    if head is None:
        yield
        return

    def pick(head: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        hidden, *rest = inputs
        return (hidden[places], *rest) if hidden.shape[:2] == shape else None

    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()
