"""Likelihood: how much likelier an item's text becomes when the texts of a user's other items stand before it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from llmhd_pl.llm.prompts import NO_TEXT, sample_history
from llmhd_pl.llm.token_batches import TokenBatches, padded

HEADING = "Things that one person likes:\n"
"""The line before a list of items, and before an item alone. It is part of every answer's fingerprint."""

_MOST_LOGITS = 2**26  # of a batch: 128 MB in bfloat16


def beginning(profiles: Sequence[str]) -> str:
    """Return what stands before an item: the heading, and each profile on a line of its own.

    Args:
        profiles: The profiles of the other items; none for the likelihood of the item by itself.
    """
    return HEADING + "".join(f"{profile}\n" for profile in profiles)


def ending(profile: str) -> str:
    """Return what the likelihood is of: the item as the next line.

    Args:
        profile: The profile of the item.
    """
    return f"{profile}\n"


def others(
    profiles: Sequence[str],
    listed: Sequence[int],
    item: int,
    history_tokens: int,
    seed: int,
    user: int,
    count_tokens: Callable[[str], int],
) -> list[str]:
    """Return the profiles of a list without the judged item, which the model would copy, and no more than fit.

    Args:
        profiles: The profiles of all items.
        listed: The items in the list.
        item: The judged item. Items with the same profile are left out, too.
        history_tokens: The most tokens of all profiles together.
        seed: The seed of the sampling of longer lists.
        user: The user.
        count_tokens: A function that counts the tokens of a text.
    """
    kept = [profiles[other] for other in listed if profiles[other] not in (NO_TEXT, profiles[item])]
    return sample_history(kept, history_tokens, seed, user, count_tokens) if kept else []


class TextLikelihood(TokenBatches):
    """Computes how likely a causal language model finds a text after another one.

    Prompts are read whole and padded at the end, where no causal model looks, so the result is that of each prompt by
    itself, whatever the architecture.

    Args:
        model: A causal language model in eval mode.
        encode: Returns the token ids of a plain text.
        first: The token ids before every text: the one that begins a text, if the model has one.
        batch_tokens: The tokens of a batch, including padding. The number halves when the device runs out of memory.
    """

    def __init__(
        self, model: Any, encode: Callable[[str], list[int]], first: Sequence[int], batch_tokens: int = 16384
    ) -> None:
        super().__init__(batch_tokens)
        self.model, self.encode, self.first = model, encode, list(first)

    @torch.inference_mode()
    def log_likelihoods(self, prompts: Sequence[tuple[str, str]]) -> Iterator[tuple[int, float, int]]:
        """Sum the log-probabilities of the tokens of an ending, each given all tokens before it.

        Args:
            prompts: A beginning and an ending each, neither of them empty.

        Yields:
            For each prompt, in any order: its number, the log-likelihood in nats, and the tokens of the whole prompt.
            It is NaN if the model's logits are not finite.
        """
        encoded = [([*self.first, *self.encode(before)], self.encode(text)) for before, text in prompts]
        lengths = [len(before) + len(text) for before, text in encoded]
        found = self.in_batches(
            lengths,
            lambda left: self._batch(encoded, left),
            lambda rows: self._sums([encoded[row] for row in rows]).tolist(),
        )
        for row, log_likelihood in found:
            yield row, log_likelihood, lengths[row]

    def _batch(self, encoded: Sequence[tuple[list[int], list[int]]], order: Sequence[int]) -> list[int]:
        """Return the first rows of an order, the longest first, that fit together."""
        longest = sum(map(len, encoded[order[0]]))
        vocabulary = self.model.config.get_text_config().vocab_size
        size, first = 0, longest
        while size < len(order):
            first = min(first, len(encoded[order[size]][0]))
            logits = (size + 1) * (longest - first + 1) * vocabulary
            if size and ((size + 1) * longest > self.batch_tokens or logits > _MOST_LOGITS):
                break
            size += 1
        return list(order[:size])

    def _sums(self, encoded: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        """Return the log-likelihood of each ending, float32 [rows]."""
        ids, mask = padded([[*before, *text] for before, text in encoded])
        width = ids.shape[1]
        # A token is predicted at the place before it. Logits are only needed from the first of these places on.
        kept = width - min(len(before) for before, _ in encoded) + 1
        device = self.model.device
        logits = self.model(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, logits_to_keep=kept
        ).logits[:, -kept:]  # not every architecture keeps only those that are wanted
        sums = []
        for row, (before, text) in enumerate(encoded):
            start = len(before) - 1 - (width - kept)
            # bfloat16 has three digits, and these are sums of small differences.
            log_probabilities = logits[row, start : start + len(text)].float().log_softmax(dim=1)
            sums.append(log_probabilities.gather(1, torch.tensor(text, device=device)[:, None]).sum())
        return torch.stack(sums)
