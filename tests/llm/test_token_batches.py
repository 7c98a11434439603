from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from llmhd_pl.llm.token_batches import bytes_of_token, tokens_that_fit

LLAMA_3_8B = LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
)


def test_bytes_of_a_token_by_hand() -> None:
    kept, layer = 2 * 32 * 8 * 128, 8 * 4096 + 3 * 14336
    assert bytes_of_token(LLAMA_3_8B, 2) == 2 * (kept + layer) == 282_624
    assert bytes_of_token(GPT2Config(), 4) == 4 * (2 * 12 * 768 + 8 * 768 + 3 * 4 * 768)  # it names sizes its own way


@pytest.mark.parametrize("gigabytes, tokens", [(12, 22_795), (70, 131_072), (0.1, 1024)])
def test_a_batch_takes_half_of_a_gpus_free_memory(
    gigabytes: float, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(gigabytes * 2**30), 80 * 2**30))
    model: Any = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.bfloat16, config=LLAMA_3_8B)
    assert tokens_that_fit(model) == tokens
    model.device = torch.device("cpu")
    assert tokens_that_fit(model) == 16384
