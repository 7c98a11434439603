import math

import pytest
import torch
from test_causal_lm import make_model, make_tokenizer

from llmhd_pl.llm.answer_paths import answer_paths, expected_score
from llmhd_pl.llm.causal_lm import CausalLM


@pytest.mark.parametrize("one_token_ten", [True, False])
def test_answers_are_told_apart_by_as_few_tokens_as_possible(one_token_ten: bool) -> None:
    tokenizer = make_tokenizer(one_token_ten)
    lm = CausalLM(make_model(tokenizer), tokenizer)
    forced, paths = answer_paths(lm.encode)
    assert tokenizer.decode(forced) == "<s>"
    assert tokenizer.bos_token_id not in forced  # the text "<s>", not the token of that name
    decoded = [tokenizer.decode(path) for path in paths]
    assert decoded[1:9] == [str(number) for number in range(2, 10)]
    assert decoded[9] == "10" and decoded[0].rstrip("</") == "1"
    assert [len(path) for path in paths] == ([1] * 10 if one_token_ten else [2, *[1] * 8, 2])


def test_a_tokenizer_that_confuses_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="same tokens"):
        answer_paths(lambda text: [0])
    # Every digit as two tokens of its own: branches after each first one.
    pairs = {str(number): [number // 4, 10 + number % 4] for number in range(1, 11)}
    with pytest.raises(ValueError, match="several places"):
        answer_paths(lambda text: [*pairs[text[3:-4]], 99])


def test_expected_score_by_hand() -> None:
    # Tokens 0 to 9 for the answers 1 to 10; only 3 and 8 have any probability, 1 : 3; the rest of the vocabulary is
    # far likelier, and does not count.
    logits = torch.full((1, 1, 12), -1e4)
    logits[0, 0, [2, 7]] = torch.tensor([0.0, math.log(3)])
    logits[0, 0, 11] = 50
    assert expected_score(logits, [[n] for n in range(10)]).tolist() == pytest.approx([3 / 4 + 8 * 3 / 4])


def test_expected_score_by_hand_with_ten_as_two_tokens() -> None:
    # "1" (token 0) has half of the mass, "2" (token 1) the other; after "1", "0" (token 20) 1 : 3 the end (token 21).
    paths = [[0, 21], *[[n] for n in range(1, 9)], [0, 20]]
    logits = torch.full((1, 2, 22), -1e4)
    logits[0, 0, [0, 1]] = 0.0
    logits[0, 1, [20, 21]] = torch.tensor([0.0, math.log(3)])
    assert expected_score(logits, paths).tolist() == pytest.approx([1 * 3 / 8 + 2 / 2 + 10 / 8])


def test_no_expected_score_leaves_the_scale() -> None:
    """A model that is certain says 10, not 10.000001, which would be no answer."""
    logits = torch.randn(300_000, 1, 10, generator=torch.Generator().manual_seed(0)) * 6
    scores = expected_score(logits, [[n] for n in range(10)])
    assert scores.min() >= 1 and scores.max() == 10
