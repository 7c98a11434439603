"""What changes while a model trains: the drop rate (docs/paper.md, section 1) and the thresholds (section 3)."""


def ramp(iteration: float, length: int, start: float, end: float) -> float:
    """Return a value that goes in a straight line from ``start`` at iteration 0 to ``end`` at iteration ``length``.

    From then on it stays at ``end``. With ``start = 0`` and ``end = eps_l_max`` it is the drop rate,
    ``min(eps_l_max * T / alpha, eps_l_max)``.

    Args:
        iteration: The number of optimiser steps (not epochs) taken so far, T; inf for a run without an end.
        length: The number of iterations until ``end`` is reached, alpha; at least 1.
        start: The value at T = 0.
        end: The value from T = ``length`` on.
    """
    return start + (end - start) * min(iteration / length, 1.0)
