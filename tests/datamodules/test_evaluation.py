from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import interactions, make, pairs_of, ready
from torch import Tensor

from llmhd_pl.datamodules import Interactions
from llmhd_pl.sample_weights import Batch

batch_sizes = st.integers(1, 9)


def items_by_user(batches: list[Batch], key: str) -> dict[int, list[int]]:
    """Each user's items; asserts the layout of the batches on the way."""
    found: dict[int, list[int]] = {}
    for batch in batches:
        assert list(batch) == ["user", "seen", "relevant"]
        assert all(value.dtype == torch.int64 for value in batch.values())
        assert batch["user"].dim() == 1 and batch[key].dim() == 2 and len(batch[key]) == 2
        for user in batch["user"].tolist():
            assert user not in found, "a user is ranked twice"
            found[user] = []
        for row, item in pairs_of(batch[key].T):
            found[int(batch["user"][row])].append(item)
    return {user: sorted(items) for user, items in found.items()}


def naive(users: Any, *splits: Tensor) -> dict[int, list[int]]:
    return {user: sorted(item for split in splits for u, item in pairs_of(split) if u == user) for user in users}


@given(interactions(), batch_sizes, st.integers(1, 3))
def test_evaluation_batches_equal_a_plain_reference(given_data: Interactions, batch_size: int, world_size: int) -> None:
    data = ready(given_data, eval_batch_size=batch_size)
    train, valid, test = given_data.train, given_data.valid, given_data.test
    everybody = range(given_data.num_users)
    expected: dict[str, tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]] = {
        "val": (sorted(set(valid[:, 0].tolist())), (train,), (valid,)),
        "test": (sorted(set(test[:, 0].tolist())), (train, valid), (test,)),
        "predict": (everybody, (train, valid), ()),
    }
    for split, (users, seen, relevant) in expected.items():
        loaders = []
        for rank in range(world_size):
            where = SimpleNamespace(root_device=torch.device("cpu"))
            data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, strategy=where)  # type: ignore[assignment]
            loaders.append(getattr(data, f"{split}_dataloader")())
        shares = [list(loader) for loader in loaders]
        assert {len(share) for share in shares} == {len(loaders[0])} == {-(-len(users) // (world_size * batch_size))}
        together = [batch for share in shares for batch in share]
        assert all(len(batch["user"]) <= batch_size for batch in together)
        assert items_by_user(together, "seen") == naive(users, *seen)
        assert items_by_user(together, "relevant") == naive(users, *relevant)


@settings(max_examples=20)
@given(interactions(), batch_sizes)
def test_the_loaders_serve_their_own_split(given_data: Interactions, batch_size: int) -> None:
    data = ready(given_data, eval_batch_size=batch_size)
    train, valid, test = given_data.train, given_data.valid, given_data.test
    assert items_by_user(list(data.val_dataloader()), "relevant") == naive(set(valid[:, 0].tolist()), valid)
    assert items_by_user(list(data.test_dataloader()), "relevant") == naive(set(test[:, 0].tolist()), test)
    assert items_by_user(list(data.predict_dataloader()), "seen") == naive(range(data.num_users), train, valid)


def test_evaluation_batches_by_hand() -> None:
    train, valid, test = [(0, 4), (0, 1), (3, 0)], [(0, 2), (3, 3), (3, 1)], [(1, 0)]
    data = ready(make(5, 5, train, valid, test), eval_batch_size=2)
    (batch,) = data.val_dataloader()
    assert batch["user"].tolist() == [0, 3]
    assert batch["seen"].tolist() == [[0, 0, 1], [1, 4, 0]]
    assert batch["relevant"].tolist() == [[0, 1, 1], [2, 3, 1]]
    (batch,) = data.test_dataloader()  # user 1 has neither train nor valid items
    assert {key: value.tolist() for key, value in batch.items()} == {
        "user": [1],
        "seen": [[], []],
        "relevant": [[0], [0]],
    }
    assert [batch["user"].tolist() for batch in data.predict_dataloader()] == [[0, 1], [2, 3], [4]]


def test_noise_counts_as_seen_because_the_model_trains_on_it() -> None:
    data = ready(make(1, 9, [(0, 0), (0, 1)], [(0, 2)]), noise_ratio=1)
    (batch,) = data.val_dataloader()
    assert batch["seen"][1].tolist() == data.train_items.tolist() and len(data.train_items) == 4


def test_a_split_without_interactions_has_no_batches() -> None:
    data = ready(make(2, 3, [(0, 0)]))
    assert len(data.val_dataloader()) == 0 and list(data.val_dataloader()) == []
