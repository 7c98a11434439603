"""What the language model is asked and how its answers are read. The wording is in ``templates/*.toml``.

Item texts and preferences are data that somebody else wrote. They stand between tags that they cannot close, and every
prompt says that nothing between these tags is an instruction.
"""

import hashlib
import html
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmhd_pl.llm.texts import approximate_tokens, as_data, beginning_as_data, truncate, well_formed
from llmhd_pl.llm.thoughts import after_thought

T_SUM, T_SCORE, T_FP, T_FN = "T_sum", "T_score", "T_FP", "T_FN"
TEMPLATES = (T_SUM, T_SCORE, T_FP, T_FN)
"""The paper's names of the four prompts: summarise, score, revise by disliked items, and revise by liked items."""
T_LIKELIHOOD = "likelihood"
"""The name under which log-likelihoods are counted and kept, beside those of the paper's four prompts."""

MAX_WORDS = 100
"""The most words of a summary or a profile, as in the paper. The rest of a longer answer is cut off."""

NO_TEXT = "(no description)"
"""The profile of an item without any text."""

_CHARACTERS_PER_TOKEN = 64  # of a field are looked at; few words of any language are so long
_CHARACTERS_PER_WORD = 32  # of a summary, on average at most

_FOLDER = Path(__file__).parent / "templates"

# Controls, the bidirectional ones (what is read would not be what is asked), other line ends, and no characters at all.
_NO_TEXT_CHARACTER = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]"
)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
# What each prompt must contain: its placeholders, in this order, and the tag that its answer is read from.
_INSTRUCTIONS = ("role", "guard")
_FENCED = {
    T_SUM: ("profiles",),
    T_SCORE: ("preference", "profile"),
    T_FP: ("preference", "profiles"),
    T_FN: ("preference", "profiles"),
}
_ANSWER_TAGS = {T_SUM: "<summarization>", T_SCORE: "<s>", T_FP: "<profile>", T_FN: "<profile>"}


def item_profile(
    fields: Mapping[str, str], max_tokens: int = 256, count_tokens: Callable[[str], int] = approximate_tokens
) -> str:
    """Describe an item on one line: its title, then ``name: value`` for every other field that is not empty.

    Args:
        fields: The text fields. The title is the first one whose name ends in "title" or "name".
        max_tokens: The most tokens of the result; what does not fit is cut off at the end.
        count_tokens: A function that counts the tokens of a text.

    Returns:
        For example ``Elsewhere | author: Gabrielle Zevin``, or ``(no description)`` for an item without text.
    """
    most = _CHARACTERS_PER_TOKEN * max_tokens
    texts = {name: beginning_as_data(text, most, html.unescape) for name, text in fields.items()}
    title = next((name for name in texts if name.lower().endswith(("title", "name"))), None)
    parts = [texts.pop(title)] if title is not None else []
    parts += [f"{as_data(name.replace('_', ' '))[:most]}: {text}" for name, text in texts.items() if text]
    return truncate(" | ".join(part for part in parts if part) or NO_TEXT, max_tokens, count_tokens)


def sample_history(
    profiles: Sequence[str],
    max_tokens: int,
    seed: int,
    user: int,
    count_tokens: Callable[[str], int] = approximate_tokens,
) -> list[str]:
    """Return the whole history if it fits the budget, otherwise a random part of it in the original order.

    The part depends on nothing but the seed, the user and the profiles, so that a resumed run asks the same.

    Args:
        profiles: The profiles of the items in the history, at least one.
        max_tokens: The most tokens of all profiles together, numbered as in ``Prompts.summarize``. If not even one
            fits, one is kept and truncated.
        seed: The seed of the run.
        user: The number of the user.
        count_tokens: A function that counts the tokens of a text.
    """
    tokens = [count_tokens(f"{len(profiles)}. {profile}\n") for profile in profiles]
    if sum(tokens) <= max_tokens:
        return list(profiles)
    keys = [hashlib.sha256(f"{seed} {user} {well_formed(profile)}".encode()).digest() for profile in profiles]
    order = sorted(range(len(profiles)), key=lambda place: (keys[place], place))
    kept, left = [], max_tokens
    for place in order:
        left -= tokens[place]
        if left < 0:
            break  # going on to shorter profiles would favour items about which little is known
        kept.append(place)
    if not kept:
        room = max_tokens - count_tokens("1. \n")
        return [truncate(profiles[order[0]], room, count_tokens)]
    return [profiles[place] for place in sorted(kept)]


