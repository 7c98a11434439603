"""Checks of arguments. NaN compares as False with everything, so each check states what is right."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, get_args


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


def check_split(split: str, ratios: tuple[float, float, float], ways: Any) -> None:
    """Refuse a way to split that does not exist, or shares that are none.

    Args:
        split: The argument ``split``.
        ratios: The argument ``split_ratios``: the shares of the training, validation and test split.
        ways: The ``Literal`` of the ways that exist.

    Raises:
        ValueError: If the way does not exist, or the ratios are not three shares that sum to 1, of which the first is
            above 0.
    """
    if split not in get_args(ways):
        *others, last = map(repr, get_args(ways))
        raise ValueError(f"split is {split!r}; it must be {', '.join(others)} or {last}.")
    shares = len(ratios) == 3 and all(0 <= share <= 1 for share in ratios) and ratios[0] > 0
    if not shares or abs(sum(ratios) - 1) > 1e-6:
        raise ValueError(f"split_ratios is {ratios}; it must be three shares that sum to 1, the first above 0.")


def check_cuts(split: str, times: Sequence[float | str] | None) -> None:
    """Refuse cut-off times for another split than the one that has them, or that are none.

    Args:
        split: The argument ``split``.
        times: The argument ``split_times``.

    Raises:
        ValueError: If there are times, but not two of them, one is NaN, infinite or empty, or the split is not
            "temporal-global".
    """
    if times is None:
        return
    if split != "temporal-global":
        raise ValueError(f"split_times is {times}, but split is {split!r}. Set split to 'temporal-global'.")
    wrong = isinstance(times, str) or len(times) != 2
    if wrong or not all(bool(time) if isinstance(time, str) else math.isfinite(time) for time in times):
        raise ValueError(
            f"split_times is {times}; it must be two times: that of the first validation interaction and that of the "
            "first test interaction."
        )
