"""What every example of a client must do in a short run with the judge."""

from typing import Any

from comparison import Train, arms, book_shop


def check_short_run(train: Train) -> None:
    clicks = book_shop(60)
    outcome: Any = train(clicks, arms(clicks, ramp_epochs=1)["judge"], epochs=2, seed=0)
    assert all(0 < value < 1 for value in outcome.measures.values())
    assert 0 < int(outcome.dropped.sum()) <= clicks.noise_rate * len(clicks.users) and 0 < outcome.precision < 1
