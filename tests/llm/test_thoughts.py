import pytest

from llmhd_pl.llm.prompts import parse_profile, parse_score, parse_summary
from llmhd_pl.llm.thoughts import after_thought, open_thought

PAIRS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<Think>\n", "\n</Think>\n\n"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<analysis>", "</analysis>"),
    ("<seed:think>", "</seed:think>"),
    ("<|think|>", "<|/think|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>commentary<|message|>", "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>"),
    ("<|channel>thought\n", "<channel|>"),
]


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_a_finished_thought_is_no_part_of_the_answer(opening: str, closing: str) -> None:
    for thought in ("", "\n\n", "I'd say <s>3</s>", f"<profile>No.</profile> {opening} again"):
        assert parse_score(f"{opening}{thought}{closing}<s>7</s>") == 7
        assert parse_score(f"{thought}{closing}\n\n<s>7</s>") == 7  # the template had opened it
        assert parse_profile(f"{opening}{thought}{closing}<profile>Yes.</profile>") == "Yes."
        assert parse_summary(f"{thought}{closing} <summarization>Yes.</summarization>") == "Yes."
        assert open_thought(f"{opening}{thought}{closing}") is None
    assert parse_score(f"{opening}3{closing}{opening}<s>4</s>{closing}<s>7</s>") == 7


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_a_thought_that_was_cut_off_is_no_answer(opening: str, closing: str) -> None:
    for answer in (f"{opening}<s>3</s>", f"{opening} <s>3</s>", f"{opening}{closing}{opening}<s>3</s>"):
        assert after_thought(answer) == "" and parse_score(answer) is None
        assert open_thought(answer) == opening.strip()
    text = f"{opening}<profile>No.</profile><summarization>No.</summarization>"
    assert parse_profile(text) is None and parse_summary(text) is None
    assert parse_score(f"<s>3</s>{closing}") is None  # all of it was thought


def test_an_answer_without_a_thought_is_kept_as_it_is() -> None:
    for answer in (
        "",
        "<s>7</s>",
        "Likes [analysis] and <i>thinking</i>, thoughts and reason.",
        "a < b > c",
        "<thing>",
    ):
        assert after_thought(answer) == answer and open_thought(answer) is None
