import warnings
from typing import Any

import pytest
import torch
from test_causal_lm import make_model, make_tokenizer

from llmhd_pl.llm.greedy import Batches, choose_batches

TOKENIZER = make_tokenizer(True)
PROMPTS = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12]]


def chosen(model: Any, prompts: list[list[int]] = PROMPTS) -> tuple[Batches, list[str]]:
    """The batches that are chosen, and what is warned of."""
    with warnings.catch_warnings(record=True) as caught, torch.inference_mode():
        warnings.simplefilter("always")
        batches = choose_batches(model, prompts, 0)
    return batches, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_masks_the_padding_takes_all_lengths(dtype: torch.dtype) -> None:
    model = make_model(TOKENIZER, num_hidden_layers=8).to(dtype)
    assert chosen(model) == ("of any lengths", [])
    assert chosen(model, [[3, 4, 5], [6, 7, 8]]) == ("of any lengths", [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prompts", [PROMPTS, [[3, 4, 5, 6], [5, 6, 7, 8]]], ids=["unequal", "equal"])
def test_padding_that_is_seen_is_noticed(dtype: torch.dtype, prompts: list[list[int]]) -> None:
    """Even if all prompts that are asked first happen to have one length."""
    model = make_model(TOKENIZER).to(dtype)
    forward = model.forward
    model.forward = lambda attention_mask=None, **arguments: forward(**arguments)  # type: ignore[method-assign]
    batches, (warning,) = chosen(model, prompts)
    assert batches == "of equal lengths"
    assert "LlamaForCausalLM cannot complete prompts of different lengths together" in warning
    assert "batches of equal lengths" in warning


def test_rows_that_mix_are_completed_alone() -> None:
    model = make_model(TOKENIZER)
    forward = model.forward

    def mixing(**arguments: Any) -> Any:
        out = forward(**arguments)
        out.logits = out.logits + out.logits.flip(0)
        return out

    model.forward = mixing  # type: ignore[method-assign]
    batches, (warning,) = chosen(model)
    assert batches == "of one" and "(the answers would change)" in warning


def test_what_a_model_cannot_do_is_named() -> None:
    model = make_model(TOKENIZER)
    generate = model.generate

    def single(input_ids: torch.Tensor, **arguments: Any) -> Any:
        if len(input_ids) > 1:
            raise NotImplementedError("one at a time")
        return generate(input_ids=input_ids, **arguments)

    model.generate = single
    batches, (warning,) = chosen(model)
    assert batches == "of one" and "(NotImplementedError: one at a time)" in warning
