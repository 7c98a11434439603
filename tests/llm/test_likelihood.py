"""scoring="likelihood": how much likelier an item's text becomes behind the texts of the user's other items."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_causal_lm import make_model, make_tokenizer
from torch import Tensor

from llmhd_pl.llm import likelihood
from llmhd_pl.llm.causal_lm import plain_ids
from llmhd_pl.llm.endpoint import EndpointScorer
from llmhd_pl.llm.likelihood import HEADING, TextLikelihood
from llmhd_pl.llm.quantized import QuantizedLLM

WORDS = ("otter", "river", "heron", "wolf")
ITEMS = [{"title": f"The {word} {number}"} for number in range(8) for word in WORDS] + [{}, {"title": "The otter 0"}]
NO_TEXT, COPY = len(ITEMS) - 2, len(ITEMS) - 1
PAIRS = torch.tensor([(user, item) for user in range(8) for item in random.Random(user).sample(range(32), 8)])
LISTS = {user: PAIRS[PAIRS[:, 0] == user, 1].tolist() for user in range(8)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in float32 whose tokenizer has no chat template."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = make_tokenizer(one_token_ten=True)
    tokenizer.save_pretrained(folder)
    make_model(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmhd_pl.llm.dtypes.fast_dtype", lambda device: torch.float32)


def scorer(folder: Path, **arguments: Any) -> QuantizedLLM:
    made = QuantizedLLM(str(folder), quantization="none", device="cpu", scoring="likelihood", **arguments)
    made.prepare(ITEMS, PAIRS)
    return made


def raw(judge: QuantizedLLM, pairs: Tensor) -> Tensor:
    """The scores before the calibration."""
    return judge._raw_scores(judge.summarize(LISTS), pairs)


def log_likelihood(judge: QuantizedLLM, before: str, text: str) -> float:
    """One forward pass for each token, on the whole text so far."""
    model, tokenizer = judge.text_likelihood.model, judge.text_likelihood.encode
    ids, total = [0, *tokenizer(before)], 0.0  # 0 is <s>
    for token in tokenizer(text):
        with torch.no_grad():
            total += float(model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(0)[token])
        ids.append(token)
    return total


def test_it_is_the_pointwise_mutual_information_by_hand(base: Path) -> None:
    judge = scorer(base)
    pairs = torch.cat([PAIRS[[0, 30, 31]], torch.tensor([[2, 31]])])
    for (user, item), value in zip(pairs.tolist(), raw(judge, pairs).tolist(), strict=True):
        listed = "".join(f"{ITEMS[other]['title']}\n" for other in LISTS[user] if other != item)
        text = f"{ITEMS[item]['title']}\n"
        assert listed.count("\n") == 8 - (item in LISTS[user])
        by_hand = log_likelihood(judge, HEADING + listed, text) - log_likelihood(judge, HEADING, text)
        assert value == pytest.approx(by_hand, abs=1e-5) and abs(value) > 1e-3


@settings(max_examples=25)
@given(
    st.lists(st.tuples(*[st.text("otr <|s>\n", min_size=1, max_size=30)] * 2), min_size=1, max_size=8),
    st.sampled_from([1, 40, 16384]),
)
def test_a_batch_is_as_good_as_one_by_one(prompts: Sequence[tuple[str, str]], batch_tokens: int) -> None:
    tokenizer = make_tokenizer(one_token_ten=True)
    lm = TextLikelihood(make_model(tokenizer), lambda text: plain_ids(tokenizer, text), [0], batch_tokens)
    single = [next(lm.log_likelihoods([prompt])) for prompt in prompts]
    batched = sorted(lm.log_likelihoods(prompts))
    assert [number for number, _, _ in batched] == list(range(len(prompts)))
    for (_, alone, tokens), (number, together, counted) in zip(single, batched, strict=True):
        assert together == pytest.approx(alone, abs=1e-4) and alone <= 0
        assert tokens == counted == 1 + sum(len(plain_ids(tokenizer, part)) for part in prompts[number])


def test_no_more_logits_are_held_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer(one_token_ten=True)
    model = make_model(tokenizer)
    shapes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    lm = TextLikelihood(model, lambda text: plain_ids(tokenizer, text), [0])
    prompts = [("The otter likes rivers. " * 9, "fish\n")] * 20
    whole = [value for _, value, _ in lm.log_likelihoods(prompts)]
    ending = len(plain_ids(tokenizer, "fish\n"))
    assert shapes == [(20, ending + 1, len(tokenizer))]
    monkeypatch.setattr(likelihood, "_MOST_LOGITS", 6 * (ending + 1) * len(tokenizer))
    shapes.clear()
    assert [value for _, value, _ in lm.log_likelihoods(prompts)] == pytest.approx(whole, abs=1e-4)
    assert [shape[0] for shape in shapes] == [6, 6, 6, 2]


def test_a_batch_that_does_not_fit_is_halved() -> None:
    tokenizer = make_tokenizer(one_token_ten=True)
    model = make_model(tokenizer)
    lm = TextLikelihood(model, lambda text: plain_ids(tokenizer, text), [0], batch_tokens=100)
    prompts = [("The otter", "likes rivers\n")] * 9
    expected = list(lm.log_likelihoods(prompts))

    def crowded(module: object, arguments: object, kwargs: dict[str, Any]) -> None:
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(crowded, with_kwargs=True)
    lm.batch_tokens = 100
    found = list(lm.log_likelihoods(prompts))
    assert lm.batch_tokens < 100 and [number for number, _, _ in found] == list(range(9))
    assert [value for _, value, _ in found] == pytest.approx([value for _, value, _ in expected], abs=1e-4)


def test_half_precision_is_summed_in_float32() -> None:
    tokenizer = make_tokenizer(one_token_ten=True)
    model = make_model(tokenizer).bfloat16()
    prompt = ("The otter likes rivers.\n", "fish and a long book about the otter\n")
    ((_, value, _),) = TextLikelihood(model, lambda text: plain_ids(tokenizer, text), [0]).log_likelihoods([prompt])
    before, text = ([0, *plain_ids(tokenizer, prompt[0])], plain_ids(tokenizer, prompt[1]))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([before + text])).logits[0, len(before) - 1 : -1].double()
    assert value == pytest.approx(float(logits.log_softmax(1)[range(len(text)), text].sum()), abs=1e-3)


def test_the_judged_item_and_its_copies_are_left_out(base: Path) -> None:
    judge = scorer(base)
    others = [1, 2, NO_TEXT]
    with_it = judge._raw_scores({0: [0, *others, COPY]}, torch.tensor([[0, 0], [0, COPY]]))
    without = judge._raw_scores({0: others}, torch.tensor([[0, 0], [0, COPY]]))
    assert torch.equal(with_it, without) and not with_it.isnan().any()


def test_what_cannot_be_compared_has_no_score(base: Path) -> None:
    judge = scorer(base)
    preferences: dict[int, Any] = {0: [0, 1], 1: [2, NO_TEXT], 2: [NO_TEXT], 3: []}
    pairs = torch.tensor([[0, NO_TEXT], [1, 2], [2, 0], [3, 0], [4, 0], [1, 0]])
    assert judge.score(preferences, pairs).isnan().tolist() == [True] * 5 + [False]
    with pytest.raises(TypeError, match="user 0 is a text; another scorer made it"):
        judge.score({0: "Likes otters."}, pairs[:1] * 0)


def test_a_long_list_is_sampled(base: Path) -> None:
    judge = scorer(base, history_tokens=40)
    asked: list[str] = []
    known = judge._known
    judge._known = lambda template, prompts: asked.extend(prompts) or known(template, prompts)  # type: ignore
    raw(judge, PAIRS[[0, 1, 1]])
    lists = [prompt.removeprefix(HEADING).splitlines()[:-1] for prompt in asked if prompt.count("\n") > 2]
    assert len(lists) == 2 and all(0 < len(lines) < 7 for lines in lists)
    assert sum(judge.count_tokens(f"{line}\n") for line in lists[0]) <= 40


def test_scores_are_calibrated_and_none_is_paid_twice(base: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "answers.sqlite")
    judge = scorer(base, cache=cache)
    preferences = judge.summarize(LISTS)
    assert preferences == LISTS and judge.usage.calls == 0
    scores = judge.score(preferences, PAIRS)
    assert (scores >= 1).all() and (scores <= 10).all()
    order = raw(judge, PAIRS).argsort()
    assert (scores[order].diff() >= 0).all()
    with_text = len({item for item in range(len(ITEMS)) if ITEMS[item]})
    drawn = len(PAIRS) + 16  # the calibration's observed pairs are among them
    assert drawn < judge.usage.templates["likelihood"].calls <= drawn + with_text
    assert list(judge.usage.templates) == ["likelihood"]
    again = scorer(base, cache=cache)
    assert torch.equal(again.score(preferences, PAIRS), scores) and again.usage.calls == 0
    assert "text_likelihood" not in vars(again)
    assert torch.equal(scorer(base, cache=cache, replay=True).score(preferences, PAIRS), scores)
    expected = QuantizedLLM(str(base), quantization="none", device="cpu")
    assert expected.fingerprint != judge.fingerprint


def test_other_words_are_another_question(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = scorer(base).fingerprint
    assert scorer(base, prompts="books").fingerprint == before  # they are not asked
    monkeypatch.setattr("llmhd_pl.llm.asked_model.HEADING", "Otherwise:\n")
    assert scorer(base).fingerprint != before


def test_the_budget_is_a_hard_limit(base: Path) -> None:
    whole = scorer(base)
    whole.score(LISTS, PAIRS)
    for share in (0.5, 0.99):
        short = scorer(base, max_tokens=int(share * whole.usage.tokens))
        with pytest.warns(UserWarning, match="rest of the token budget is too small"):
            short.score(LISTS, PAIRS)
        assert short.usage.tokens <= share * whole.usage.tokens


def test_preferences_are_revised_without_asking(base: Path) -> None:
    judge = scorer(base)
    assert judge.revise({0: [1, 2], 1: [3]}, {0: [2]}, {0: [5, 1]}) == {0: [1, 5]}
    assert judge.usage.calls == 0


def test_a_template_that_instructions_need_is_not_needed(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template  # of a model that follows instructions
    judge = scorer(folder)
    assert judge.text_likelihood.first == [tokenizer.bos_token_id]
    value = raw(judge, torch.tensor([[0, 0]])).item()
    assert math.isfinite(value) and value != 0


def test_logits_that_are_not_finite_end_the_run(base: Path) -> None:
    judge = scorer(base)
    judge.text_likelihood.model.lm_head.register_forward_hook(lambda module, inputs, output: output * math.nan)
    with (
        pytest.warns(UserWarning, match=r"log-likelihood of a pair .* is nan"),
        pytest.raises(RuntimeError, match=r"first 8 log-likelihoods of .* are not finite"),
    ):
        judge.score(LISTS, PAIRS)


def test_where_it_makes_no_sense(base: Path) -> None:
    with pytest.raises(ValueError, match="set calibrate to true"):
        QuantizedLLM(str(base), scoring="likelihood", calibrate=False)
    with pytest.raises(ValueError, match="which a server does not give"):
        EndpointScorer("otter", "http://localhost/v1", scoring="likelihood")
