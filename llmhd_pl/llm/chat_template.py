"""What a model's chat template puts around a prompt, and whether the model then sees the prompt and can answer it."""

import warnings
from typing import Any

from llmhd_pl.llm.thoughts import after_thought, open_thought

# A text as prompts are: tags, quotes, line breaks, both cases, an accent, and longer than any prompt. The private-use
# characters at its ends occur in no template. A template that trims its ends changes no prompt, so they are no spaces.
_WORD = "Probe7Otter"
_LINE = f"1. <item>\n{_WORD} & 'Hérons'  \"| {{x}} {{{{ y }}}} \\n 5 % (a): #b*\n</item>\n\n<s>N</s>\n"
_PROBE = f"\ue000{_LINE * 1000}\ue001"
_NEXT = "\ue002What comes next\ue003"
_SWITCHES = {
    "enable_thinking": False,
    "thinking": False,
}  # as Qwen, GLM and SmolLM, and as Granite and DeepSeek, call it


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return what stands before and after every prompt: the chat template with thinking switched off.

    The template is tried out with a text that takes the place of a prompt. Content goes in as text or, for a template
    that wants it so, as a list of parts. A thought that the template always opens is ended at once, with a warning.

    Args:
        tokenizer: The tokenizer of the model.

    Returns:
        The token ids in front of a prompt, and those behind it, up to where the answer begins. Without a chat template,
        this is the token that begins a text, if there is one, and nothing.

    Raises:
        ValueError: If the template cannot be rendered, loses, changes or repeats the prompt, does not begin an answer,
            or begins one with something that cannot be ended.
    """
    if not tokenizer.chat_template:
        first = tokenizer.bos_token_id
        return ([] if first is None else [first]), []
    before, after = _around(tokenizer)
    return tokenizer.encode(before, add_special_tokens=False), tokenizer.encode(after, add_special_tokens=False)


def _around(tokenizer: Any) -> tuple[str, str]:
    """Return the text before and after a prompt."""
    as_parts = False
    try:
        before, after = _split(tokenizer, as_parts)
    except ValueError as error:
        as_parts = True
        try:
            before, after = _split(tokenizer, as_parts)
        except ValueError:
            raise error from error.__cause__
    turn = _turn(tokenizer, as_parts, "assistant")
    if not after.strip() or (
        turn is not None
        and turn.strip() != after.strip()
        and after == _split(tokenizer, as_parts, add_generation_prompt=False)[1]
    ):
        raise _error(
            tokenizer,
            "does not begin the model's answer (it ignores add_generation_prompt), so the model would go on with the "
            "question",
        )
    if turn == _turn(tokenizer, as_parts, "user"):
        turn = None  # the template does not look at roles, so this says nothing about answers
    if tag := open_thought(after):
        if (closing := _closing(tag)) is not None:
            after = after.rstrip("\n") + f"\n\n{closing}\n\n"
        elif turn is not None and open_thought(turn) is None:
            after = turn
        else:
            raise _error(tokenizer, f"begins every answer with a thought ({tag!r}) that cannot be ended")
        warnings.warn(
            f"The chat template of {_name(tokenizer)!r} begins every answer with a thought ({tag!r}). It is ended at "
            "once, so the model answers without thinking.",
            stacklevel=2,
        )
    elif turn is not None and turn.strip() and after.startswith(turn.rstrip()):
        extra = after.removeprefix(turn.rstrip()).strip()
        if extra and not _is_thought(extra):
            raise _error(tokenizer, f"begins every answer with {extra!r}, which is no part of an answer")
    elif turn is not None and turn.startswith(after.rstrip()) and turn.strip() != after.strip():
        after = turn  # answers have a header that the model is meant to write, such as a channel
    return before, after


def _split(tokenizer: Any, as_parts: bool, add_generation_prompt: bool = True) -> tuple[str, str]:
    """Return the text before and after the content of a user's turn, which must be there once and as it is."""
    rendered = _render(tokenizer, [("user", _PROBE)], as_parts, add_generation_prompt)
    before, found, after = rendered.partition(_PROBE)
    if not found:
        how = "changes or cuts off" if _WORD.lower() in rendered.lower() else "leaves out"
        raise _error(tokenizer, f"{how} what the user says, so the model would not see the question as it is")
    if _WORD.lower() in (before + after).lower():
        raise _error(tokenizer, "repeats what the user says, so the model would see the question more than once")
    return before, after


def _turn(tokenizer: Any, as_parts: bool, role: str) -> str | None:
    """Return what stands between a user's turn and the content of the next turn, or None if it cannot be told."""
    try:
        rendered = _render(tokenizer, [("user", _PROBE), (role, _NEXT)], as_parts, add_generation_prompt=False)
    except ValueError:
        return None
    _, question, rest = rendered.partition(_PROBE)
    turn, answer, _ = rest.partition(_NEXT)
    return turn if question and answer else None


def _render(tokenizer: Any, turns: list[tuple[str, str]], as_parts: bool, add_generation_prompt: bool) -> str:
    chat = [{"role": role, "content": [{"type": "text", "text": text}] if as_parts else text} for role, text in turns]
    try:
        rendered: str = tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=add_generation_prompt, **_SWITCHES
        )
    except Exception as error:  # a template is a program of somebody else's, which may raise anything
        raise _error(tokenizer, f"cannot be rendered for a question of a user ({error})") from error
    return rendered


def _closing(tag: str) -> str | None:
    """Return the tag that ends a thought, or None if it cannot be told from the one that begins it."""
    tag = tag.strip()
    for begins, ends in (("START_", "END_"), ("begin_of_", "end_of_")):
        if begins in tag:
            return tag.replace(begins, ends)
    if tag.startswith("<|"):
        return None
    return f"{tag[0]}/{tag[1:]}"


def _is_thought(text: str) -> bool:
    """Return whether a text is nothing but the end of a thought, or a whole one."""
    return open_thought(text) is None and not after_thought(text).strip()


def _name(tokenizer: Any) -> str:
    return tokenizer.name_or_path or type(tokenizer).__name__


def _error(tokenizer: Any, problem: str) -> ValueError:
    return ValueError(
        f"The chat template of {_name(tokenizer)!r} {problem}. Take another model, or put a chat_template.jinja that "
        "renders a user's turn as it is, and then the beginning of an answer, into the folder of the model."
    )
