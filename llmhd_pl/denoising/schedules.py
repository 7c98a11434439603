"""What changes while a model trains: the drop rate (PAPER.md, section 1) and the thresholds (section 3)."""


def ramp(iteration: float, length: int, start: float, end: float) -> float:
    """A straight line from ``start`` at iteration 0 to ``end`` at iteration ``length``, and ``end`` from then on.

    With ``start = 0`` and ``end = eps_l_max`` it is the drop rate, ``min(eps_l_max * T / alpha, eps_l_max)``.

    Args:
        iteration: T, optimiser steps (not epochs) taken so far; inf for a run without an end.
        length: alpha, in iterations, at least 1.
        start: value at T = 0.
        end: value from T = ``length`` on.
    """
    return start + (end - start) * min(iteration / length, 1.0)
