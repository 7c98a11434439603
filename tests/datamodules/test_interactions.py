from math import nan
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import make, pairs_of

from llmhd_pl.datamodules.interactions import pair_keys, unique_pairs


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4))), st.sampled_from([np.int32, np.int64, np.uint16]))
def test_unique_pairs_sorts_and_drops_repetitions(pairs: list[tuple[int, int]], dtype: Any) -> None:
    table = np.array(pairs, dtype=dtype).reshape(-1, 2)
    unique = unique_pairs(table[:, 0], table[:, 1], 5)
    assert unique.dtype == torch.int64 and pairs_of(unique) == sorted(set(pairs))
    keys = pair_keys(unique, 5)
    assert keys.tolist() == [5 * user + item for user, item in sorted(set(pairs))]


def test_pair_keys_of_int32_ids_do_not_overflow() -> None:
    big = np.array([2**31 - 1], dtype=np.int32)
    assert pairs_of(unique_pairs(big, big, 2**31)) == [(2**31 - 1, 2**31 - 1)]


def test_users_and_items_without_interactions_are_fine() -> None:
    data = make(4, 5, [(1, 1)], items=[{}] * 5)
    assert (data.num_users, data.num_items, len(data.valid)) == (4, 5, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": [(0, 0), (3, 1)]}, "train interaction 1 names user 3, but the users are numbered 0 to 2. Repair"),
        ({"train": [(-1, 0), (0, 1)]}, "train interaction 0 names user -1"),
        ({"valid": [(0, 4)]}, "valid interaction 0 names item 4, but the items are numbered 0 to 3"),
        ({"test": [(0, -2)]}, "test interaction 0 names item -2"),
        ({"low_rated": torch.tensor([[0, 4]])}, "low-rated interaction 0 names item 4"),
        ({"train": []}, "no training interaction"),
        ({"valid": [(0, 1), (1, 1)], "test": [(1, 1)]}, "1 interactions are in both valid and test, .* user 1 .* 1"),
        ({"train": [(0, 1), (2, 3)], "test": [(0, 1), (2, 3)]}, "2 interactions are in both train and test"),
        ({"train": [(2, 3)], "valid": [(2, 3)]}, "both train and valid, for example user 2 with item 3. .* disjoint"),
        ({"train": [(0, 1), (2, 3), (2, 3)]}, "train holds user 2 with item 3 twice"),
        ({"test": [(1, 0), (1, 0)]}, "test holds user 1 with item 0 twice"),
        ({"items": [{}] * 3}, "3 item texts for 4 items"),
        ({"user_names": ["a"]}, "1 user names for 3 users"),
        ({"item_names": ["a"] * 5}, "5 item names for 4 items"),
        ({"train_kinds": torch.zeros(2, dtype=torch.int8)}, "2 train_kinds for 1 training interactions"),
        ({"low_rated": torch.tensor([[0.0, nan]])}, r"low-rated is torch.float32 \[1, 2\]; .* torch.int64 \[n, 2\]"),
        ({"low_rated": torch.tensor([0, 1])}, r"low-rated is torch.int64 \[2\]"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^small: .*" + message):
        make(3, 4, **({"train": [(0, 0)]} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": [(2, 3), (0, 0), (2, 3)]}, "train holds user 'carol' with item 'w' twice"),
        ({"valid": [(1, 1)], "test": [(1, 1)]}, "for example user 'bob' with item 'y'"),
    ],
)
def test_users_and_items_are_called_what_the_source_calls_them(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(3, 4, **({"train": [(0, 0)]} | changes), user_names=["anna", "bob", "carol"], item_names=list("xyzw"))
