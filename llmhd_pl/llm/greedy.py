"""Greedy generation in batches, and which prompts may be in a batch."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch

from llmhd_pl.llm.same_logits import same_logits

Batches = Literal["of any lengths", "of equal lengths", "of one"]
"""Which prompts a model completes together, the fastest way first."""


def generate(model: Any, prompts: Sequence[list[int]], padding: int, max_new_tokens: int, **options: Any) -> Any:
    """Continue prompts with the most probable tokens.

    Args:
        model: A causal language model.
        prompts: Token ids; shorter prompts are padded in front, because every row goes on at the end.
        padding: The token of the padding.
        max_new_tokens: The most tokens of a continuation.
        options: Whatever else ``model.generate`` is given.

    Returns:
        The new tokens of each prompt, with padding behind a continuation that has ended; or, with options, what
        ``model.generate`` returns.
    """
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), padding)
    mask = torch.zeros(len(prompts), width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    out = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=padding,
        **options,
    )
    return out if options else out[:, width:].tolist()


def choose_batches(model: Any, prompts: Sequence[list[int]], padding: int) -> Batches:
    """Find out which prompts may be in a batch without changing each other's continuations; warn if not any may.

    Padding in front may shift what a model counts, or enter into its state, in spite of the mask. So a short prompt is
    continued by two tokens, alone and in a batch with the longest one.

    Args:
        model: A causal language model.
        prompts: Token ids of prompts.
        padding: The token of the padding.
    """
    shortest, longest = min(prompts, key=len), max(prompts, key=len)
    if len(shortest) == len(longest):
        shortest = shortest[len(shortest) // 2 :]
    options = {"min_new_tokens": 2, "output_logits": True, "return_dict_in_generate": True}
    alone = generate(model, [shortest], padding, 2, **options)
    faults: list[str] = []
    batches: Batches
    for batches in get_args(Batches)[:-1]:
        other = longest if batches == "of any lengths" else longest[-len(shortest) :]
        try:
            together = generate(model, [shortest, other], padding, 2, **options)
        except Exception as error:  # there is no common error for what a model cannot do
            faults.append(f"{type(error).__name__}: {error}")
            continue
        # The second logits can be compared if the first tokens are the same.
        steps = 2 if alone.sequences[0, -2] == together.sequences[0, -2] else 1
        if all(same_logits(together.logits[step][:1], alone.logits[step], model) for step in range(steps)):
            break
        faults.append("the answers would change")
    else:
        batches = "of one"
    if faults:
        warnings.warn(
            f"{type(model).__name__} cannot complete prompts of different lengths together ({faults[0]}). So it "
            f"completes them in batches {batches}, which takes longer.",
            stacklevel=2,
        )
    return batches
