"""A Hugging Face causal language model that rates and writes: the hot path of ``QuantizedLLM``."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from llmhd_pl.llm.chat_template import frame
from llmhd_pl.llm.texts import well_formed

SCORES = range(1, 11)


def answer_paths(encode: Callable[[str], list[int]]) -> tuple[list[int], list[list[int]]]:
    """Return how the tokens of the ten answers ``<s>N</s>`` branch.

    If "10" is one token, each answer is identified by one token. If "10" is two tokens, "1" and "10" both begin with
    the token of "1", and the token after it distinguishes them.

    Args:
        encode: A function from a text to its token ids, without special tokens.

    Returns:
        The tokens that all answers begin with, and for each N the shortest continuation that identifies it.

    Raises:
        ValueError: If two answers have the same tokens, or branch in a way that one forward pass cannot follow.
    """
    encoded = [encode(f"<s>{number}</s>") for number in SCORES]
    common = _common(encoded)
    rests = [ids[common:] for ids in encoded]
    paths = []
    for ids in rests:
        length = next((n for n in range(1, len(ids) + 1) if sum(other[:n] == ids[:n] for other in rests) == 1), None)
        if length is None:
            raise ValueError("The tokenizer gives two of the answers 1 to 10 the same tokens. Use scoring='generate'.")
        paths.append(ids[:length])
    chain = _branches(paths)
    if any(longer[: len(shorter)] != shorter for shorter, longer in pairwise(chain)):
        raise ValueError("The answers 1 to 10 branch in several places in this tokenizer. Use scoring='generate'.")
    return encoded[0][:common], paths


def _common(sequences: list[list[int]]) -> int:
    """Return how many tokens at the beginning are the same in all sequences."""
    shortest = min(sequences, key=len)
    return next((n for n, token in enumerate(shortest) if any(ids[n] != token for ids in sequences)), len(shortest))


def _branches(paths: list[list[int]]) -> list[list[int]]:
    """Return the beginnings of the answers after which the next token has to be read, the shortest first."""
    return [list(node) for node in sorted({tuple(path[:n]) for path in paths for n in range(len(path))}, key=len)]


def expected_score(logits: Tensor, paths: list[list[int]]) -> Tensor:
    """Return the mean of 1 to 10 under the model's probabilities of the ten answers, ignoring all other answers.

    Args:
        logits: The logits after each branch of ``answer_paths``, [rows, branches, vocabulary].
        paths: The second result of ``answer_paths``.

    Returns:
        float32 [rows], 1 to 10; NaN if the logits of an answer are not finite.
    """
    log_probabilities = torch.zeros(len(logits), len(paths), device=logits.device)
    for position, node in enumerate(_branches(paths)):
        below = [number for number, path in enumerate(paths) if path[: len(node)] == node]
        children = sorted({paths[number][len(node)] for number in below})
        step = logits[:, position, children].float().log_softmax(dim=1)
        for number in below:
            log_probabilities[:, number] += step[:, children.index(paths[number][len(node)])]
    values = torch.tensor(list(SCORES), dtype=torch.float32, device=logits.device)
    return (log_probabilities.exp() @ values).clamp(1, 10)  # rounding may lead out of the scale; NaN stays


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of plain text. What looks like a special token, such as ``<s>``, is read as text.

    Args:
        tokenizer: A tokenizer of transformers.
        text: Any text. Half a character (a lone surrogate), which no tokenizer takes, is read as U+FFFD.
    """
    ids: list[int] = tokenizer.encode(well_formed(text), add_special_tokens=False, split_special_tokens=True)
    return ids


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


