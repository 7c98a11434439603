import json
import math
from typing import Any

import pytest

from llmhd_pl.llm.endpoint_reply import read, without_thoughts
from llmhd_pl.llm.texts import approximate_tokens
from tests.campaign.http_server import chat


@pytest.mark.parametrize(
    "count", [1e30, 10**30, "DIGITS", -1, True, False, "5", None, [5], math.nan, math.inf, 5.5, 10**8]
)
def test_a_count_of_tokens_that_cannot_be_right_is_estimated(count: Any) -> None:
    body = json.dumps(chat(usage={"prompt_tokens": count, "completion_tokens": 5})).replace('"DIGITS"', "9" * 5000)
    reply = read(body, "How many?")
    assert (reply.text, reply.prompt_tokens, reply.answer_tokens) == ("<s>7</s>", approximate_tokens("How many?"), 5)


@pytest.mark.parametrize("logprob", [math.nan, math.inf, "-0.1", True, None, [], 0.5, 10**400])
def test_a_probability_that_is_none_is_not_used(logprob: Any) -> None:
    top = [{"token": "7", "logprob": -0.1}, {"token": "5", "logprob": logprob}]
    body = chat(logprobs={"content": [{"token": "7", "logprob": -0.1, "top_logprobs": top}]})
    reply = read(json.dumps(body), "")
    assert reply.text == "<s>7</s>" and reply.positions is None
    top[1]["logprob"] = -math.inf  # zero, in floating point
    assert read(json.dumps(body), "").positions == [("7", [("7", pytest.approx(math.exp(-0.1))), ("5", 0)])]


@pytest.mark.parametrize(
    "thought",
    [
        "<think>\n\n</think>\n\n",
        "<think>3 of 10, or <s>2</s>?</think>",
        "<thinking>likes</thinking>\n",
        "<reasoning>likes</reasoning>",
        "[THINK]likes[/THINK]",
        "<|START_THINKING|>likes<|END_THINKING|>",
        "<seed:think>likes</seed:think>",
        "◁think▷likes◁/think▷",
        "likes quiet</think>",  # the prompt had the beginning
        "<|channel|>analysis<|message|>likes<|end|><|start|>assistant<|channel|>final<|message|>",
        "analysisThe user likes quietassistantfinal",
    ],
)
def test_a_finished_thought_is_no_part_of_the_answer(thought: str) -> None:
    assert without_thoughts(thought + "<s>7</s>") == ("<s>7</s>", False)
    assert read(json.dumps(chat(thought + "7")), "").text == "<s>7</s>"
    assert without_thoughts(thought)[1]
    summary = "<summarization>Likes thought-provoking books (reason: quiet).</summarization>"
    assert without_thoughts(thought + summary) == (summary, False)


@pytest.mark.parametrize(
    "body",
    [
        chat("<think>\nThe user likes quiet"),
        chat(" <thinking>The"),
        chat("<|channel|>analysis<|message|>The"),
        chat("[THINK]The"),
        chat(None, reasoning_content="The"),
        chat("", reasoning="The"),
        chat([{"type": "thinking", "thinking": "The"}]),
    ],
)
def test_an_unfinished_thought_is_no_answer(body: Any) -> None:
    reply = read(json.dumps(body), "")
    assert reply.thinks and not reply.fault and reply.prompt_tokens == 100


@pytest.mark.parametrize("text", ["<s>7</s>", "<summarization>Thinks.</summarization>", "I think 7", "7 </s>"])
def test_an_answer_is_no_thought(text: str) -> None:
    assert without_thoughts(text) == (text, False)


@pytest.mark.parametrize("tags", ["<" * 100_000, "<think " * 100_000, "[" + "a " * 200_000, "</think" * 100_000])
def test_a_long_answer_is_read_in_no_time(tags: str) -> None:
    without_thoughts(tags)
