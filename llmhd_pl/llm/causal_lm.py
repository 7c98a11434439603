"""A Hugging Face causal language model that rates and writes: the hot path of ``QuantizedLLM``."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from llmhd_pl.llm.answer_paths import answer_paths, branches, common_length, expected_score, plain_ids
from llmhd_pl.llm.chat_template import frame
from llmhd_pl.llm.greedy import Batches, choose_batches, generate
from llmhd_pl.llm.packed_rows import rows_of
from llmhd_pl.llm.prompt_reader import Beginning, PromptReader
from llmhd_pl.llm.token_batches import TokenBatches

T = TypeVar("T")


@dataclass(frozen=True)
class Completion:
    """What the model wrote for one prompt.

    Attributes:
        index: The number of the prompt.
        text: What the model wrote.
        prompt_tokens: The tokens of the prompt.
        answer_tokens: The tokens of the text.
    """

    index: int
    text: str
    prompt_tokens: int
    answer_tokens: int


class CausalLM(TokenBatches):
    """Rates pairs, computing each user's part of the prompt once, and completes prompts in batches.

    Args:
        model: A causal language model in eval mode.
        tokenizer: Its tokenizer. If it has a chat template, this is used, with thinking switched off: see ``frame``.
        batch_tokens: The tokens of a batch, including padding and the cached prefix of every row. The number halves
            when the device runs out of memory and stays halved.

    Attributes:
        before: The token ids in front of every prompt: of the chat template, or the token that begins a text.
        after: The token ids behind every prompt: of the chat template, up to where the answer begins.
        reader: Reads the prompts that are rated.
        batches: Which prompts are completed together; None until it is known.

    Raises:
        ValueError: If the model would not see the prompts as they are, or could not answer them (``frame``).
    """

    def __init__(self, model: Any, tokenizer: Any, batch_tokens: int = 16384) -> None:
        super().__init__(batch_tokens)
        self.model, self.tokenizer = model, tokenizer
        self.before, self.after = frame(tokenizer)
        self.reader = PromptReader(model)
        self.batches: Batches | None = None

    def encode(self, text: str) -> list[int]:
        """Return the token ids of plain text (``plain_ids``)."""
        return plain_ids(self.tokenizer, text)

    @property
    def overhead(self) -> int:
        """The tokens of a rated prompt besides its text: the chat template and the beginning of the answer."""
        forced, paths = answer_paths(self.encode)
        return len(self.before) + len(self.after) + len(forced) + len(branches(paths)[-1])

    @torch.inference_mode()
    def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[tuple[int, list[float], list[int]]]:
        """Compute expected scores, of many groups of prompts with the same beginning at a time, or of one.

        Args:
            groups: The common beginning and the endings of each group.

        Yields:
            The number of each group, in any order, and, in the order of its endings, the scores and the tokens of the
            whole prompts.
        """
        if not groups:
            return
        forced, paths = answer_paths(self.encode)
        nodes = branches(paths)
        tail = [*self.after, *forced, *nodes[-1]]
        prefixes = [[*self.before, *self.encode(beginning)] for beginning, _ in groups]
        suffixes = [[[*self.encode(ending), *tail] for ending in endings] for _, endings in groups]
        prompts = [(prefix, suffix) for prefix, rows in zip(prefixes, suffixes, strict=True) for suffix in rows]
        # The longest prompt, because the fault of a window shows in no prompt that fits in it.
        prefix, suffix = max(prompts, key=lambda prompt: sum(map(len, prompt)))
        if self.reader.must_choose(len(prefix) + len(suffix)):
            self.reader.choose_way(prefix, suffix[: -len(tail)], tail, len(nodes))
        tokens = [
            [len(prefix) + len(suffix) for suffix in rows] for prefix, rows in zip(prefixes, suffixes, strict=True)
        ]
        if self.reader.way == "packed rows":
            for index, scores in self._rate_packed(prefixes, suffixes, paths):
                yield index, scores, tokens[index]
            return
        common = common_length(prefixes)  # role and scale, the same for all users
        start = self.reader.read(prefixes[0][:common])
        for index, (prefix, rows) in enumerate(zip(prefixes, suffixes, strict=True)):
            beginning = self.reader.read(prefix[common:], start)
            rated = dict(self._of_rows(rows, len(prefix), partial(self._scores, beginning, paths)))
            yield index, [rated[row] for row in range(len(rows))], tokens[index]

    def _scores(self, beginning: Beginning, paths: list[list[int]], suffixes: list[list[int]]) -> list[float]:
        scores: list[float] = expected_score(
            self.reader.logits(beginning, suffixes, len(branches(paths))), paths
        ).tolist()
        return scores

    def _rate_packed(
        self, prefixes: list[list[int]], suffixes: list[list[list[int]]], paths: list[list[int]]
    ) -> Iterator[tuple[int, list[float]]]:
        """Yield the number and the scores of each group, reading the groups many at a time."""
        beginnings, endings = [len(prefix) for prefix in prefixes], [[*map(len, rows)] for rows in suffixes]
        prompts = [(group, row) for group, rows in enumerate(suffixes) for row in range(len(rows))]

        def rows(chosen: list[int]) -> Iterator[list[tuple[int, int]]]:
            # No more than a batch may have, so that a row gets shorter when even one does not fit into memory.
            most = min(self.reader.row_tokens, self.batch_tokens)
            return rows_of((prompts[number] for number in chosen), beginnings, endings, most)

        def choose(left: list[int]) -> list[int]:
            taken = widest = 0
            for number, row in enumerate(rows(left), 1):
                group = row[0][0]
                widest = max(widest, beginnings[group] + sum(endings[group][ending] for _, ending in row))
                if taken and number * widest > self.batch_tokens:
                    break
                taken += len(row)
            return left[:taken]

        def work(chosen: list[int]) -> list[float]:
            packed = [(prefixes[row[0][0]], [suffixes[group][ending] for group, ending in row]) for row in rows(chosen)]
            scores: list[float] = expected_score(self.reader.packed(packed, len(branches(paths))), paths).tolist()
            return scores

        left = [len(rows) for rows in suffixes]
        scores = [[math.nan] * count for count in left]
        # The prompts of a group are equally long here, so that they stay together when the longest are read first.
        lengths = [beginnings[group] + max(endings[group]) for group, _ in prompts]
        for number, score in self.in_batches(lengths, choose, work):
            group, ending = prompts[number]
            scores[group][ending] = score
            left[group] -= 1
            if not left[group]:
                yield group, scores[group]

    @torch.inference_mode()
    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterator[Completion]:
        """Complete prompts greedily.

        Args:
            prompts: Any number of prompts.
            max_new_tokens: The most tokens of an answer.

        Yields:
            One completion per prompt, as soon as its batch is finished.
        """
        encoded = [[*self.before, *self.encode(prompt), *self.after] for prompt in prompts]
        padding = self.tokenizer.pad_token_id
        padding = self.tokenizer.eos_token_id if padding is None else padding
        end = self.model.generation_config.eos_token_id
        ends = {padding, *(end if isinstance(end, list) else [end])}
        padding = 0 if padding is None else padding
        several = [ids for ids in encoded if 2 * (len(ids) + max_new_tokens) <= self.batch_tokens]
        if self.batches is None and len(several) > 1:
            self.batches = choose_batches(self.model, several, padding)
        write = partial(generate, self.model, padding=padding, max_new_tokens=max_new_tokens)
        for row, answer in self._of_rows(encoded, max_new_tokens, write, self.batches or "of one"):
            length = next((place for place, token in enumerate(answer) if token in ends), len(answer))
            # Special tokens stay, because <s>, the tag of the score, is one in some tokenizers.
            text = self.tokenizer.decode(answer[:length], skip_special_tokens=False)
            end_text = self.tokenizer.decode(answer[length : length + 1])
            if end_text == "</s>" and text.count("<s>") > text.count("</s>"):
                text += end_text  # in Llama 2 and Mistral, what ends the score ends all of it
            yield Completion(row, text, len(encoded[row]), length)

    def _of_rows(
        self,
        rows: Sequence[list[int]],
        besides: int,
        work: Callable[[list[list[int]]], list[T]],
        batches: Batches = "of any lengths",
    ) -> Iterator[tuple[int, T]]:
        """Do some work for each row.

        Args:
            rows: Token ids.
            besides: How many tokens of a batch each row needs besides these.
            work: A function from some rows to one result each.
            batches: Which rows may be in a batch.

        Returns:
            The number of each row and its result.
        """
        lengths = [len(row) + besides for row in rows]

        def choose(left: list[int]) -> list[int]:
            longest = lengths[left[0]]
            size = 1 if batches == "of one" else max(1, self.batch_tokens // longest)
            return [row for row in left[:size] if batches == "of any lengths" or lengths[row] == longest]

        return self.in_batches(lengths, choose, lambda chosen: work([rows[row] for row in chosen]))
