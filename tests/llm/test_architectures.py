"""Every architecture of transformers gets what a plain forward pass of the whole prompt gives, in one way or another.

The models are tiny and random, with every kind of layer of their family, and with windows shorter than the prompts.
"""

import copy
import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from test_causal_lm import make_tokenizer
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from llmhd_pl.llm import shared_prefix
from llmhd_pl.llm.answer_paths import answer_paths, branches, expected_score
from llmhd_pl.llm.causal_lm import CausalLM
from llmhd_pl.llm.greedy import Batches
from llmhd_pl.llm.hidden_states import HiddenStates
from llmhd_pl.llm.likelihood import TextLikelihood
from llmhd_pl.llm.prompt_reader import Way
from llmhd_pl.llm.token_batches import bytes_of_token

TOKENIZER = make_tokenizer(one_token_ten=False)  # so that two places of a prompt are read
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"

# What a config gets of this, if it knows the name.
COMMON: dict[str, Any] = {
    **{"vocab_size": len(TOKENIZER), "bos_token_id": TOKENIZER.bos_token_id, "eos_token_id": TOKENIZER.eos_token_id},
    **{"pad_token_id": TOKENIZER.pad_token_id, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512},
    **{"sliding_window": 8, "initializer_range": 0.3},
    # experts
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2},
    **{"moe_k": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "n_shared_experts": 1},
    **{"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    # latent attention
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    # states
    **{"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_expand": 2},
    **{"mamba_chunk_size": 8, "mamba_d_ssm": 64, "state_size": 8, "mamba_num_heads": 4, "mamba_head_dim": 16},
    **{"n_groups": 1, "chunk_size": 8, "ssm_state_size": 8, "linear_num_value_heads": 4, "linear_num_key_heads": 2},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4},
}


def layers(*kinds: str) -> dict[str, Any]:
    return {"num_hidden_layers": len(kinds), "layer_types": list(kinds)}


NO_GROUPS: dict[str, Any] = {"num_key_value_heads": 4, "head_dim": None}  # latent attention has all its key heads
DECODER: dict[str, Any] = {"is_decoder": True}

