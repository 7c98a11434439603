"""How many tokens a model reads at once, and whether the prompts of a run can be longer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmhd_pl.llm.language_model import WRITTEN_TEXT_TOKENS, LanguageModelScorer
from llmhd_pl.llm.likelihood import beginning
from llmhd_pl.llm.prompts import NO_TEXT

_NAMES = ("max_position_embeddings", "max_seq_len", "max_target_positions")  # others are aliases of the first


def context_length(config: Any) -> int | None:
    """Return how many tokens a model reads at once, or None if there is no limit.

    A sliding window is no limit. Neither is the length that RWKV was trained with, nor that of a Falcon with ALiBi.

    Args:
        config: The model's config; of a model for several kinds of data, the part for text counts.
    """
    text = config.get_text_config(decoder=True)
    if text.model_type == "rwkv" or getattr(text, "alibi", False):
        return None
    found = (getattr(text, name, None) for name in _NAMES)
    return next((length for length in found if isinstance(length, int) and length > 0), None)


def check_context(
    scorer: LanguageModelScorer, length: int, profiles: Sequence[str], pairs: Tensor, frame_tokens: int, answer: int
) -> None:
    """Hold the longest prompts of a run, with their answers, against what the model reads at once.

    Args:
        scorer: The scorer that asks.
        length: The most tokens that the model reads.
        profiles: The profiles of the items.
        pairs: The interactions that preferences are summarised from, int64 [n, 2]; if there are none, any items may be
            shown.
        frame_tokens: The tokens of the chat template.
        answer: The tokens of a score.

    Raises:
        ValueError: If a prompt can be too long. The message names ``history_tokens`` or ``item_tokens``.
    """
    count, prompts, around = scorer.count_tokens, scorer.prompts, frame_tokens + WRITTEN_TEXT_TOKENS
    # The longest prompt that shows a history is a revision, which also contains the preference as it was.
    texts = {
        "T_sum": around + count(prompts.summarize(["x"])),
        "T_FP or T_FN": around + WRITTEN_TEXT_TOKENS + count(prompts.revise("x", ["x"], liked=False)),
    }
    score = around + answer + count(prompts.score_prefix("x")) + count(prompts.score_suffix("x"))
    if max(*texts.values(), 0) + scorer.history_tokens <= length and score + scorer.item_tokens <= length:
        return  # which is the rule, and spares counting the tokens of all items
    item = max((count(profile) for profile in profiles), default=0)
    history = _longest_history(scorer, profiles, pairs)
    for template, besides, shown, name, most in (
        ("T_score", score, item, "item_tokens", scorer.item_tokens),
        *((template, besides, history, "history_tokens", scorer.history_tokens) for template, besides in texts.items()),
    ):
        if besides + shown > length:
            room = length - besides
            remedy = f"Lower {name} from {most} to {room} or less, or take" if room >= 32 else "Take"
            raise ValueError(
                f"{template} can have {besides + shown} tokens with its answer, {shown} of them for {name}, and the "
                f"model reads {length}. {remedy} a model with a longer context."
            )


def check_list(scorer: LanguageModelScorer, length: int, profiles: Sequence[str], pairs: Tensor) -> None:
    """Hold the longest prompt of ``scoring="likelihood"``, a list and an item, against what the model reads at once.

    Args:
        scorer: The scorer that asks.
        length: The most tokens that the model reads.
        profiles: The profiles of the items.
        pairs: The interactions that lists are made of, int64 [n, 2].

    Raises:
        ValueError: If a prompt can be too long. The message names ``history_tokens``.
    """
    besides = (
        1 + scorer.count_tokens(beginning([])) + scorer.item_tokens + 1
    )  # the token that begins a text, a line end
    if besides + scorer.history_tokens <= length:
        return
    history = _longest_history(scorer, profiles, pairs)
    if besides + history > length:
        room = length - besides
        remedy = f"Lower history_tokens from {scorer.history_tokens} to {room} or less, or take" if room > 0 else "Take"
        raise ValueError(
            f"A list and an item can have {besides + history} tokens, {history} of them for history_tokens, and the "
            f"model reads {length}. {remedy} a model with a longer context."
        )


def _longest_history(scorer: LanguageModelScorer, profiles: Sequence[str], pairs: Tensor) -> int:
    """Return the tokens of the longest history that is shown, numbered as in a prompt."""
    _, sizes = pairs[:, 0].unique(return_counts=True)
    number = int(sizes.max()) if len(sizes) else len(profiles)
    tokens = torch.tensor(
        [0 if profile == NO_TEXT else scorer.count_tokens(f"{number}. {profile}\n") for profile in profiles]
    )
    if not len(pairs):
        return min(scorer.history_tokens, int(tokens.sum()))
    users, items = pairs.cpu().unique(dim=0).T
    sums = torch.zeros(int(users.max()) + 1, dtype=torch.int64).index_add_(0, users, tokens[items])
    return min(scorer.history_tokens, int(sums.max()))
