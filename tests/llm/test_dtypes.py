import pytest
import torch

from llmhd_pl.llm.dtypes import fast_dtype
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_judge_computes_in_it(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmhd_pl.llm.pretrained.fast_dtype", lambda device: dtype)
    model = EmbeddedJudge().causal_lm.model
    layer = model.model.layers[0].mlp.up_proj
    assert layer.weight.dtype == torch.uint8 and layer.compute_dtype == dtype
    assert model.get_input_embeddings().weight.dtype == dtype