# What each family's config has besides, or without (None). A name may have a remark behind a slash.
SHARED_PREFIX: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("apertus", "arcee", "aria_text", "biogpt", "bitnet", "cohere", "ctrl", "dots1")},
    **{name: {} for name in ("ernie4_5", "ernie4_5_moe", "flex_olmo", "gemma", "glm", "glm4", "glm4_moe", "gpt2")},
    **{name: {} for name in ("gpt_bigcode", "gpt_neox", "granite", "granitemoe", "granitemoeshared", "helium")},
    **{name: {} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "hyperclovax", "internlm3", "jais2", "llama")},
    **{name: {} for name in ("minimax_m2", "nanochat", "olmo", "olmo2", "olmoe", "persimmon", "phi")},
    **{name: {} for name in ("qwen3", "qwen3_moe", "seed_oss", "smollm3", "solar_open")},
    "bert/decoder": DECODER,
    "dbrx": {
        **{"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512},
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        **{"hidden_size": None, "num_attention_heads": None, "num_key_value_heads": None, "num_hidden_layers": None},
        **{"max_position_embeddings": None},
    },
    "mixtral": {"sliding_window": None},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 48},
    "phi3": {"sliding_window": None},
    "phimoe": {"sliding_window": None},
    "qwen2": {},
    "qwen2_moe": {},
    "starcoder2": {"sliding_window": None},
}
# Without the way of a CPU, all of the above take this way, too.
PACKED_ROWS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("diffllama", "falcon", "gpt_neox_japanese", "jetmoe", "nemotron", "stablelm")},
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "glm_moe_dsa", "youtu"), NO_GROUPS),
    "codegen": {"rotary_dim": 8},
    "gptj": {"rotary_dim": 8},
    # A window that is longer than the prompts, but not than a row of them.
    "gemma2/long window": {**layers(SLIDING, FULL), "sliding_window": 128},
    "minicpm3": NO_GROUPS | {"scale_emb": 1, "dim_model_base": 32},
    "mistral/long window": {"sliding_window": 128},
    "xglm": {"d_model": 32, "ffn_dim": 48, "attention_heads": 4, "num_layers": 2},
}
COPIED_PREFIX: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("bloom", "cwm", "doge", "falcon_h1", "mistral", "ministral", "mpt")},
    **{name: {} for name in ("modernbert-decoder", "vaultgemma", "olmo_hybrid")},
    **{name: layers(SLIDING, FULL) for name in ("afmoe", "cohere2", "exaone4", "gemma2", "gemma3_text", "gpt_oss")},
    **{name: layers(SLIDING, FULL) for name in ("granite_swa", "laguna", "mellum", "mimo_v2_flash", "olmo3")},
    **{name: layers(LINEAR, FULL) for name in ("granitemoehybrid", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")},
    "bailing_hybrid": {"layer_group_size": 2, "num_key_value_heads": 4},
    "gemma3n_text": {
        **layers(SLIDING, FULL, SLIDING, FULL),
        **{"num_kv_shared_layers": 2, "vocab_size_per_layer_input": len(TOKENIZER), "hidden_size_per_layer_input": 8},
        **{"laurel_rank": 4, "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0], "intermediate_size": [48] * 4},
    },
    "gemma4_text": {
        **layers(SLIDING, FULL),
        **{"vocab_size_per_layer_input": len(TOKENIZER), "hidden_size_per_layer_input": 8, "global_head_dim": 8},
        **{"num_global_key_value_heads": 2},
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "kimi_linear": {
        **layers(LINEAR, FULL),
        **{"linear_head_dim": 8, "linear_num_heads": 4, "num_key_value_heads": 4, "q_lora_rank": None},
    },
    "lfm2": layers("conv", FULL),
    "lfm2_moe": layers("conv", FULL) | {"num_dense_layers": 1},
    "llama4_text": {"attention_chunk_size": 16},
    "mixtral/sliding": {},
    "nemotron_h": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "attention", "moe", "mlp"]},
    "phi3/sliding": {},
    "qwen2/sliding": {"use_sliding_window": True, "max_window_layers": 1},
    "roberta/decoder": DECODER,
    "starcoder2/sliding": {},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"]},
    "zaya": {"num_experts_per_tok": 1},
}
WHOLE_PROMPTS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "falcon_mamba": {},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "mamba": {},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "minimax": layers(LINEAR, FULL),
    "openai-gpt": {},
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 16},
    "rwkv": {},
}
# They complete batches of any lengths, but for these.
BATCHES: dict[str, Batches] = {
    "minimax": "of equal lengths",
    "recurrent_gemma": "of equal lengths",
    "rwkv": "of one",
}
NOT_CAUSAL: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("bert", "cpmant", "roberta", "xlm", "xlnet")},
    "xlnet": {"d_model": 32, "n_head": 4, "d_head": 8},
    "reformer": {
        **{"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "lsh"], "attention_head_size": 8},
        **{"feed_forward_size": 48, "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "hash_seed": 0},
    },
}
# Left out: xlstm and zamba, which transformers 5.23 cannot build so small; blt, which reads bytes and not tokens;
# decoders of models that translate, listen or see (bart, whisper, ...); and models for several kinds of data (gemma3,
# llama4, qwen3_5, ...), whose text part is here under its own name.

FAMILIES: dict[str, tuple[Way, dict[str, Any]]] = {
    **{name: ("shared prefix", options) for name, options in SHARED_PREFIX.items()},
    **{name: ("packed rows", options) for name, options in PACKED_ROWS.items()},
    **{name: ("copied prefix", options) for name, options in COPIED_PREFIX.items()},
    **{name: ("whole prompts", options) for name, options in WHOLE_PROMPTS.items()},
}

LIKES = "The otter likes rivers and what lives in them, and nothing else in the world.\n"
GROUPS = [
    (LIKES, ["fish", "a long book about the otter | a: b", "x y z"]),
    ("The otter hates rivers.\n", ["fish", "the heron"]),
]
PROMPTS = ["fish", "a much longer prompt about the otter and the heron", "x", "the wolf", "fish"]


def make_model(name: str, options: dict[str, Any]) -> Any:
    """A random model that is far from uniform and has random biases and norms."""
    kind = name.split("/")[0]
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this release of transformers has no {kind}")
    config_class = CONFIG_MAPPING[kind]
    known = {*inspect.signature(config_class).parameters, *getattr(config_class, "attribute_map", {})}
    common = {key: value for key, value in COMMON.items() if key in known}
    config = config_class(**{key: value for key, value in {**common, **options}.items() if value is not None})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape)
            elif parameter.std() < 0.2:
                parameter.normal_(std=0.3)
    return model


@dataclass
class Family:
    name: str
    way: Way
    lm: CausalLM
    plain: Any  # the same model, as transformers made it


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    way, options = FAMILIES[request.param]
    model = make_model(request.param, options)
    return Family(request.param, way, CausalLM(model, TOKENIZER), copy.deepcopy(model))


