"""What the language model is asked, and how its answers are read. The wording is in ``templates/*.toml``.

Item texts and preferences are data that somebody else wrote. They stand between tags that they cannot close, and every
prompt says that nothing between those tags is an instruction.
"""

import hashlib
import html
import json
import re
import tomllib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

T_SUM, T_SCORE, T_FP, T_FN = "T_sum", "T_score", "T_FP", "T_FN"
TEMPLATES = (T_SUM, T_SCORE, T_FP, T_FN)
"""The paper's names of the four prompts: summarise, score, revise by disliked and revise by liked items."""

MAX_WORDS = 100
"""Longest summary or profile, in words, as in the paper; the rest of a longer answer is cut off."""

NO_TEXT = "(no description)"

_FOLDER = Path(__file__).parent / "templates"
# What the data modules call their items; the other names are file names.
_DOMAINS = {"items": "neutral", "local businesses": "businesses"}

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
# What each prompt must hold: its placeholders, in this order, and the tag that its answer is read from.
_INSTRUCTIONS = ("role", "guard")
_FENCED = {
    T_SUM: ("profiles",),
    T_SCORE: ("preference", "profile"),
    T_FP: ("preference", "profiles"),
    T_FN: ("preference", "profiles"),
}
_ANSWER_TAGS = {T_SUM: "<summarization>", T_SCORE: "<s>", T_FP: "<profile>", T_FN: "<profile>"}

# Without these no text can close a fence, open another, or spell a control token (<s>, <|im_end|>, [INST]) of a model.
_HARMLESS = str.maketrans("<>[]", "()()")


