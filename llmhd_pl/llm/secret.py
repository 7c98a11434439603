"""Keeps keys and passwords out of messages: a server may send back what it was sent, in any spelling."""

import re
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import SplitResult, unquote, urlsplit

_SHORT = 4  # of so few characters, a secret is looked for between other words only: "x" is in every message
_SHOWN = 300  # characters of somebody else's text in a message
_SEARCHED = 100_000  # characters of it that are looked at


class Secrets:
    """What no message may show.

    Args:
        secrets: The keys and passwords.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        patterns = [_in_any_spelling(secret) for secret in sorted(set(secrets), key=len, reverse=True) if secret]
        self._pattern = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None

    def mask(self, text: str) -> str:
        """Return a text with stars in place of every secret, also if it is escaped for a URL, JSON or HTML.

        Args:
            text: Any text.
        """
        return text if self._pattern is None else self._pattern.sub("***", text)

    def mask_beginning(self, text: str) -> str:
        """Return the beginning of a text that may be very long, with stars in place of every secret.

        Args:
            text: Any text.
        """
        # No half of a secret stays at the end: it would be masked if it were whole, so it lies in what is cut off.
        return self.mask(text[: 2 * _SEARCHED])[:_SEARCHED]

    def quote(self, text: str) -> str:
        """Return the beginning of somebody else's text without secrets on one line, as a message may show it.

        Args:
            text: Any text.
        """
        shown = " ".join(self.mask_beginning(text).split())
        shown = "".join(character if character.isprintable() else "?" for character in shown[: _SHOWN + 1])
        return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."


def without_password(url: str) -> tuple[str, str | None, list[str]]:
    """Take user and password out of a URL.

    Args:
        url: A URL like ``http://user:password@host/v1``.

    Returns:
        The URL without them, the value of the header ``Authorization`` that says the same (None if there are none), and
        what must be kept secret.

    Raises:
        ValueError: If it is no URL of HTTP. The message does not show the password.
    """
    shown = f"***@{url.rpartition('@')[2]}" if "@" in url else url
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"base_url is {shown!r}; it must begin with http:// or https://, followed by the name of a host and, if "
            "needed, the number of a port."
        )
    if "@" not in parts.netloc:
        return url, None, []
    given, _, host = parts.netloc.rpartition("@")
    user, _, password = given.partition(":")
    basic = b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    secrets = [given, basic, password, unquote(password)]
    return parts._replace(netloc=host).geturl(), f"Basic {basic}", secrets if password else [*secrets, user]


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is only read, and may be no number, when it is asked for
    except ValueError:
        return None
    return parts


def _in_any_spelling(secret: str) -> str:
    """Return a pattern for a secret, each character of which may be escaped."""
    pattern = ""
    for character in secret:
        code = ord(character)
        plain = rf"\\*{re.escape(character)}"
        escaped = rf"\\+u{code:04x}|\\+x{code:02x}|%(?:25)*{code:02x}|&#0*{code};|&#x0*{code:x};"
        named = {"&": "|&amp;", "<": "|&lt;", ">": "|&gt;", '"': "|&quot;", "'": "|&apos;", " ": r"|\+"}
        pattern += f"(?:{plain}|{escaped}{named.get(character, '')})"
    return pattern if len(secret) >= _SHORT else rf"(?<![\w*]){pattern}(?![\w*])"