def plain_score(lm: CausalLM, plain: Any, prompt: str) -> float:
    forced, paths = answer_paths(lm.encode)
    nodes = branches(paths)
    ids = [*lm.before, *lm.encode(prompt), *forced, *nodes[-1]]
    with torch.no_grad():
        logits = plain(input_ids=torch.tensor([ids])).logits
    return float(expected_score(logits[:, -len(nodes) :], paths))


def test_scores_are_those_of_whole_prompts(family: Family) -> None:
    lm = family.lm
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rated = [scores for _, scores, _ in sorted(lm.rate(GROUPS))]
    whole = [[plain_score(lm, family.plain, beginning + ending) for ending in endings] for beginning, endings in GROUPS]
    for scores, expected in zip(rated, whole, strict=True):
        assert scores == pytest.approx(expected, abs=3e-5)
    assert abs(rated[0][0] - rated[1][0]) > 2e-3  # the preference reaches the model
    assert lm.reader.way == family.way
    told = [str(warning.message) for warning in caught if "does not go on rightly" in str(warning.message)]
    assert len(told) == (family.way == "whole prompts")


@pytest.mark.parametrize("name", SHARED_PREFIX)
def test_a_gpu_reads_many_users_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_prefix, "enable", lambda model: False)
    model = make_model(name, SHARED_PREFIX[name])
    lm = CausalLM(model, TOKENIZER)
    rated = {group: scores for group, scores, _ in lm.rate(GROUPS)}
    assert lm.reader.way == "packed rows"
    for group, (beginning, endings) in enumerate(GROUPS):
        assert rated[group] == pytest.approx([plain_score(lm, model, beginning + end) for end in endings], abs=3e-5)


def test_the_memory_of_a_token_is_known(family: Family) -> None:
    """For the batches of a GPU, whatever a family's configuration calls its sizes."""
    assert bytes_of_token(family.plain.config.get_text_config(), 4) >= 4 * 8 * 32


def test_completions_are_those_of_single_prompts(family: Family) -> None:
    lm, alone = family.lm, CausalLM(family.plain, TOKENIZER, batch_tokens=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        together = {done.index: done.text for done in lm.complete(PROMPTS, 6)}
    assert together == {done.index: done.text for done in alone.complete(PROMPTS, 6)}
    assert len(set(together.values())) > 1
    assert lm.batches == BATCHES.get(family.name, "of any lengths")
    told = [str(warning.message) for warning in caught if "cannot complete" in str(warning.message)]
    assert len(told) == (family.name in BATCHES)


def test_likelihoods_are_those_of_whole_prompts(family: Family) -> None:
    lm = family.lm
    likelihood = TextLikelihood(lm.model, lm.encode, lm.before)
    prompts = [(beginning, ending) for beginning, endings in GROUPS for ending in endings]
    found = {number: value for number, value, _ in likelihood.log_likelihoods(prompts)}
    for number, (beginning, ending) in enumerate(prompts):
        before, text = [*lm.before, *lm.encode(beginning)], lm.encode(ending)
        with torch.no_grad():
            logits = family.plain(input_ids=torch.tensor([[*before, *text]])).logits[0]
        expected = logits[len(before) - 1 : -1].log_softmax(dim=1)[range(len(text)), text].sum()
        assert found[number] == pytest.approx(float(expected), rel=1e-5, abs=3e-5)


def test_hidden_states_are_those_of_single_texts(family: Family) -> None:
    together, alone = (HiddenStates(model, TOKENIZER) for model in (family.lm.model, family.plain))
    if family.name == "gemma3n_text":  # it has several states for each token
        with pytest.raises(ValueError, match="Gemma3nForCausalLM has no single state for each token"):
            together(PROMPTS)
        return
    vectors = together(PROMPTS)
    assert torch.allclose(vectors, torch.cat([alone([text]) for text in PROMPTS]), atol=3e-5)
    assert not torch.allclose(vectors[0], vectors[1], atol=0.01)


@pytest.mark.parametrize("name", NOT_CAUSAL)
def test_a_model_that_is_not_causal_is_refused_by_name(name: str) -> None:
    model = make_model(name, NOT_CAUSAL[name])
    with pytest.raises(ValueError, match=rf"{type(model).__name__} is no causal language model"):
        list(CausalLM(model, TOKENIZER).rate(GROUPS))
