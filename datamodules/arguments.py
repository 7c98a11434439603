"""Checks of numeric arguments. NaN compares as False with everything, so each check states what is right."""

import math
from numbers import Integral


def check_whole(name: str, value: float, least: int, what: str = "it") -> None:
    """Refuse an argument that is not a whole number, or is too small.

    Args:
        name: The name of the argument.
        value: The argument.
        least: The smallest number allowed.
        what: What the number says, for the message.

    Raises:
        ValueError: If the argument is out of range.
    """
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} is {value}; {what} must be at least {least}, and whole.")


def check_finite(name: str, value: float | None) -> None:
    """Refuse an argument that is neither None nor a finite number.

    Args:
        name: The name of the argument.
        value: The argument.

    Raises:
        ValueError: If the argument is NaN or infinite.
    """
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be a finite number, or be left out.")
