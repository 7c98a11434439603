"""Checks of hyperparameters. A number out of its range would often train, and give figures that mean nothing."""

import math
from collections.abc import Sequence
from numbers import Integral


def check_integers(least: int, **arguments: int) -> None:
    """Check numbers that count something.

    Args:
        least: The smallest number that is allowed.
        **arguments: The numbers, each under the name that the error gives it.

    Raises:
        ValueError: If one of them is not an integer of at least ``least``.
    """
    for name, value in arguments.items():
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least {least}.")


def check_widths(hidden_dims: Sequence[int]) -> None:
    """Check the widths of hidden layers.

    Raises:
        ValueError: If one of them is not an integer of at least 1.
    """
    for place, width in enumerate(hidden_dims):
        check_integers(1, **{f"hidden_dims[{place}]": width})


def check_positive(**arguments: float) -> None:
    """Check numbers, each under the name that the error gives it.

    Raises:
        ValueError: If one of them is not a finite number above 0.
    """
    for name, value in arguments.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be a positive number.")


def check_not_negative(**arguments: float) -> None:
    """Check numbers, each under the name that the error gives it.

    Raises:
        ValueError: If one of them is not a finite number of at least 0.
    """
    for name, value in arguments.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; it must be a number of at least 0.")


def check_dropped(**arguments: float) -> None:
    """Check the shares of something that is dropped, each under the name that the error gives it.

    Raises:
        ValueError: If one of them is not at least 0 and less than 1.
    """
    for name, value in arguments.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 0 and less than 1.")
