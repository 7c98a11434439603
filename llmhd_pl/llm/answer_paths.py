"""How a tokenizer writes the ten answers, and the score that a model's probabilities of them amount to."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

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
    common = common_length(encoded)
    rests = [ids[common:] for ids in encoded]
    paths = []
    for ids in rests:
        length = next((n for n in range(1, len(ids) + 1) if sum(other[:n] == ids[:n] for other in rests) == 1), None)
        if length is None:
            raise ValueError("The tokenizer gives two of the answers 1 to 10 the same tokens. Use scoring='generate'.")
        paths.append(ids[:length])
    chain = branches(paths)
    if any(longer[: len(shorter)] != shorter for shorter, longer in pairwise(chain)):
        raise ValueError("The answers 1 to 10 branch in several places in this tokenizer. Use scoring='generate'.")
    return encoded[0][:common], paths


def common_length(sequences: list[list[int]]) -> int:
    """Return how many tokens at the beginning are the same in all sequences."""
    shortest = min(sequences, key=len)
    return next((n for n, token in enumerate(shortest) if any(ids[n] != token for ids in sequences)), len(shortest))


def branches(paths: list[list[int]]) -> list[list[int]]:
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
    for position, node in enumerate(branches(paths)):
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
