"""The thoughts that a reasoning model writes before its answer: which are finished, and which were cut off."""

import re

# <think>, <seed:think>, <reasoning>, <|START_THINKING|>, [THINK], the channels of gpt-oss and Gemma, and their ends.
_TAG = re.compile(
    r"(?:<(?=[\w/|])\|?|◁|\[(?=/?THINK))(?P<end>/|end_(?:of_)?)?(?:(?:start|begin)_(?:of_)?)?(?:\w{1,20}:)?"
    r"(?:think|thinking|thoughts?|thought_process|reason|reasoning|analysis|reflection|scratchpad|inner_monologue)(?:\|?>|▷|\])"
    r"|<\|channel\|?>\s*(?:analysis|commentary|thought)\b(?:\s*<\|message\|>)?"
    r"|(?P<final><\|channel\|>\s*final\b(?:[^\n]{0,60}?<\|message\|>)?|<channel\|>)",
    re.IGNORECASE,
)


def open_thought(text: str) -> str | None:
    """Return the tag that opens a thought which does not end within a text, or None if there is no such thought."""
    last = None
    for last in _TAG.finditer(text):  # noqa: B007 - the last match is what counts
        pass
    return None if last is None or last["end"] or last["final"] else last[0]


def after_thought(answer: str) -> str:
    """Return what a model wrote after its thought.

    A number in a thought is not a score, and a tag in it is not an answer. The tag that opens the thought may be
    missing, because many chat templates write it before the model does.

    Args:
        answer: All that the model wrote, special tokens included if possible.

    Returns:
        What follows the end of the last thought; the whole answer if there is no thought, and "" if one was cut off.
    """
    end = 0
    for tag in _TAG.finditer(answer):
        if tag["end"] or tag["final"]:
            end = tag.end()
    rest = answer[end:]
    return "" if open_thought(rest) else rest