@dataclass(frozen=True)
class Prompts:
    """The four prompts for items of one kind. Create it with ``Prompts.load``.

    Attributes:
        name: The name of the bundled set, or the path of the file.
        texts: The role, the guard and the four templates, by name.
    """

    name: str
    texts: Mapping[str, str]

    @classmethod
    def load(cls, name_or_path: str) -> "Prompts":
        """Read a set of prompts.

        Args:
            name_or_path: ``books``, ``businesses``, ``films``, ``games`` or ``neutral``, or the path of a TOML file of
                your own in the same form.

        Raises:
            FileNotFoundError: If it is neither one of these names nor a file.
            ValueError: If the file is not TOML, or if a key, a placeholder or the tag of an answer is missing, unknown
                or misplaced. The message names the file and the key.
        """
        bundled = sorted(path.stem for path in _FOLDER.glob("*.toml"))
        path = _FOLDER / f"{name_or_path}.toml" if name_or_path in bundled else Path(name_or_path)
        if not path.is_file():
            raise FileNotFoundError(
                f"There are no prompts {name_or_path!r}: it is neither one of {', '.join(bundled)} nor a file. "
                "Give one of these names, or the path of a TOML file in the same form."
            )
        try:
            texts = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a TOML file in UTF-8: {error}.") from error
        _check(path, texts)
        name = name_or_path if name_or_path in bundled else str(path)
        return cls(name, {key: text.strip() for key, text in texts.items()})

    @property
    def hash(self) -> str:
        """The SHA-256 of the wording in hexadecimal. Comments in the file do not count."""
        return hashlib.sha256(json.dumps(dict(self.texts), sort_keys=True).encode()).hexdigest()

    def summarize(self, profiles: Sequence[str]) -> str:
        """Render T_sum: write down a user's preference, given the items in their history.

        Args:
            profiles: The profiles of the items, at least one.
        """
        return self._render(self.texts[T_SUM], profiles=_numbered(profiles))

    def score_prefix(self, preference: str) -> str:
        """Render the beginning of T_score, which is the same for all items of a user. It ends with a line break.

        Args:
            preference: The user's preference, as a summary or a revision gave it; not empty.
        """
        return self._render(self._score_parts()[0], preference=_preference(preference))

    def score_suffix(self, profile: str) -> str:
        """Render the rest of T_score: one item and the question. The prompt is the prefix plus the suffix.

        Args:
            profile: The profile of the item.
        """
        return self._render(self._score_parts()[1], profile=f"<item>\n{as_data(profile) or NO_TEXT}\n</item>")

    def revise(self, preference: str, profiles: Sequence[str], liked: bool) -> str:
        """Render T_FN or T_FP: rewrite a preference, given items that the user is, or is not, interested in.

        Args:
            preference: The current preference, not empty.
            profiles: The profiles of the items, at least one.
            liked: Whether the user is interested in these items (T_FN) or not (T_FP).
        """
        template = self.texts[T_FN if liked else T_FP]
        return self._render(template, preference=_preference(preference), profiles=_numbered(profiles))

    def _score_parts(self) -> tuple[str, str]:
        user, placeholder, question = self.texts[T_SCORE].partition("{profile}")
        return user, placeholder + question

    def _render(self, template: str, **data: str) -> str:
        values = {key: self.texts[key] for key in _INSTRUCTIONS} | data
        # In one pass, so that braces in an item's text stay text.
        return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def parse_summary(answer: str) -> str | None:
    """Return the text of an answer's one ``<summarization>`` on one line, or None if there is not exactly one."""
    return _parse_tagged(answer, "summarization")


