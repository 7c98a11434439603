import pytest

from llmhd_pl.denoising.schedules import ramp


@pytest.mark.parametrize(
    ("iteration", "length", "start", "end", "expected"),
    [
        (0, 4, 0.0, 0.2, 0.0),
        (1, 4, 0.0, 0.2, 0.05),  # min(.2 * 1 / 4, .2)
        (4, 4, 0.0, 0.2, 0.2),
        (1000, 4, 0.0, 0.2, 0.2),
        (7_500, 10_000, 0.0, 0.1, 0.075),
        (0, 1, 0.0, 0.1, 0.0),
        (1, 1, 0.0, 0.1, 0.1),
        (0, 30_000, 7.0, 3.0, 7.0),  # eps_pair falls
        (15_000, 30_000, 7.0, 3.0, 5.0),
        (30_001, 30_000, 7.0, 3.0, 3.0),
        (5, 10, 8.0, 6.0, 7.0),  # eps_pos falls
        (5, 10, 2.0, 4.0, 3.0),  # eps_neg rises
    ],
)
def test_a_straight_line_that_stays_at_its_end(
    iteration: int, length: int, start: float, end: float, expected: float
) -> None:
    assert ramp(iteration, length, start, end) == pytest.approx(expected, abs=1e-12)
