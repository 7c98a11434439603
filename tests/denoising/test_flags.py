import pytest
import torch
from processes import in_processes, split

from llmhd_pl.denoising.flags import flag

NAN = float("nan")


def test_newly_confident_exactly_once_and_in_the_right_epoch() -> None:
    flags = torch.zeros(4, dtype=torch.uint8)
    keys = [
        [9.0, 8.0, 1.0, 0.0],
        [0.0, 9.0, 8.0, 1.0],
        [9.0, 8.0, 0.0, 1.0],
        [9.0, 8.0, 0.0, 1.0],
        [9.0, 1.0, 8.0, 0.0],
    ]
    confident = [flag(torch.tensor(key), 0.5, flags, 3).tolist() for key in keys]
    assert confident == [
        [False, False, False, False],
        [False, False, False, False],
        [False, True, False, False],  # 1 was flagged three times, in every epoch
        [True, False, False, False],  # 0 for the third time, after a gap; 1 is not new any more
        [False, False, False, False],
    ]
    assert flags.tolist() == [4, 4, 2, 0]


def test_a_confidence_of_one_epoch() -> None:
    flags = torch.zeros(2, dtype=torch.uint8)
    assert flag(torch.tensor([1.0, 2.0]), 0.5, flags, 1).tolist() == [False, True]
    assert flag(torch.tensor([1.0, 2.0]), 0.5, flags, 1).tolist() == [False, False]


def test_the_lowest_variance_is_flagged_by_its_negative_and_no_variance_never_is() -> None:
    variance = torch.tensor([0.3, NAN, 0.0, 0.2, NAN, 0.1])
    flags = torch.zeros(6, dtype=torch.uint8)
    flag(-variance, 0.5, flags, 3)
    assert flags.tolist() == [0, 0, 1, 0, 0, 1]
    flag(-variance, 1.0, flags, 3)
    assert flags.tolist() == [1, 0, 2, 1, 0, 2]


def test_the_count_ends_at_255_and_is_not_news_again() -> None:
    flags = torch.full((1,), 253, dtype=torch.uint8)
    assert [flag(torch.ones(1), 1.0, flags, 254).tolist() for _ in range(4)] == [[True], [False], [False], [False]]
    assert flags.tolist() == [255]


@pytest.mark.parametrize("fraction", [0.2, 0.7])
def test_two_processes_flag_what_one_flags(fraction: float) -> None:
    generator = torch.Generator().manual_seed(3)
    owner = torch.randint(2, (100,), generator=generator)
    keys = torch.rand(4, 100, generator=generator)
    whole = torch.zeros(100, dtype=torch.uint8)
    parts = [torch.zeros(100, dtype=torch.uint8) for _ in range(2)]
    for key in keys:
        confident = flag(key, fraction, whole, 2)
        found = in_processes(
            2, lambda process, reduce, key=key: flag(split(key, owner, process), fraction, parts[process], 2, reduce)
        )
        assert torch.equal(found[0] | found[1], confident)
    assert torch.equal(parts[0] + parts[1], whole)
