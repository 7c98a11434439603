import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_causal_lm import make_model, make_tokenizer

from llmhd_pl.llm import pretrained
from llmhd_pl.llm.quantized import QuantizedLLM

ITEMS = [{"title": "The Otter"}, {"title": "The Heron"}, {"title": "A book about wolves"}]
PAIRS = torch.tensor([[0, 0], [0, 1], [1, 2], [0, 2]])
PREFERENCES = {0: "rivers and what lives in them", 1: "wolves"}


def scorer(folder: Path, **arguments: Any) -> QuantizedLLM:
    made = QuantizedLLM(str(folder), device="cpu", prompts="books", calibrate=False, **arguments)
    made.prepare(ITEMS, torch.empty(0, 2, dtype=torch.int64))
    return made


def test_four_bit_rates_nearly_like_bfloat16_and_is_really_four_bit(folder: Path) -> None:
    four, full = (scorer(folder, quantization=quantization) for quantization in ("nf4", "none"))
    scores = [each.score(PREFERENCES, PAIRS) for each in (four, full)]
    assert all((each >= 1).all() and (each <= 10).all() for each in scores)
    assert not torch.equal(scores[0], scores[1])
    assert (scores[0] - scores[1]).abs().max() < 2
    kinds = {type(module).__name__ for module in four.causal_lm.model.modules()}
    assert "Linear4bit" in kinds
    assert four.causal_lm.reader.way == "shared prefix"
    assert four.usage.templates["T_score"].calls == 4


def test_four_bit_weights_stay_as_they_were_loaded(folder: Path) -> None:
    """Packed anew for single tokens, they make prompts ten times slower, and cannot be dequantised any more."""
    from bitsandbytes.functional import dequantize_4bit

    four = scorer(folder)
    layer = four.causal_lm.model.model.layers[0].mlp.up_proj
    before = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    four.score(PREFERENCES, PAIRS)
    assert torch.equal(dequantize_4bit(layer.weight.data, layer.weight.quant_state), before)
    assert before.abs().max() > 0


def test_eight_bit_rates_nearly_like_bfloat16(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    eight, full = (scorer(folder, quantization=quantization) for quantization in ("int8", "none"))
    scores = [each.score(PREFERENCES, PAIRS) for each in (eight, full)]
    assert not torch.equal(scores[0], scores[1])
    assert (scores[0] - scores[1]).abs().max() < 1
    kinds = {type(module).__name__ for module in eight.causal_lm.model.modules()}
    assert "Linear8bitLt" in kinds
    assert "will be cast" not in caplog.text


def test_the_files_are_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    monkeypatch.setattr(pretrained, "file_digest", lambda path: hashed.append(path.name) or "digest")
    asked = scorer(folder)
    assert asked.fingerprint == asked.fingerprint
    assert len(hashed) == len(set(hashed)) and {"model.safetensors", "tokenizer.json", "config.json"} <= set(hashed)


def test_a_folder_is_known_by_what_is_in_it(folder: Path, tmp_path: Path) -> None:
    """A cache that is published with a model answers wherever the model is put, and no other model."""
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert scorer(moved).fingerprint == scorer(folder).fingerprint
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja"):
        changed = Path(shutil.copytree(folder, tmp_path / name))
        with (changed / name).open("ab") as file:
            file.write(b" ")
        assert QuantizedLLM(str(changed), device="cpu", prompts="books").fingerprint != scorer(folder).fingerprint


@pytest.mark.parametrize("scoring", ["expected", "generate"])
def test_the_budget_counts_the_chat_template(folder: Path, scoring: Any) -> None:
    pairs = torch.tensor([(user, item) for user in (0, 1) for item in range(3)])
    whole = scorer(folder, scoring=scoring)
    whole.score(PREFERENCES, pairs)
    cost = whole.usage.tokens + 6 * (0 if scoring == "expected" else 12 - 1)
    for limit in range(whole.usage.tokens - 20, whole.usage.tokens):
        short = scorer(folder, scoring=scoring, max_tokens=limit)
        with pytest.warns(UserWarning, match="rest of the token budget is too small"):
            short.score(PREFERENCES, pairs)
        assert short.usage.tokens <= limit
    enough = scorer(folder, scoring=scoring, max_tokens=cost + 6 * 12)
    enough.score(PREFERENCES, pairs)
    assert enough.usage.tokens == whole.usage.tokens and not enough.budget.exhausted


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_on_a_gpu_it_rates_nearly_as_on_the_cpu(folder: Path, quantization: Any) -> None:
    on_gpu = QuantizedLLM(str(folder), quantization=quantization, device="cuda", prompts="books", calibrate=False)
    on_gpu.prepare(ITEMS, torch.empty(0, 2, dtype=torch.int64))
    difference = on_gpu.score(PREFERENCES, PAIRS) - scorer(folder, quantization=quantization).score(PREFERENCES, PAIRS)
    assert difference.abs().max() < 0.5
    assert on_gpu.causal_lm.model.device.type == "cuda"
    on_gpu.summarize({0: [0, 1]})
    assert on_gpu.usage.templates["T_sum"].calls == 1


def test_a_cached_run_never_loads_the_model(folder: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "answers.db")
    expected = scorer(folder, cache=cache).score(PREFERENCES, PAIRS)
    again = scorer(folder, cache=cache)
    assert torch.equal(again.score(PREFERENCES, PAIRS), expected)
    assert "causal_lm" not in vars(again)


def test_garbage_is_no_answer(folder: Path) -> None:
    """A random model writes neither tags nor scores: everything is counted, nothing invented."""
    random = scorer(folder, quantization="none", scoring="generate")
    assert random.score(PREFERENCES, PAIRS[:1]).isnan().all()
    assert random.summarize({0: [0, 1]}) == {}
    assert {name: count.unanswered for name, count in random.usage.templates.items()} == {"T_score": 1, "T_sum": 1}


def test_the_fingerprint_tells_models_apart(folder: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(one_token_ten=True, chat=True)
    other = make_model(tokenizer)
    other.model.embed_tokens.weight.data += 1
    other.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    fingerprints = {scorer(folder).fingerprint, scorer(tmp_path).fingerprint}
    fingerprints |= {scorer(folder, quantization=quantization).fingerprint for quantization in ("none", "int8")}
    assert len(fingerprints) == 4
    assert scorer(folder).fingerprint in fingerprints


def test_an_unknown_quantization_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="int3"):
        scorer(folder, quantization="int3")


def test_a_model_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"language model '.*nowhere' could not be loaded.*LexicalScorer"):
        scorer(tmp_path / "nowhere").summarize({0: [0]})