class CausalLM:
    """Rates pairs, computing each user's part of the prompt once, and completes prompts in batches.

    Args:
        model: A causal language model in eval mode.
        tokenizer: Its tokenizer. If it has a chat template, this is used, with thinking switched off: see ``frame``.
        batch_tokens: The tokens of a batch, including padding and the cached prefix of every row. The number halves
            when the device runs out of memory and stays halved.

    Attributes:
        before: The token ids in front of every prompt: of the chat template, or the token that begins a text.
        after: The token ids behind every prompt: of the chat template, up to where the answer begins.
        shares_prefix: Whether the rows of a batch attend to one row of prefix instead of copies (``shared_prefix``).

    Raises:
        ValueError: If the model would not see the prompts as they are, or could not answer them (``frame``).
    """

    def __init__(self, model: Any, tokenizer: Any, batch_tokens: int = 16384) -> None:
        from llmhd_pl.llm import shared_prefix  # imports transformers, which takes seconds

        self.model, self.tokenizer, self.batch_tokens = model, tokenizer, batch_tokens
        self.shares_prefix = shared_prefix.enable(model)
        self.before, self.after = frame(tokenizer)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of plain text (``plain_ids``)."""
        return plain_ids(self.tokenizer, text)

    @property
    def overhead(self) -> int:
        """The tokens of a rated prompt besides its text: the chat template and the beginning of the answer."""
        forced, paths = answer_paths(self.encode)
        return len(self.before) + len(self.after) + len(forced) + len(_branches(paths)[-1])

    @torch.inference_mode()
    def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[tuple[int, list[float], list[int]]]:
        """Compute expected scores, one group of prompts with the same beginning at a time.

        Args:
            groups: The common beginning and the endings of each group.

        Yields:
            The number of the group and, in the order of its endings, the scores and the tokens of the whole prompts.
        """
        if not groups:
            return
        forced, paths = answer_paths(self.encode)
        branches = _branches(paths)
        tail = [*self.after, *forced, *branches[-1]]
        prefixes = [[*self.before, *self.encode(beginning)] for beginning, _ in groups]
        common = _common(prefixes)  # role and scale, the same for all users
        common_cache = self._read(prefixes[0][:common])
        for index, (prefix, (_, endings)) in enumerate(zip(prefixes, groups, strict=True)):
            suffixes = [[*self.encode(ending), *tail] for ending in endings]
            cache = self._read(prefix[common:], copy.deepcopy(common_cache))
            # A sliding window counts the padding between prefix and suffix too, so there must be none.
            padded = not any(getattr(layer, "is_sliding", False) for layer in cache.layers)
            order = sorted(range(len(suffixes)), key=lambda row: len(suffixes[row]))
            scores = [float("nan")] * len(suffixes)
            done = 0
            while done < len(order):
                # They are sorted by length, so the last row of a batch is its longest.
                size, shortest = 1, len(suffixes[order[done]])
                while done + size < len(order):
                    longest = len(suffixes[order[done + size]])
                    fits = (size + 1) * (len(prefix) + longest) <= self.batch_tokens
                    if not fits or (longest > shortest and not padded):
                        break
                    size += 1
                rows = order[done : done + size]
                try:
                    logits = self._continue(cache, len(prefix), [suffixes[row] for row in rows], len(branches))
                except RuntimeError as error:
                    if size == 1 or not is_out_of_memory(error):
                        raise
                    self.batch_tokens = max(1, self.batch_tokens // 2)
                    torch.cuda.empty_cache()
                    continue
                for row, score in zip(rows, expected_score(logits, paths).tolist(), strict=True):
                    scores[row] = score
                done += size
            yield index, scores, [len(prefix) + len(suffix) for suffix in suffixes]

    def _read(self, ids: list[int], cache: Any = None) -> Any:
        """Return the key-value cache of some tokens, one row; with ``cache``, of the tokens that follow those in it."""
        from transformers import DynamicCache

        if cache is None:
            cache = DynamicCache(config=self.model.config)
        if ids:
            self.model(
                input_ids=torch.tensor([ids], device=self.model.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return cache

    def _continue(self, cache: Any, prefix: int, suffixes: list[list[int]], positions: int) -> Tensor:
        """Return the logits of the last ``positions`` tokens of each suffix, [rows, positions, vocabulary].

        The padding is between prefix and suffix and masked, so that the last tokens of all rows line up.
        """
        from llmhd_pl.llm.shared_prefix import SharedPrefix, shareable

        width = max(len(suffix) for suffix in suffixes)
        ids = torch.zeros(len(suffixes), width, dtype=torch.int64)
        mask = torch.ones(len(suffixes), prefix + width, dtype=torch.int64)
        place = torch.zeros(len(suffixes), width, dtype=torch.int64)
        for row, suffix in enumerate(suffixes):
            padding = width - len(suffix)
            ids[row, padding:] = torch.tensor(suffix)
            mask[row, prefix : prefix + padding] = 0
            place[row, padding:] = torch.arange(prefix, prefix + len(suffix))
        device = self.model.device
        inputs: dict[str, Any] = {
            "input_ids": ids.to(device),
            "position_ids": place.to(device),
            "logits_to_keep": positions,
        }
        logits: Tensor
        if self.shares_prefix and prefix and shareable(cache):
            shared = SharedPrefix(cache)
            own_mask = mask[:, prefix:].to(device)
            logits = self.model(**inputs, attention_mask=own_mask, use_cache=False, shared_prefix=shared).logits
            if shared.complete:
                return logits
            self.shares_prefix = False
        rows_cache = copy.deepcopy(cache)
        if prefix:
            rows_cache.batch_repeat_interleave(len(suffixes))
        logits = self.model(**inputs, attention_mask=mask.to(device), past_key_values=rows_cache, use_cache=True).logits
        return logits

    @torch.inference_mode()
    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterator[Completion]:
        """Complete prompts greedily, the longest first, so that a batch that does not fit is found at the start.

        Args:
            prompts: Any number of prompts.
            max_new_tokens: The most tokens of an answer.

        Yields:
            One completion per prompt, as soon as its batch is finished.
        """
        encoded = [[*self.before, *self.encode(prompt), *self.after] for prompt in prompts]
        order = sorted(range(len(encoded)), key=lambda row: -len(encoded[row]))
        padding = self.tokenizer.pad_token_id
        padding = self.tokenizer.eos_token_id if padding is None else padding
        end = self.model.generation_config.eos_token_id
        ends = {padding, *(end if isinstance(end, list) else [end])}
        done = 0
        while done < len(order):
            longest = len(encoded[order[done]]) + max_new_tokens
            size = max(1, min(len(order) - done, self.batch_tokens // longest))
            rows = order[done : done + size]
            width = len(encoded[rows[0]])
            ids = torch.full((size, width), 0 if padding is None else padding)
            mask = torch.zeros(size, width, dtype=torch.int64)
            for place, row in enumerate(rows):
                ids[place, width - len(encoded[row]) :] = torch.tensor(encoded[row])
                mask[place, width - len(encoded[row]) :] = 1
            device = self.model.device
            try:
                out = self.model.generate(
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=padding,
                )[:, width:]
            except RuntimeError as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                self.batch_tokens = max(1, self.batch_tokens // 2)
                torch.cuda.empty_cache()
                continue
            for row, answer in zip(rows, out.tolist(), strict=True):
                length = next((place for place, token in enumerate(answer) if token in ends), len(answer))
                # Special tokens stay, because <s>, the tag of the score, is one in some tokenizers.
                text = self.tokenizer.decode(answer[:length], skip_special_tokens=False)
                end_text = self.tokenizer.decode(answer[length : length + 1])
                if end_text == "</s>" and text.count("<s>") > text.count("</s>"):
                    text += end_text  # in Llama 2 and Mistral, what ends the score ends all of it
                yield Completion(row, text, len(encoded[row]), length)
            done += size


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether memory ran out. CUDA's error has its own class; the CPU's is recognised by its text."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
