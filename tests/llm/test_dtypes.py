from pathlib import Path
from typing import Any

import pytest
import torch
from test_causal_lm import make_model, make_tokenizer

from llmhd_pl import EncoderScorer, QuantizedLLM
from llmhd_pl.llm.dtypes import fast_dtype, resolved_dtype
from llmhd_pl.llm.judge import EmbeddedJudge


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx2": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_bfloat16_only_where_the_processor_has_it(
    capabilities: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert fast_dtype("cpu") == expected


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bfloat16_gets_float16(
    native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert fast_dtype("cuda") == expected == resolved_dtype("auto", "cuda")
    assert resolved_dtype("float32", "cuda") == torch.float32  # the way back, for models that overflow


def test_a_model_is_loaded_in_the_format_that_is_asked_for(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(one_token_ten=True)
    tokenizer.save_pretrained(tmp_path)
    make_model(tokenizer).save_pretrained(tmp_path)
    for dtype in ("float32", "bfloat16"):
        judge = QuantizedLLM(str(tmp_path), quantization="none", device="cpu", scoring="likelihood", dtype=dtype)
        assert judge.text_likelihood.model.dtype == getattr(torch, dtype)
        assert judge.model_fingerprint["dtype"] == dtype  # other answers have another place in the cache
        states = EncoderScorer(str(tmp_path), quantization="none", dtype=dtype, cache_dir=None)
        assert dtype in states.fingerprint

    plain = QuantizedLLM(str(tmp_path), quantization="none", device="cpu")
    assert set(plain.model_fingerprint) == {"model", "quantization"}


@pytest.mark.parametrize("scorer", [EncoderScorer, QuantizedLLM])
def test_an_unknown_format_is_refused(scorer: Any) -> None:
    with pytest.raises(ValueError, match="dtype is 'half'; it must be"):
        scorer("a-model", dtype="half")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_judge_computes_in_it(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmhd_pl.llm.dtypes.fast_dtype", lambda device: dtype)
    model = EmbeddedJudge().causal_lm.model
    layer = model.model.layers[0].mlp.up_proj
    assert layer.weight.dtype == torch.uint8 and layer.compute_dtype == dtype
    assert model.get_input_embeddings().weight.dtype == dtype
