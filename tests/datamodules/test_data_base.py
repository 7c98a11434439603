from typing import Any

import pytest
import torch
from small_data import InMemory, make

from llmhd_pl.datamodules import Interactions


def test_setup_numbers_the_samples_by_user_and_item_once() -> None:
    data = InMemory(make(3, 4, [(2, 1), (0, 3), (0, 1)]))
    assert (data.num_users, data.num_items) == (3, 4)
    data.setup("fit")
    users = data.train_users
    data.setup("test")
    assert data.train_users is users and data.loads == 1
    assert users.tolist() == [0, 0, 2] and data.train_items.tolist() == [1, 3, 1]
    assert users.is_contiguous() and users.dtype == torch.int64
    assert data.train_kinds is None and data.noise_mask.tolist() == [False] * 3


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (make(2, 2, [(0, 0), (1, 0), (1, 1)]), {}, "User 1 has interacted with all 2 items in train"),
        (make(1, 1, [(0, 0)]), {}, "User 0 has interacted with all 1 items in train"),
        (make(1, 3, [(0, 0)]), {"noise_ratio": 2}, "User 0 has interacted with all 3 items in train"),
        (make(1, 3, [(0, 0)]), {"negative_lifetime": 0}, "negative_lifetime is 0"),
    ],
)
def test_a_setup_that_fails_fails_again(data: Interactions, arguments: dict[str, Any], message: str) -> None:
    module = InMemory(data, **arguments)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            module.setup()


@pytest.mark.parametrize("name", ["batch_size", "eval_batch_size"])
def test_batches_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is 0; it must be at least 1"):
        InMemory(make(1, 2, [(0, 0)]), **{name: 0})
