import warnings
from typing import Any

import pytest
import torch
from test_causal_lm import make_mistral, make_model, make_tokenizer
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from llmhd_pl.llm.causal_lm import CausalLM
from llmhd_pl.llm.prompt_reader import PromptReader, Way, last_logits

TOKENIZER = make_tokenizer(True)
GROUPS = [("The otter likes rivers and fish.\n", ["fish", "a long book about the otter"])]


def chosen(model: Any) -> tuple[Way, list[str]]:
    """The way that a model takes, and what it is warned of."""
    lm = CausalLM(model, TOKENIZER)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(lm.rate(GROUPS))
    return lm.reader.way, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention, way", [("sdpa", "shared prefix"), ("eager", "packed rows")])
def test_rounding_is_no_fault(dtype: torch.dtype, attention: str, way: Way) -> None:
    model = make_model(TOKENIZER, attn_implementation=attention, num_hidden_layers=8).to(dtype)
    assert chosen(model) == (way, [])


def test_an_expert_more_or_less_is_no_fault() -> None:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
    )
    assert chosen(MixtralForCausalLM(config).eval().to(torch.bfloat16)) == ("shared prefix", [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_beginning_that_is_lost_is_noticed(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = RwkvConfig(vocab_size=len(TOKENIZER), hidden_size=64, num_hidden_layers=2)
    model = RwkvForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(std=0.3)
    way, (warning,) = chosen(model.to(dtype))
    assert way == "whole prompts"
    assert "RwkvForCausalLM does not go on rightly" in warning and "(the answers would change)" in warning


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wrong_positions_are_noticed(dtype: torch.dtype) -> None:
    model = make_model(TOKENIZER).to(dtype)
    forward = model.forward

    def forgetful(past_key_values: Any = None, position_ids: Any = None, **arguments: Any) -> Any:
        """Counts from 0 again after a beginning."""
        if past_key_values is not None or position_ids is not None:
            position_ids = torch.arange(arguments["input_ids"].shape[1]).expand_as(arguments["input_ids"])
        return forward(past_key_values=past_key_values, position_ids=position_ids, **arguments)

    model.forward = forgetful  # type: ignore[method-assign]
    assert chosen(model)[0] == "whole prompts"


def test_what_a_model_cannot_do_is_named() -> None:
    model = make_model(TOKENIZER)
    forward = model.forward

    def stubborn(past_key_values: Any = None, **arguments: Any) -> Any:
        if past_key_values is not None or "position_ids" in arguments:
            raise NotImplementedError("no caches here")
        return forward(**arguments)

    model.forward = stubborn  # type: ignore[method-assign]
    way, (warning,) = chosen(model)
    assert way == "whole prompts" and "(NotImplementedError: no caches here)" in warning
    assert model.config._attn_implementation == "sdpa"  # as it was


def test_a_rounding_model_that_cannot_be_padded_reads_one_by_one() -> None:
    """Such as one whose experts take no more than a share of all tokens; with exact arithmetic it is refused."""
    for dtype in (torch.bfloat16, torch.float32):
        model = make_model(TOKENIZER).to(dtype)
        forward = model.forward

        def uneasy(forward: Any = forward, **arguments: Any) -> Any:
            out = forward(**arguments)
            if len(arguments["input_ids"]) > 1 or arguments.keys() & {"past_key_values", "position_ids"}:
                out.logits = out.logits.flip(-1)
            return out

        model.forward = uneasy  # type: ignore[method-assign]
        if dtype == torch.float32:
            with pytest.raises(ValueError, match="LlamaForCausalLM is no causal language model"):
                chosen(model)
        else:
            way, (warning,) = chosen(model)
            assert way == "one by one" and "prompts are read one by one" in warning


def test_models_whose_logits_are_not_finite_are_not_the_readers_fault() -> None:
    model = make_model(TOKENIZER)
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    assert chosen(model) == ("shared prefix", [])


def test_the_way_is_chosen_once_and_not_without_a_beginning() -> None:
    reader = PromptReader(make_model(TOKENIZER))
    reader.choose_way([], [5, 6], [7], 1)
    assert reader.must_choose(1) and reader.way == "whole prompts"
    lm = CausalLM(make_model(TOKENIZER), TOKENIZER)
    passes = []
    lm.model.register_forward_hook(lambda module, inputs, output: passes.append(1))
    list(lm.rate(GROUPS))
    first = len(passes)
    list(lm.rate(GROUPS))
    assert len(passes) - first == 2 < first  # the beginning and its endings


def test_a_window_shorter_than_a_later_prompt_is_noticed() -> None:
    lm = CausalLM(make_mistral(TOKENIZER, sliding_window=64), TOKENIZER)
    list(lm.rate(GROUPS))
    assert lm.reader.way == "packed rows" and lm.reader.longest < 64
    long = [(10 * "The otter likes rivers and fish. ", ["fish", "a long book about the otter"])]
    ((_, scores, tokens),) = lm.rate(long)
    assert min(tokens) > 64 and lm.reader.way == "copied prefix"
    alone = CausalLM(lm.model, TOKENIZER)
    alone.reader.way, alone.reader.longest = "whole prompts", 1
    ((_, expected, _),) = alone.rate(long)
    assert scores == pytest.approx(expected, abs=1e-5)


def test_only_the_logits_that_count_are_computed() -> None:
    model = make_model(TOKENIZER)
    sizes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[:2]))
    rows = [[3, 4, 5, 6], [7, 8], [9, 10, 11]]
    with torch.no_grad():
        logits = last_logits(model, rows, 2)
        assert sizes == [(3, 2)]
        for row, found in zip(rows, logits, strict=True):
            whole = model(input_ids=torch.tensor([row])).logits[0, -2:]
            assert torch.allclose(found, whole, atol=1e-5)
        model.get_output_embeddings = lambda: None
        assert torch.allclose(last_logits(model, rows, 2), logits, atol=1e-5)  # picked from all logits


def test_whole_prompts_halve_their_batches_when_memory_runs_out() -> None:
    torch.manual_seed(0)
    model = RwkvForCausalLM(RwkvConfig(vocab_size=len(TOKENIZER), hidden_size=64, num_hidden_layers=2)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(std=0.3)
    lm = CausalLM(model, TOKENIZER)
    groups = [("The otter:", [f"item {n}" for n in range(9)])]
    ((_, expected, _),) = lm.rate(groups)
    forward, rows = model.forward, []

    def small_device(input_ids: torch.Tensor, **arguments: Any) -> Any:
        rows.append(len(input_ids))
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("no room")
        return forward(input_ids=input_ids, **arguments)

    model.forward = small_device  # type: ignore[method-assign]
    ((_, scores, _),) = lm.rate(groups)
    assert lm.reader.way == "whole prompts" and scores == pytest.approx(expected, abs=1e-5)
    assert max(rows) > 3 and lm.batch_tokens < 16384


def test_a_lack_of_memory_is_no_reason_to_read_whole_prompts() -> None:
    model = make_model(TOKENIZER)
    forward = model.forward

    def small_device(input_ids: torch.Tensor, **arguments: Any) -> Any:
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("no room")
        return forward(input_ids=input_ids, **arguments)

    model.forward = small_device  # type: ignore[method-assign]
    assert chosen(model) == ("shared prefix", [])