def approximate_tokens(text: str) -> int:
    """Tokens of a text when no tokenizer is at hand: one per four bytes of UTF-8, rounded up."""
    return -(-len(text.encode()) // 4)


def as_data(text: str) -> str:
    """One line that may stand between tags: no angle or square brackets, no control or invisible characters.

    One line per item also keeps a text from starting an item, with a number, of its own.
    """
    text = " ".join(text.split())
    if not text.isprintable():
        text = "".join(character for character in text if character.isprintable())
    # Compatibility forms first: tokenizers that normalise would turn a full-width "<" into a real one after the check.
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFKD", text).translate(_HARMLESS))
    return " ".join(text.split())


def truncate(text: str, max_tokens: int, count_tokens: Callable[[str], int] = approximate_tokens) -> str:
    """The beginning of a text, cut between words where there are any, with "..." in place of the rest.

    Args:
        text: any text.
        max_tokens: budget for the result, dots included.
        count_tokens: tokens of a text.

    Raises:
        ValueError: not even the dots fit.
    """
    if count_tokens(text) <= max_tokens:
        return text
    if count_tokens("...") > max_tokens:
        raise ValueError(f"A budget of {max_tokens} tokens has no room for any text; allow more.")
    low, high = 0, len(text) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count_tokens(text[:middle] + "...") <= max_tokens else (low, middle - 1)
    cut = text[:low]
    if text[low] != " ":
        cut = cut.rpartition(" ")[0] or cut
    while count_tokens(cut.rstrip() + "...") > max_tokens:  # rare: a shorter text can have more tokens
        cut = cut[:-1]
    return cut.rstrip() + "..."


def item_profile(
    fields: Mapping[str, str], max_tokens: int = 256, count_tokens: Callable[[str], int] = approximate_tokens
) -> str:
    """The text of an item, on one line: its title, then ``name: value`` of every other field that says anything.

    Args:
        fields: text fields; the title is the first one whose name ends in "title" or "name".
        max_tokens: budget; what does not fit is cut off at the end.
        count_tokens: tokens of a text.

    Returns:
        For example ``Elsewhere | author: Gabrielle Zevin``, or ``(no description)`` for an item without text.
    """
    texts = {name: as_data(html.unescape(text)) for name, text in fields.items()}
    title = next((name for name in texts if name.lower().endswith(("title", "name"))), None)
    parts = [texts.pop(title)] if title is not None else []
    parts += [f"{as_data(name.replace('_', ' '))}: {text}" for name, text in texts.items() if text]
    return truncate(" | ".join(part for part in parts if part) or NO_TEXT, max_tokens, count_tokens)


def sample_history(
    profiles: Sequence[str],
    max_tokens: int,
    seed: int,
    user: int,
    count_tokens: Callable[[str], int] = approximate_tokens,
) -> list[str]:
    """The history itself where it fits the budget, otherwise a random part of it, in its own order.

    Which part is a function of the seed, the user and the profiles alone, so that a resumed run asks the same.

    Args:
        profiles: one text per item of the history, not empty.
        max_tokens: budget of all of them, numbered as ``Prompts.summarize`` does; one always stays, truncated.
        seed: seed of the run.
        user: number of the user.
        count_tokens: tokens of a text.
    """
    tokens = [count_tokens(f"{len(profiles)}. {profile}\n") for profile in profiles]
    if sum(tokens) <= max_tokens:
        return list(profiles)
    keys = [hashlib.sha256(f"{seed} {user} {profile}".encode()).digest() for profile in profiles]
    order = sorted(range(len(profiles)), key=lambda place: (keys[place], place))
    kept, left = [], max_tokens
    for place in order:
        left -= tokens[place]
        if left < 0:
            break  # going on to shorter ones would favour items of which little is known
        kept.append(place)
    if not kept:
        room = max_tokens - count_tokens("1. \n")
        return [truncate(profiles[order[0]], room, count_tokens)]
    return [profiles[place] for place in sorted(kept)]


@dataclass(frozen=True)
class Prompts:
    """The four prompts of one domain. Make it with ``Prompts.load``.

    Attributes:
        name: the domain, or the path of the file.
        texts: role, guard and the four templates, by name.
    """

    name: str
    texts: Mapping[str, str]

    @classmethod
    def load(cls, name_or_path: str) -> "Prompts":
        """Read a set of prompts.

        Args:
            name_or_path: ``books``, ``businesses``, ``games``, ``films`` or ``neutral`` (or the ``domain`` of one of
                our data modules), or the path of a file of one's own in the same form.

        Raises:
            FileNotFoundError: neither a domain nor a file.
            ValueError: the file is not TOML, or a key, a placeholder or an answer's tag is missing, unknown or
                misplaced; file and key are named.
        """
        bundled = sorted(path.stem for path in _FOLDER.glob("*.toml"))
        name = _DOMAINS.get(name_or_path, name_or_path)
        path = _FOLDER / f"{name}.toml" if name in bundled else Path(name_or_path)
        if not path.is_file():
            raise FileNotFoundError(
                f"There are no prompts {name_or_path!r}: it is neither one of {', '.join(bundled)} nor a file. "
                "Give one of these names, or the path of a TOML file in their form."
            )
        try:
            texts = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a TOML file in UTF-8: {error}.") from error
        _check(path, texts)
        return cls(name if name in bundled else str(path), {key: text.strip() for key, text in texts.items()})

    @property
    def hash(self) -> str:
        """SHA-256 of the wording, in hexadecimal; comments in the file do not count."""
        return hashlib.sha256(json.dumps(dict(self.texts), sort_keys=True).encode()).hexdigest()

    def summarize(self, profiles: Sequence[str]) -> str:
        """T_sum: write down the preference of a user from the items of their history.

        Args:
            profiles: one text per item, not empty.
        """
        return self._render(self.texts[T_SUM], profiles=_numbered(profiles))

    def score_prefix(self, preference: str) -> str:
        """The beginning of T_score, the same for all items of a user; it ends with a line break.

        Args:
            preference: what a summary or a revision answered, not empty.
        """
        return self._render(self._score_parts()[0], preference=_preference(preference))

    def score_suffix(self, profile: str) -> str:
        """The rest of T_score: one item and the question. Prefix + suffix is the prompt.

        Args:
            profile: the text of the item.
        """
        return self._render(self._score_parts()[1], profile=f"<item>\n{as_data(profile) or NO_TEXT}\n</item>")

    def revise(self, preference: str, profiles: Sequence[str], liked: bool) -> str:
        """T_FN (``liked``) or T_FP: rewrite a preference by items that the user is, or is not, interested in.

        Args:
            preference: the current one, not empty.
            profiles: one text per item, not empty.
            liked: whether the user is interested in these items.
        """
        template = self.texts[T_FN if liked else T_FP]
        return self._render(template, preference=_preference(preference), profiles=_numbered(profiles))

    def _score_parts(self) -> tuple[str, str]:
        user, placeholder, question = self.texts[T_SCORE].partition("{profile}")
        return user, placeholder + question

    def _render(self, template: str, **data: str) -> str:
        values = {key: self.texts[key] for key in _INSTRUCTIONS} | data
        # One pass: braces in an item's text are text.
        return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def parse_summary(answer: str) -> str | None:
    """The text of the one ``<summarization>`` of an answer, on one line, or None where there is not exactly one."""
    return _parse_tagged(answer, "summarization")


def parse_profile(answer: str) -> str | None:
    """The text of the one ``<profile>`` of an answer, on one line, or None where there is not exactly one."""
    return _parse_tagged(answer, "profile")


def parse_score(answer: str) -> int | None:
    """N of an answer that is ``<s>N</s>`` with N from 1 to 10 and, white space around it aside, nothing else."""
    match = re.fullmatch(r"<s>([1-9]|10)</s>", answer.strip())
    return None if match is None else int(match[1])


def _parse_tagged(answer: str, tag: str) -> str | None:
    opening, closing = f"<{tag}>", f"</{tag}>"
    # Two of them: a model that thinks aloud, or repeats the question. Which one is meant, nobody can say.
    if answer.count(opening) != 1 or answer.count(closing) != 1:
        return None
    text = as_data(answer.partition(opening)[2].partition(closing)[0])
    # "..." is what the prompts show between the tags.
    return " ".join(text.split()[:MAX_WORDS]) if any(character.isalnum() for character in text) else None


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
        found = _PLACEHOLDER.findall(text)
        fenced = _FENCED.get(key, ())
        wanted = (*_INSTRUCTIONS, *fenced) if key in TEMPLATES else ()
        for name in found:
            if name not in wanted:
                known = ", ".join(f"{{{known}}}" for known in wanted) or "none"
                raise ValueError(f"{path}: key {key!r} holds an unknown placeholder {{{name}}}; known here: {known}.")
        for name in wanted:
            if found.count(name) != 1:
                raise ValueError(f"{path}: key {key!r} holds {{{name}}} {found.count(name)} times; it must once.")
        for name in fenced:
            # A token must not reach over the border between what is computed once per user and the item.
            if not re.search(rf"^\{{{name}\}}$", text, re.MULTILINE):
                raise ValueError(f"{path}: key {key!r}: {{{name}}} must stand alone on its line.")
        if key == T_SCORE and found[-1] != "profile":
            raise ValueError(
                f"{path}: key {key!r}: {{profile}} must come after {{{found[-1]}}}, because everything before the item "
                "is computed once per user."
            )
        if key in TEMPLATES and _ANSWER_TAGS[key] not in text:
            raise ValueError(f"{path}: key {key!r} must ask for an answer in {_ANSWER_TAGS[key]}: it is read from it.")
