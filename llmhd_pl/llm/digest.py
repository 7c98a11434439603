"""The hash that names things by their content."""

import hashlib
from pathlib import Path


def digest(*parts: bytes) -> str:
    """Return the BLAKE2b hash of byte strings as 32 hexadecimal digits.

    Args:
        parts: The byte strings, in order. Their borders count: ("ab", "c") is not ("a", "bc").
    """
    whole = hashlib.blake2b(digest_size=16)
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()


def file_digest(path: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a file.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
