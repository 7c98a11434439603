from pathlib import Path
from typing import Any

import pytest
import torch
from test_causal_lm import make_tokenizer
from transformers import CONFIG_MAPPING, GPT2Config, GPT2LMHeadModel, RwkvConfig, RwkvForCausalLM

from llmhd_pl.llm.context import context_length
from llmhd_pl.llm.quantized import QuantizedLLM

ITEMS = [{"title": f"The Otter {number}", "text": "rivers " * 9} for number in range(40)]
PAIRS = torch.tensor([(0, item) for item in range(20)] + [(1, item) for item in range(20, 25)])
NONE = torch.empty(0, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    "kind, options, length",
    [
        ("llama", {"max_position_embeddings": 700}, 700),
        ("gpt2", {"n_positions": 700}, 700),
        ("dbrx", {"max_seq_len": 700}, 700),
        ("mpt", {"max_seq_len": 700}, 700),  # ALiBi, but no more positions than that
        ("mistral", {"max_position_embeddings": 700, "sliding_window": 8}, 700),
        ("llama4", {"text_config": {"max_position_embeddings": 700}}, 700),
        ("falcon", {"max_position_embeddings": 700}, 700),
        ("falcon", {"max_position_embeddings": 700, "alibi": True}, None),
        ("bloom", {}, None),
        ("mamba", {}, None),
        ("rwkv", {"context_length": 700}, None),
    ],
)
def test_what_a_model_reads_at_once(kind: str, options: dict[str, Any], length: int | None) -> None:
    assert context_length(CONFIG_MAPPING[kind](**options)) == length


def save(folder: Path, positions: int | None) -> Path:
    """A GPT-2 with so many positions, or RWKV, which has no limit."""
    tokenizer = make_tokenizer(one_token_ten=True)
    tokenizer.save_pretrained(folder)
    if positions is None:
        RwkvForCausalLM(RwkvConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=2)).save_pretrained(
            folder
        )
    else:
        config = GPT2Config(vocab_size=len(tokenizer), n_positions=positions, n_embd=8, n_layer=1, n_head=1)
        GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def scorer(folder: Path, **options: Any) -> QuantizedLLM:
    return QuantizedLLM(str(folder), quantization="none", device="cpu", prompts="books", calibrate=False, **options)


def longest(folder: Path, pairs: torch.Tensor, **options: Any) -> int:
    """The least length of context that is accepted, as the errors tell it."""
    short = scorer(save(folder, 8), **options)
    needed = 0
    for _ in range(3):  # T_score, then T_sum, then the revisions
        try:
            short.prepare(ITEMS, pairs)
        except ValueError as error:
            needed = int(str(error).split(" can have ")[1].split()[0])
            save(folder, needed)
            short = scorer(folder, **options)
    return needed


def test_the_longest_prompts_are_held_against_it(tmp_path: Path) -> None:
    needed = longest(tmp_path, PAIRS, history_tokens=100_000)
    scorer(save(tmp_path, needed), history_tokens=100_000).prepare(ITEMS, PAIRS)
    with pytest.raises(ValueError, match=r"T_FP or T_FN can have .* tokens .* Lower history_tokens from 100000 to"):
        scorer(save(tmp_path, needed - 1), history_tokens=100_000).prepare(ITEMS, PAIRS)


def test_the_remedy_helps(tmp_path: Path) -> None:
    needed = longest(tmp_path, PAIRS, history_tokens=100_000)
    save(tmp_path, needed - 50)
    with pytest.raises(ValueError) as refused:
        scorer(tmp_path, history_tokens=100_000).prepare(ITEMS, PAIRS)
    remedy = int(str(refused.value).split("history_tokens from 100000 to ")[1].split()[0])
    scorer(tmp_path, history_tokens=remedy).prepare(ITEMS, PAIRS)
    with pytest.raises(ValueError, match="history_tokens"):
        scorer(tmp_path, history_tokens=remedy + 1).prepare(ITEMS, PAIRS)


def test_what_is_shown_counts_and_not_what_might_be(tmp_path: Path) -> None:
    """The longest history of the data, if it is known, and the longest profile."""
    all_of_them = longest(tmp_path, NONE, history_tokens=100_000)
    assert longest(tmp_path, PAIRS, history_tokens=100_000) < all_of_them
    assert longest(tmp_path, PAIRS[:5], history_tokens=100_000) < longest(tmp_path, PAIRS, history_tokens=100_000)


def test_item_tokens_are_named_if_they_are_too_many(tmp_path: Path) -> None:
    items = [{"title": "The Otter " * 2000}]
    save(tmp_path, 3000)
    with pytest.raises(ValueError, match=r"T_score can have .* Lower item_tokens from 3000 to \d+ or less") as refused:
        scorer(tmp_path, item_tokens=3000, history_tokens=100).prepare(items, NONE)
    needed = int(str(refused.value).split(" can have ")[1].split()[0])
    judge = scorer(save(tmp_path, needed), item_tokens=3000, history_tokens=100)
    judge.prepare(items, NONE)
    preference = "the otter " * 100
    while judge.count_tokens(preference) > 256:  # as much as a model writes
        preference = preference[:-1]
    judge.score({0: preference}, torch.tensor([[0, 0]]))
    assert judge.usage.templates["T_score"].calls == 1


def test_a_context_that_no_setting_fits_in_takes_another_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the model reads 64\. Take a model with a longer context"):
        scorer(save(tmp_path, 64)).prepare(ITEMS, PAIRS)


def test_a_model_without_a_limit_passes(tmp_path: Path) -> None:
    scorer(save(tmp_path, None), history_tokens=10**9, item_tokens=10**6).prepare(ITEMS, PAIRS)


@pytest.mark.parametrize("scoring", ["expected", "generate"])
def test_no_prompt_is_longer_than_was_reckoned(tmp_path: Path, scoring: Any) -> None:
    """A model with exactly that context answers the longest prompts; GPT-2 fails at the first position too many."""
    needed = longest(tmp_path, PAIRS, history_tokens=100_000, scoring=scoring)
    judge = scorer(save(tmp_path, needed), history_tokens=100_000, scoring=scoring)
    judge.prepare(ITEMS, PAIRS)
    judge.summarize({0: list(range(20)), 1: list(range(20, 25))})
    preference = "the otter " * 50
    judge.revise({0: preference}, {0: list(range(20))}, {})
    judge.score({0: preference}, PAIRS[:7])
    assert judge.usage.templates["T_FP"].calls == 1


def test_a_list_and_an_item_are_held_against_the_context(tmp_path: Path) -> None:
    """One token less than the longest list needs is refused; so many are enough, whatever history_tokens allows."""
    tokens = len(make_tokenizer(one_token_ten=True).tokenize("x"))
    assert tokens == 1
    options: dict[str, Any] = {"scoring": "likelihood", "item_tokens": 64}
    short = QuantizedLLM(str(save(tmp_path / "8", 8)), quantization="none", device="cpu", **options)
    with pytest.raises(ValueError, match=r"A list and an item can have (\d+) tokens, .* reads 8") as refused:
        short.prepare(ITEMS, PAIRS)
    needed = int(str(refused.value).split(" tokens")[0].split()[-1])
    one_less = QuantizedLLM(str(save(tmp_path / "less", needed - 1)), quantization="none", device="cpu", **options)
    with pytest.raises(ValueError, match=r"Lower history_tokens from 1024 to \d+ or less"):
        one_less.prepare(ITEMS, PAIRS)
    QuantizedLLM(str(save(tmp_path / "enough", needed)), quantization="none", device="cpu", **options).prepare(
        ITEMS, PAIRS
    )
