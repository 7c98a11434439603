"""A local model that cannot answer ends the run early, with the likely cause."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_causal_lm import make_model, make_tokenizer

from llmhd_pl.llm.asked_model import WRITTEN_SCORE_TOKENS
from llmhd_pl.llm.causal_lm import CausalLM
from llmhd_pl.llm.first_answers import ENOUGH
from llmhd_pl.llm.quantized import QuantizedLLM

NUM_ITEMS = 30
NOBODY = torch.empty(0, 2, dtype=torch.int64)


class Writing(QuantizedLLM):
    """A model that writes what it is told to, one answer after another, the last one for ever."""

    def __init__(self, folder: Path, answers: Sequence[str], **arguments: Any) -> None:
        super().__init__(str(folder), quantization="none", device="cpu", prompts="books", calibrate=False, **arguments)
        self.prepare([{"title": f"Otter {item}"} for item in range(NUM_ITEMS)], NOBODY)
        self.left = list(answers)
        self.calls = 0
        tokenizer = self.causal_lm.tokenizer

        def generate(input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
            rows = []
            for _row in input_ids:
                self.calls += 1
                text = self.left.pop(0) if len(self.left) > 1 else self.left[0]
                rows.append(tokenizer.encode(text, add_special_tokens=False))
            width = max(map(len, rows)) + 1
            rows = [row + [tokenizer.eos_token_id] * (width - len(row)) for row in rows]
            return torch.cat([input_ids, torch.tensor(rows)], dim=1)

        self.causal_lm.model.generate = generate
        self.causal_lm.batch_tokens = 1  # one prompt at a time


def score(scorer: QuantizedLLM, count: int) -> torch.Tensor:
    return scorer.score({0: "Otters"}, torch.tensor([[0, item] for item in range(count)]))


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("<think>\nWell, <s>3</s> would", "thinks before it answers"),
        ("I'd say 7.", "does not keep to the form.*scoring='expected'"),
        ("7", "does not keep to the form"),
        ("", "writes nothing"),
    ],
)
def test_a_model_that_writes_no_score_ends_the_run_after_eight(folder: Path, answer: str, cause: str) -> None:
    scorer = Writing(folder, [answer], scoring="generate")
    assert score(scorer, ENOUGH - 1).isnan().all()
    with pytest.raises(
        RuntimeError, match=rf"None of the first 8 answers of '{folder}' \(.*\) is a valid score.*{cause}"
    ):
        score(scorer, NUM_ITEMS)
    assert scorer.calls <= 2 * ENOUGH  # a few may have been asked again
    assert scorer.usage.calls == scorer.calls  # what was asked is counted


@pytest.mark.parametrize(
    "answer", ["<summarization>Likes", "<think> <summarization>A</summarization>", "Likes otters."]
)
def test_a_model_that_writes_no_summary_ends_the_run_after_eight(folder: Path, answer: str) -> None:
    scorer = Writing(folder, [answer])
    with pytest.raises(RuntimeError, match=r"None of the first 8 answers .* is a valid text"):
        scorer.summarize({user: [user] for user in range(NUM_ITEMS)})
    assert scorer.calls == ENOUGH


def test_a_model_that_can_answer_is_asked_on(folder: Path, tmp_path: Path) -> None:
    good = "<think>\n\n</think>\n\n<s>4</s>"
    cache = str(tmp_path / "answers.sqlite")
    scorer = Writing(folder, [good, "no"], scoring="generate", cache=cache)
    scores = score(scorer, NUM_ITEMS)
    assert scores[~scores.isnan()].tolist() == [4] and scorer.calls == NUM_ITEMS
    again = Writing(folder, ["no"], scoring="generate", cache=cache)  # the cache says that it can
    assert score(again, NUM_ITEMS).isnan().sum() == NUM_ITEMS - 1
    with pytest.raises(RuntimeError, match="is a valid text"):  # which says nothing about summaries
        again.summarize({user: [user] for user in range(NUM_ITEMS)})


def test_a_score_after_an_empty_thought_fits_into_what_may_be_written() -> None:
    """Also in a tokenizer that has no token for the tags and writes 10 as two digits."""
    pieces = re.findall(r"</|[a-z]+|\n+|[<>0-9]", "<think>\n\n</think>\n\n<s>10</s>")
    assert len(pieces) == WRITTEN_SCORE_TOKENS


def test_the_token_that_ends_the_text_ends_the_score(folder: Path) -> None:
    """In Llama 2 and Mistral, </s> is the token that ends every answer."""
    scorer = Writing(folder, ["<s>7"], scoring="generate")
    tokenizer = scorer.causal_lm.tokenizer
    assert tokenizer.eos_token == "</s>" and tokenizer.encode("<s>7</s>")[-1] == tokenizer.eos_token_id
    assert score(scorer, 3).tolist() == [7, 7, 7]
    (completed,) = scorer.causal_lm.complete(["x"], 12)
    assert completed.text == "<s>7</s>"


class Broken(QuantizedLLM):
    """Has logits that are not finite, at some of the forward passes."""

    def __init__(self, folder: Path, value: float, broken: range) -> None:
        given: dict[str, Any] = {"device": "cpu", "prompts": "books", "batch_tokens": 1, "calibrate": False}
        super().__init__(str(folder), quantization="none", **given)
        self.prepare([{"title": f"Otter {item}"} for item in range(NUM_ITEMS)], NOBODY)
        list(self.causal_lm.rate([("", ["Otter"])]))  # the way of reading is chosen with a sound model
        passes = iter(range(1000))

        def spoil(module: object, arguments: object, output: torch.Tensor) -> torch.Tensor:
            return output * value if next(passes) - 1 in broken else output  # the first pass reads what is shared

        self.causal_lm.model.lm_head.register_forward_hook(spoil)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_score_and_end_the_run_after_eight(folder: Path, value: float) -> None:
    scorer = Broken(folder, value, range(1000))
    with (
        pytest.warns(UserWarning, match=rf"'{folder}' \(quantization 'none', .*float.*\) is nan.*not finite"),
        pytest.raises(
            RuntimeError, match=rf"first 8 expected scores of '{folder}' .*'none', .*float.*dtype 'float32' or quant"
        ),
    ):
        score(scorer, NUM_ITEMS)


def test_a_few_logits_that_are_not_finite_are_no_scores(folder: Path) -> None:
    scorer = Broken(folder, float("nan"), range(2, 7))
    with pytest.warns(UserWarning, match="counts as unanswered"):
        scores = score(scorer, NUM_ITEMS)
    assert scores.isnan().sum() == 5 and scorer.usage.templates["T_score"].unanswered == 5
    assert (scores[~scores.isnan()] >= 1).all()


def test_expected_scores_of_logits_that_are_not_finite(folder: Path) -> None:
    tokenizer = make_tokenizer(one_token_ten=True)
    lm = CausalLM(make_model(tokenizer), tokenizer)
    for value in (float("nan"), float("inf"), float("-inf")):
        lm.model.lm_head.register_forward_hook(lambda module, arguments, output, value=value: output * 0 + value)
        ((_, scores, _),) = lm.rate([("a", ["b", "c"])])
        assert all(each != each for each in scores)
