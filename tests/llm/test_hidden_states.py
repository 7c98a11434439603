from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_causal_lm import make_model, make_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from llmhd_pl.llm.answer_paths import plain_ids
from llmhd_pl.llm.encoder import EncoderScorer
from llmhd_pl.llm.hidden_states import HiddenStates

TEXTS = ["The otter", "Rate how well the otter fits, a: b | c", "x", "10 otters <s>10</s>"]


def by_hand(model: Any, tokenizer: Any, text: str, layer: int) -> torch.Tensor:
    """One text alone, through all layers."""
    ids = torch.tensor([[tokenizer.bos_token_id, *plain_ids(tokenizer, text)]])
    with torch.inference_mode():
        states = model(ids, output_hidden_states=True).hidden_states[layer][0]
    return F.normalize(F.normalize(states, dim=1).mean(dim=0), dim=0)


def gpt2(vocabulary: int) -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=3, n_head=2, n_positions=64))


def mamba(vocabulary: int) -> Any:
    return MambaForCausalLM(MambaConfig(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=3, state_size=4))


@pytest.mark.parametrize("layer", [1, 2])
def test_the_mean_of_directions_after_a_layer(layer: int) -> None:
    """The last layer's entry of ``output_hidden_states`` has the final norm on it, so three layers are needed."""
    tokenizer = make_tokenizer(one_token_ten=True)
    model = make_model(tokenizer, num_hidden_layers=3)
    vectors = HiddenStates(model, tokenizer, layer)(TEXTS)
    assert vectors.shape == (4, 64) and vectors.dtype == torch.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert torch.allclose(vector, by_hand(model, tokenizer, text, layer), atol=1e-5)


@pytest.mark.parametrize(("make", "entry"), [(gpt2, 2), (mamba, 1)])
def test_other_architectures(make: Any, entry: int) -> None:
    """Mamba's list of hidden states has no entry for the embeddings."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(one_token_ten=True)
    model = make(len(tokenizer)).eval()
    vectors = HiddenStates(model, tokenizer)(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert torch.allclose(vector, by_hand(model, tokenizer, text, entry), atol=1e-5)


def test_layers_above_are_not_computed() -> None:
    tokenizer = make_tokenizer(one_token_ten=True)
    model = make_model(tokenizer, num_hidden_layers=3)
    called = []
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda *_, number=number: called.append(number))
    HiddenStates(model, tokenizer, layer=2)(["The otter"])
    assert called == [0, 1]
    assert HiddenStates(model, tokenizer).layer == 2
    with torch.inference_mode():
        model(torch.tensor([[1, 2]]))  # no hook is left behind
    assert called == [0, 1, 0, 1, 2]


@settings(max_examples=20)
@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=8), st.integers(1, 40))
def test_neither_batches_nor_order_matter(texts: list[str], batch_tokens: int) -> None:
    tokenizer = make_tokenizer(one_token_ten=True)
    states = HiddenStates(make_model(tokenizer), tokenizer, 1)
    alone = torch.cat([states([text]) for text in texts])
    states.batch_tokens = batch_tokens
    assert torch.allclose(states(texts), alone, atol=1e-5)
    assert torch.allclose(states(texts[::-1]).flip(0), alone, atol=1e-5)


def test_a_batch_that_does_not_fit_is_halved() -> None:
    tokenizer = make_tokenizer(one_token_ten=True)
    model = make_model(tokenizer)
    whole = HiddenStates(model, tokenizer, 1)(TEXTS)
    sizes = []

    def short_of_memory(module: Any, inputs: Any, options: Any) -> None:
        sizes.append(options["input_ids"].numel())
        if sizes[-1] > 50:
            raise torch.OutOfMemoryError("out of memory")

    handle = model.model.register_forward_pre_hook(short_of_memory, with_kwargs=True)
    states = HiddenStates(model, tokenizer, 1)
    assert torch.allclose(states(TEXTS), whole, atol=1e-5)
    assert sizes[0] > 50 and states.batch_tokens < 512
    handle.remove()
    model.model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        states(TEXTS)


def test_layers_that_do_not_exist() -> None:
    tokenizer = make_tokenizer(one_token_ten=True)
    for layer in (0, 3, -1):
        with pytest.raises(ValueError, match=f"layer is {layer}; the model has layers 1 to 2"):
            HiddenStates(make_model(tokenizer), tokenizer, layer)


def test_the_scorer_reads_each_text_once_and_keeps_the_vectors(folder: Path, tmp_path: Path) -> None:
    """A 4-bit model; the second scorer takes the cache and loads no model."""
    items = [{"title": f"book {number}"} for number in range(12)]
    pairs = torch.tensor([(user, (user + step) % 12) for user in range(12) for step in range(3)])
    first = EncoderScorer(str(folder), quantization="nf4", cache_dir=tmp_path / "cache")
    first.prepare(items, pairs)
    scores = first.score(first.summarize({0: [0, 1, 2]}), pairs[:3])
    assert ((scores >= 1) & (scores <= 10)).all()
    second = EncoderScorer(str(folder), quantization="nf4", cache_dir=tmp_path / "cache")
    second._load = None  # type: ignore[assignment, method-assign]
    second.prepare(items, pairs)
    assert torch.equal(second.score(second.summarize({0: [0, 1, 2]}), pairs[:3]), scores)
    others = [
        EncoderScorer(str(folder), quantization="nf4", layer=1),
        EncoderScorer(str(folder), quantization="none"),
        EncoderScorer(str(folder)),
    ]
    assert len({scorer.fingerprint for scorer in [first, *others]}) == 4


def test_what_needs_a_language_model_says_so() -> None:
    with pytest.raises(ValueError, match="a gguf file needs a causal language model: set quantization"):
        EncoderScorer("model.gguf")
    with pytest.raises(ValueError, match="layer needs a causal language model: set quantization"):
        EncoderScorer("model", layer=3)


def test_states_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(one_token_ten=True)
    model = make_model(tokenizer)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    tokenizer.save_pretrained(tmp_path / "broken")
    model.save_pretrained(tmp_path / "broken")
    scorer = EncoderScorer(str(tmp_path / "broken"), quantization="none", cache_dir=None)
    with pytest.raises(ValueError, match=r"The model '.*broken' .* not finite, first 'Elsewhere'"):
        scorer.prepare([{"title": "Elsewhere"}, {"title": "The Otter"}], torch.tensor([[0, 0], [0, 1]]))
