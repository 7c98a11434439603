"""Other people's texts made fit for a prompt: harmless, on one line, and no longer than the budget allows."""

import unicodedata
from collections.abc import Callable

# Without these, no text can close a tag, open another one, or spell a control token (<s>, <|im_end|>, [INST]).
_HARMLESS = str.maketrans("<>[]", "()()")


def approximate_tokens(text: str) -> int:
    """Estimate the tokens of a text without a tokenizer: one for every four bytes of UTF-8, rounded up."""
    return -(-len(text.encode(errors="surrogatepass")) // 4)


def well_formed(text: str) -> str:
    """Return a text with U+FFFD instead of halves of characters (lone surrogates), which no encoder can encode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def as_data(text: str) -> str:
    """Return a text as one line that may stand between tags.

    Angle and square brackets become round ones, and control characters and invisible ones are removed. Because every
    item is one line, its text cannot begin an item of its own with a number.
    """
    text = " ".join(text.split())
    if not text.isprintable():
        text = "".join(character for character in text if character.isprintable())
    # Compatibility forms first: a tokenizer that normalises would turn a full-width "<" into a real one afterwards.
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFKD", text).translate(_HARMLESS))
    return " ".join(text.split())


def truncate(text: str, max_tokens: int, count_tokens: Callable[[str], int] = approximate_tokens) -> str:
    """Return the beginning of a text, cut between words if possible, with "..." instead of the rest.

    Args:
        text: Any text.
        max_tokens: The most tokens that the result may have, including the dots.
        count_tokens: A function that counts the tokens of a text.

    Raises:
        ValueError: If not even the dots fit.
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
