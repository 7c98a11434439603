from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Callback, Trainer
from small_data import InMemory, interactions, make, pairs_of, ready
from torch import Tensor

from llmhd_pl.backbones import MF
from llmhd_pl.datamodules import Interactions, TrainBatches
from llmhd_pl.datamodules.sampling import NegativeSampler, epoch_order
from llmhd_pl.sample_weights import Batch

seeds = st.integers(0, 2**32 - 1)
batch_sizes = st.integers(1, 9)


def walk(data: InMemory, epoch: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
    """One epoch from fresh loaders."""
    return list(TrainBatches(data, lambda: epoch, rank, world_size))


def rows(batches: list[Batch]) -> list[list[tuple[int, ...]]]:
    """(sample, user, positive, negative) of every row of every batch."""
    keys = ("sample", "user", "positive", "negative")
    return [list(zip(*(batch[key].tolist() for key in keys), strict=True)) for batch in batches]


def medium(**arguments: Any) -> InMemory:
    """20 users, 30 items, 200 samples."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.randperm(600, generator=generator)[:260].tolist()
    pairs = [divmod(cell, 30) for cell in cells]
    return ready(make(20, 30, pairs[:200], pairs[200:230], pairs[230:]), **arguments)


def test_a_batch_by_hand() -> None:
    """Each user has one free item, so that only the order is left to chance."""
    data = ready(make(2, 3, [(0, 0), (0, 2), (1, 1), (1, 2)]), batch_size=3, seed=5)
    order = epoch_order(4, 5, 7).tolist()
    table = [(0, 0, 0, 1), (1, 0, 2, 1), (2, 1, 1, 0), (3, 1, 2, 0)]
    assert rows(walk(data, 7)) == [[table[sample] for sample in order[:3]], [table[order[3]]]]


@given(interactions(), batch_sizes, seeds, st.integers(0, 30), st.integers(1, 4))
def test_an_epoch_visits_each_sample_once_in_its_order(
    given_data: Interactions, batch_size: int, seed: int, epoch: int, lifetime: int
) -> None:
    data = ready(given_data, batch_size=batch_size, seed=seed, negative_lifetime=lifetime)
    batches = walk(data, epoch)
    size = len(given_data.train)
    assert [len(batch["sample"]) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert len(batches) == len(TrainBatches(data, lambda: epoch)) == -(-size // batch_size)
    assert all(list(batch) == ["sample", "user", "positive", "negative"] for batch in batches)
    assert all(column.dtype == torch.int64 and column.dim() == 1 for batch in batches for column in batch.values())
    visited = [row for batch in rows(batches) for row in batch]
    assert [sample for sample, *_ in visited] == epoch_order(size, seed, epoch).tolist()
    train = sorted(pairs_of(given_data.train))
    negatives = NegativeSampler(data.train_users, data.train_items, data.num_users, data.num_items, lifetime, seed)
    drawn = negatives.draw(epoch).tolist()
    for sample, user, positive, negative in visited:
        assert (user, positive) == train[sample]
        assert negative == drawn[sample]
        assert (user, negative) not in train and 0 <= negative < data.num_items


def test_an_epoch_does_not_depend_on_the_epochs_visited_before() -> None:
    epochs = [3, 0, 7, 7, 2, 3]
    now = iter(epochs)
    loader = TrainBatches(medium(batch_size=64, negative_lifetime=3), lambda: next(now))
    for epoch in epochs:
        assert rows(list(loader)) == rows(walk(medium(batch_size=64, negative_lifetime=3), epoch))


def test_the_batch_size_changes_neither_order_nor_negatives() -> None:
    whole, cut = (torch.cat([*map(columns, walk(medium(batch_size=size), 4))]) for size in (500, 7))
    assert torch.equal(whole, cut)


def columns(batch: Batch) -> Tensor:
    return torch.stack(list(batch.values()), dim=1)


@pytest.mark.parametrize("lifetime", [1, 3])
def test_order_and_negatives_over_epochs_and_seeds(lifetime: int) -> None:
    def epoch_of(epoch: int, seed: int) -> tuple[Tensor, Tensor]:
        (batch,) = walk(medium(batch_size=200, seed=seed, negative_lifetime=lifetime), epoch)
        return batch["sample"], batch["negative"][batch["sample"].argsort()]

    for seed in (0, 1):
        visits = [epoch_of(epoch, seed) for epoch in range(2 * lifetime + 1)]
        for epoch in range(2 * lifetime):
            (order, negatives), (next_order, next_negatives) = visits[epoch], visits[epoch + 1]
            assert (order != next_order).float().mean() > 0.9
            if (epoch + 1) % lifetime:
                assert torch.equal(negatives, next_negatives)
            else:
                assert (negatives != next_negatives).float().mean() > 0.8
    (order, negatives), (other_order, other_negatives) = epoch_of(0, 0), epoch_of(0, 1)
    assert (order != other_order).float().mean() > 0.9
    assert (negatives != other_negatives).float().mean() > 0.8


@pytest.mark.parametrize("seen", range(5))
def test_a_run_resumes_in_the_middle_of_an_epoch(seen: int) -> None:
    """200 samples are four batches of 60; ``seen`` of them were trained on before the crash."""
    data = medium(batch_size=60, negative_lifetime=1)
    before = TrainBatches(data, lambda: 6)
    iteration = iter(before)
    done = [next(iteration) for _ in range(seen)]
    state = before.state_dict()
    assert all(type(value) is int for value in state.values())  # what weights_only loading lets through

    now = 6
    after = TrainBatches(medium(batch_size=60, negative_lifetime=1), lambda: now)
    after.load_state_dict(state)
    assert after.state_dict() == state  # a checkpoint before the first step loses nothing
    assert rows(done + list(after)) == rows(walk(data, 6))
    assert rows(list(after)) == rows(walk(data, 6))  # it resumes once
    now = 7
    assert rows(list(after)) == rows(walk(data, 7))


def test_a_state_of_another_epoch_skips_nothing() -> None:
    loader = TrainBatches(medium(batch_size=60), lambda: 5)
    loader.load_state_dict({"epoch": 4, "batch": 3})
    assert rows(list(loader)) == rows(walk(medium(batch_size=60), 5))


def test_batches_of_another_size_are_refused_within_an_epoch() -> None:
    before = TrainBatches(medium(batch_size=60), lambda: 5)
    iteration = iter(before)
    next(iteration), next(iteration)
    now = 5
    after = TrainBatches(medium(batch_size=40), lambda: now)
    after.load_state_dict(before.state_dict())
    with pytest.raises(
        RuntimeError, match=r"within an epoch of batches of 60 samples, and batch_size is 40: .*size=60"
    ):
        next(iter(after))
    now = 6  # of the next epoch, whatever the checkpoint has seen is no part
    after.load_state_dict(before.state_dict())
    assert rows(list(after)) == rows(walk(medium(batch_size=40), 6))
    before.load_state_dict({"epoch": 5, "batch": 3})  # of an older version
    assert rows(list(before)) == rows(walk(medium(batch_size=60), 5))[3:]


def test_an_iteration_that_was_broken_off_starts_anew() -> None:
    """As after a learning rate search, which takes a few steps of epoch 0 before the fit."""
    loader = TrainBatches(medium(batch_size=60), lambda: 0)
    next(iter(loader))
    assert rows(list(loader)) == rows(walk(medium(batch_size=60), 0))


def test_a_run_resumes_on_another_number_of_devices() -> None:
    data = medium(batch_size=60)
    first = TrainBatches(data, lambda: 2, rank=1, world_size=2)
    iteration = iter(first)
    next(iteration), next(iteration)
    rest = []
    for rank in range(3):
        loader = TrainBatches(data, lambda: 2, rank, world_size=3)
        loader.load_state_dict(first.state_dict())
        rest.append(rows(list(loader)))
    assert [sorted(chain(*shares)) for shares in zip(*rest, strict=True)] == [*map(sorted, rows(walk(data, 2))[2:])]


@given(interactions(), batch_sizes, seeds, st.integers(2, 3))
def test_the_ranks_share_every_batch_by_users(
    given_data: Interactions, batch_size: int, seed: int, world_size: int
) -> None:
    data = ready(given_data, batch_size=batch_size, seed=seed)
    shares = [rows(walk(data, 1, rank, world_size)) for rank in range(world_size)]
    whole = rows(walk(data, 1))
    assert (
        [len(share) for share in shares]
        == [len(whole)] * world_size
        == [len(TrainBatches(data, lambda: 1))] * world_size
    )
    for step, batch in enumerate(whole):
        assert all(
            walked[step]["shared"].tolist() == [row[3] for row in batch]
            for walked in (walk(data, 1, rank, world_size) for rank in range(world_size))
        )
        assert sorted(row for share in shares for row in share[step]) == sorted(batch)
        for share in shares:  # in the order of the whole batch
            assert share[step] == [row for row in batch if row in share[step]]
    users = [{user for batch in share for _, user, *_ in batch} for share in shares]
    assert sum(map(len, users)) == len(set().union(*users))
    # The same owners in every epoch.
    assert users == [{int(u) for b in walk(data, 9, rank, world_size) for u in b["user"]} for rank in range(world_size)]


def test_the_ranks_are_balanced() -> None:
    data = medium(batch_size=50)
    sizes = [sum(len(batch["sample"]) for batch in walk(data, 0, rank, 3)) for rank in range(3)]
    assert sum(sizes) == 200 and max(sizes) - min(sizes) <= int(torch.bincount(data.train_users).max())


def test_a_share_of_a_batch_can_be_empty() -> None:
    data = ready(make(2, 4, [(0, 0), (0, 1), (0, 2), (1, 0)]), batch_size=1)
    sizes = [[len(batch["sample"]) for batch in walk(data, 0, rank, 2)] for rank in range(2)]
    assert sorted(map(sum, sizes)) == [1, 3]
    assert [a + b for a, b in zip(*sizes, strict=True)] == [1] * 4
    alone = walk(data, 0, rank=2, world_size=3)  # more devices than users
    assert [batch["negative"].shape for batch in alone] == [(0,)] * 4
    assert all(column.dtype == torch.int64 for batch in alone for column in batch.values())


def test_the_trainer_says_which_epoch_and_rank_it_is() -> None:
    data = medium(batch_size=64)
    with pytest.raises(RuntimeError, match="TrainBatches"):
        data.train_dataloader()
    where = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(current_epoch=0, global_rank=1, world_size=2, strategy=where)  # type: ignore[assignment]
    loader = data.train_dataloader()
    for epoch in (0, 4):
        data.trainer.current_epoch = epoch  # type: ignore[union-attr, misc]
        assert rows(list(loader)) == rows(walk(data, epoch, 1, 2))
    both = set()
    for rank in range(2):
        data.trainer.global_rank = rank  # type: ignore[union-attr, misc]
        both |= {int(user) for batch in data.predict_dataloader() for user in batch["user"]}
        assert all(len(batch["user"]) <= 10 for batch in data.predict_dataloader())
    assert both == set(range(20))


def test_overfitting_sees_the_same_batches_in_every_epoch() -> None:
    data = medium(batch_size=60, negative_lifetime=1)
    seen: list[list[tuple[int, ...]]] = []

    class Seen(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
            seen.extend(rows([batch]))

    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=3, overfit_batches=2, callbacks=[Seen()], accelerator="cpu", **settings)
    trainer.fit(MF(data.num_users, data.num_items, embedding_dim=4), data)
    assert seen == 3 * rows(walk(data, 0)[:2])
    # The state says how far an epoch has come, and not whose batches it has: the next one starts at its beginning.
    loader = TrainBatches(data, lambda: 5, drawn=0)
    loader.load_state_dict({"epoch": 4, "batch": 2})
    assert rows(list(loader)) == rows(walk(data, 0))
