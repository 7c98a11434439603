"""Checks of arguments. NaN compares as False with everything, so each check states what is right."""

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


def check_split(split: str, ratios: tuple[float, float, float]) -> None:
    """Refuse a way to split that does not exist, or shares that are none.

    Args:
        split: The argument ``split``.
        ratios: The argument ``split_ratios``: the shares of the training, validation and test split.

    Raises:
        ValueError: If the way is neither "random" nor "temporal", or the ratios are not three shares that sum to 1, of
            which the first is above 0.
    """
    if split not in ("random", "temporal"):
        raise ValueError(f"split is {split!r}; it must be 'random' or 'temporal'.")
    shares = len(ratios) == 3 and all(0 <= share <= 1 for share in ratios) and ratios[0] > 0
    if not shares or abs(sum(ratios) - 1) > 1e-6:
        raise ValueError(f"split_ratios is {ratios}; it must be three shares that sum to 1, the first above 0.")
