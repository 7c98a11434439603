"""Other people's texts made fit for a prompt: harmless, on one line, and no longer than the budget allows."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache

# Without these, no text can close a tag, open another one, or spell a control token (<s>, <|im_end|>, [INST]).
_HARMLESS = {"<": "(", ">": ")", "[": "(", "]": ")"}
_MOST_MARKS = 30  # in a row, as in Unicode's stream-safe text format: normalising takes the square of their number


def item_title(fields: Mapping[str, str], otherwise: str) -> str:
    """Return what to call an item in a report: its first field whose name ends in "title" or "name".

    Args:
        fields: The text fields of the item.
        otherwise: The answer if there is no such field.
    """
    return next((text for name, text in fields.items() if name.lower().endswith(("title", "name"))), otherwise)


def approximate_tokens(text: str) -> int:
    """Estimate the tokens of a text without a tokenizer: one for every four bytes of UTF-8, rounded up."""
    return -(-len(text.encode(errors="surrogatepass")) // 4)


def well_formed(text: str) -> str:
    """Return a text with U+FFFD instead of halves of characters (lone surrogates), which no encoder can encode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def as_data(text: str) -> str:
    """Return a text as one line that may stand between tags.

    Angle and square brackets become round ones, and control characters and invisible ones are removed, lone surrogates
    among them. Because every item is one line, its text cannot begin an item of its own with a number. More than 30
    marks on one letter are no writing; the rest of them is removed.

    Args:
        text: Any text, of any length: two megabytes take less than a second.
    """
    text = " ".join(text.split())
    if not text.isprintable():
        text = "".join(character for character in text if character.isprintable())
    if not text.isascii():
        # Compatibility forms first: a tokenizer that normalises would turn a full-width "<" into a real one afterwards.
        text = _without_piles(unicodedata.normalize("NFKD", _without_piles(text)))
    for harmful, harmless in _HARMLESS.items():
        text = text.replace(harmful, harmless)
    while "  " in text:  # a form may have held a space; splitting takes longer
        text = text.replace("  ", " ")
    return unicodedata.normalize("NFC", text).strip()


def _without_piles(text: str) -> str:
    """Return a text with at most 30 marks in a row."""
    quick, exact = _piles()
    return exact.sub(lambda marks: marks[0][:_MOST_MARKS], text) if quick.search(text) else text


@cache
def _piles() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return patterns of many marks in a row: a quick one that takes any rare character for a mark, and an exact one.

    A character that stands for several marks is a mark, too.
    """
    codes = range(0x300, 0x1F000)  # outside of these there are no marks
    marks = [code for code in codes if unicodedata.combining(unicodedata.normalize("NFKD", chr(code))[0])]
    common, rare = ("".join(chr(code) for code in marks if (code > 0xFFFF) == above) for above in (False, True))
    quick, exact = f"[{common}\U00010000-\U0010ffff]", f"[{common}{rare}]"
    return re.compile(f"{quick}{quick}{{{_MOST_MARKS},}}"), re.compile(f"{exact}{exact}{{{_MOST_MARKS},}}")


def beginning_as_data(text: str, characters: int, decode: Callable[[str], str]) -> str:
    """Return ``as_data(decode(text))``, or the beginning of it if the text is long, without reading all of the text.

    Args:
        text: Any text.
        characters: The most characters of the result if the text is more than twice as long.
        decode: What is to be done before ``as_data``, such as ``html.unescape``.
    """
    size = 2 * characters
    while True:
        data = as_data(decode(text[:size]))
        if size >= len(text):
            return data
        if len(data) > characters:  # what the cut has spoilt is behind it
            return data[:characters].rstrip()
        size *= 8


def truncate(text: str, max_tokens: int, count_tokens: Callable[[str], int] = approximate_tokens) -> str:
    """Return the beginning of a text, cut between words if possible, with "..." instead of the rest.

    The time it takes depends on ``max_tokens`` and hardly on the length of the text.

    Args:
        text: Any text.
        max_tokens: The most tokens that the result may have, including the dots.
        count_tokens: A function that counts the tokens of a text.

    Raises:
        ValueError: If not even the dots fit.
    """
    # A beginning that is certainly too long: a cut within a word may cost a few tokens, but not as many again.
    too_long = max(64, 8 * max_tokens)
    while too_long < len(text) and count_tokens(text[:too_long]) <= 2 * max_tokens + 16:
        too_long *= 2
    if too_long >= len(text) and count_tokens(text) <= max_tokens:
        return text
    if count_tokens("...") > max_tokens:
        raise ValueError(f"A budget of {max_tokens} tokens has no room for any text; allow more.")
    low, high = 0, len(text) - 1
    while low < high:
        middle = (low + high + 1) // 2
        fits = middle < too_long and count_tokens(text[:middle] + "...") <= max_tokens
        low, high = (middle, high) if fits else (low, middle - 1)
    cut = text[:low]
    if text[low] != " ":
        cut = cut.rpartition(" ")[0] or cut
    while count_tokens(cut.rstrip() + "...") > max_tokens:  # rare: a shorter text can have more tokens
        cut = cut[:-1]
    return cut.rstrip() + "..."