def parse_profile(answer: str) -> str | None:
    """Return the text of an answer's one ``<profile>`` on one line, or None if there is not exactly one."""
    return _parse_tagged(answer, "profile")


def parse_score(answer: str) -> int | None:
    """Return N if the answer is ``<s>N</s>``, with N from 1 to 10, else None.

    There may be white space around it, and a finished thought before it.
    """
    match = re.fullmatch(r"<s>([1-9]|10)</s>", after_thought(answer).strip())
    return None if match is None else int(match[1])


def _parse_tagged(answer: str, tag: str) -> str | None:
    answer, opening, closing = after_thought(answer), f"<{tag}>", f"</{tag}>"
    # With two of them, the model thinks aloud or repeats the question, and nobody can say which one it means.
    if answer.count(opening) != 1 or answer.count(closing) != 1:
        return None
    text = as_data(answer.partition(opening)[2].partition(closing)[0])
    # The prompts themselves show "..." between the tags.
    text = " ".join(text.split()[:MAX_WORDS])[: MAX_WORDS * _CHARACTERS_PER_WORD].rstrip()
    return text if any(character.isalnum() for character in text) else None


def _numbered(profiles: Sequence[str]) -> str:
    if not profiles:
        raise ValueError("There are no items to ask about. Leave out users without any.")
    lines = [f"{number}. {as_data(profile) or NO_TEXT}" for number, profile in enumerate(profiles, 1)]
    return "\n".join(["<items>", *lines, "</items>"])


def _preference(preference: str) -> str:
    text = as_data(preference)
    if not text:
        raise ValueError("The preference is empty. A user without one cannot be asked about; leave them out.")
    return f"<preference>\n{text}\n</preference>"


def _check(path: Path, texts: Mapping[str, object]) -> None:
    """Refuse a file whose prompts would not ask what they must, before anything is asked."""
    keys = {*_INSTRUCTIONS, *TEMPLATES}
    for key in sorted(keys ^ texts.keys()):
        what = "is missing" if key in keys else f"is unknown; the keys are {', '.join(sorted(keys))}"
        raise ValueError(f"{path}: key {key!r} {what}.")
    for key, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{path}: key {key!r} must be a text.")
        if (wrong := _NO_TEXT_CHARACTER.search(text)) is not None:
            raise ValueError(
                f"{path}: key {key!r} holds U+{ord(wrong[0]):04X}, which is no character of a text; remove it. Of the "
                "control characters, only line breaks and tabs can be asked."
            )
        found = _PLACEHOLDER.findall(text)
        fenced = _FENCED.get(key, ())
        wanted = (*_INSTRUCTIONS, *fenced) if key in TEMPLATES else ()
        for name in found:
            if name not in wanted:
                known = ", ".join(f"{{{known}}}" for known in wanted) or "none"
                raise ValueError(f"{path}: key {key!r} holds an unknown placeholder {{{name}}}; known here: {known}.")
        for name in wanted:
            if found.count(name) != 1:
                raise ValueError(
                    f"{path}: key {key!r} holds {{{name}}} {found.count(name)} times; it must hold it once."
                )
        for name in fenced:
            # No token may cross the border between the item and what is computed once per user.
            if not re.search(rf"^\{{{name}\}}$", text, re.MULTILINE):
                raise ValueError(f"{path}: key {key!r}: {{{name}}} must stand alone on its line.")
        if key == T_SCORE and found[-1] != "profile":
            raise ValueError(
                f"{path}: key {key!r}: {{profile}} must come after {{{found[-1]}}}, because everything before the item "
                "is computed once per user."
            )
        if key in TEMPLATES and _ANSWER_TAGS[key] not in text:
            raise ValueError(
                f"{path}: key {key!r} must ask for an answer in {_ANSWER_TAGS[key]}, because it is read from there."
            )
