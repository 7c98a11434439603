import math
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics import MeanMetric
from torchmetrics.retrieval import RetrievalNormalizedDCG, RetrievalRecall

from llmhd_pl.metrics import NDCG, MeanLoss, Recall, auc, rank_hits


def by_hand(scores: np.ndarray, seen: np.ndarray, relevant: np.ndarray, k: int) -> tuple[float, float]:
    """Recall@k and NDCG@k, user by user."""
    recalls, ndcgs = [], []
    for user in range(len(scores)):
        if not relevant[user].any():
            continue
        top = np.argsort(-np.where(seen[user], -np.inf, scores[user]), kind="stable")[:k]
        gains = [1 / np.log2(place + 2) for place, item in enumerate(top) if relevant[user, item]]
        ideal = sum(1 / np.log2(place + 2) for place in range(min(k, relevant[user].sum())))
        recalls.append(len(gains) / relevant[user].sum())
        ndcgs.append(sum(gains) / ideal)
    return float(np.mean(recalls or [0])), float(np.mean(ndcgs or [0]))


@given(st.integers(1, 9), st.integers(2, 25), st.integers(1, 12), st.integers(0, 10**6))
def test_equal_to_numpy_also_when_fed_in_two_batches(users: int, items: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(users * items).reshape(users, items).astype(np.float32)
    kinds = rng.choice(3, (users, items), p=[0.6, 0.2, 0.2])
    kinds[rng.random(users) < 0.2] = 0
    seen, relevant = kinds == 1, kinds == 2
    metrics = [Recall(k), NDCG(k)]
    for rows in np.array_split(np.arange(users), 2):
        pairs = [torch.from_numpy(np.stack(mask[rows].nonzero())) for mask in (seen, relevant)]
        hits, num_relevant = rank_hits(torch.from_numpy(scores[rows]), *pairs, k)
        for metric in metrics:
            metric.update(hits, num_relevant)
    expected = by_hand(scores, seen, relevant, k)
    # A user with fewer unseen items than k has seen ones at the end of the ranking; they are never relevant.
    assert [float(metric.compute()) for metric in metrics] == pytest.approx(expected, abs=1e-6)


def test_equal_to_torchmetrics_retrieval() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(20, 30, generator=generator)
    relevant = torch.rand(20, 30, generator=generator) < 0.2
    nothing = torch.empty(2, 0, dtype=torch.int64)
    for k in (1, 5, 10):
        hits, num_relevant = rank_hits(scores.clone(), nothing, relevant.nonzero().T, k)
        index = torch.arange(20).repeat_interleave(30)
        for ours, theirs in ((Recall(k), RetrievalRecall(top_k=k)), (NDCG(k), RetrievalNormalizedDCG(top_k=k))):
            ours.update(hits, num_relevant)
            theirs.update(scores.flatten(), relevant.flatten(), indexes=index)
            assert float(ours.compute()) == pytest.approx(float(theirs.compute()), abs=1e-6)


def test_by_hand() -> None:
    # One user; ranking: item 2 (seen, left out), 0, 3, 1. Relevant: 3 and 1.
    scores = torch.tensor([[0.8, 0.1, 0.9, 0.5]])
    hits, num_relevant = rank_hits(scores, torch.tensor([[0], [2]]), torch.tensor([[0, 0], [3, 1]]), 2)
    assert hits.tolist() == [[False, True]] and num_relevant.tolist() == [2]
    recall, ndcg = Recall(2), NDCG(2)
    recall.update(hits, num_relevant)
    ndcg.update(hits, num_relevant)
    assert float(recall.compute()) == 0.5
    assert float(ndcg.compute()) == pytest.approx((1 / np.log2(3)) / (1 + 1 / np.log2(3)))


def test_users_without_relevant_items_are_skipped_and_none_at_all_gives_zero() -> None:
    recall, ndcg = Recall(2), NDCG(2)
    for metric in (recall, ndcg):
        metric.update(torch.tensor([[False, False]]), torch.tensor([0]))
        assert float(metric.compute()) == 0
        metric.update(torch.tensor([[True, True], [False, False]]), torch.tensor([2, 0]))
        assert float(metric.compute()) == 1


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        Recall(0)


def test_auc_counts_ties_half_and_leaves_out_nan() -> None:
    nan = float("nan")
    # 3 > 1, 3 > 2, 2 > 1, and 2 ties with 2
    assert auc(torch.tensor([3.0, nan, 2.0]), torch.tensor([1.0, 2.0, nan])) == 3.5 / 4
    assert math.isnan(auc(torch.tensor([nan]), torch.tensor([1.0])))


def test_no_running_sum_of_floats_is_taken_where_the_predictions_are() -> None:
    """On a GPU it would differ from run to run, so that a deterministic run refuses it."""

    class Watch(TorchDispatchMode):
        seen: ClassVar[list[str]] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    metrics = [NDCG(3), Recall(3)]
    with Watch() as watch:
        for metric in metrics:
            metric.update(torch.tensor([[True, False, True], [False, True, False]]), torch.tensor([2, 0]))
            metric.compute()
    assert any("mul" in name for name in watch.seen)
    assert not [name for name in watch.seen if "cumsum" in name]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_precision_does_not_round_the_sums(dtype: torch.dtype) -> None:
    hits = torch.rand(1000, 5, generator=torch.Generator().manual_seed(0)) < 0.1
    relevant = torch.randint(1, 9, (1000,), generator=torch.Generator().manual_seed(1))
    found = []
    for convert in (False, True):
        holder = torch.nn.Module()
        holder.metrics = torch.nn.ModuleList([NDCG(5), Recall(5)])
        if convert:
            holder.to(dtype)
        for _ in range(300):
            for metric in holder.metrics:
                metric.update(hits, relevant)
        found.append([float(metric.compute()) for metric in holder.metrics])
    assert found[0] == found[1]
    assert not list(holder.buffers())  # DDP would broadcast them in every step


class Stepping:
    """Stands for a module that is in a step of its training."""

    def __init__(self) -> None:
        self.trainer = SimpleNamespace(is_last_batch=False)
        self.current_epoch = 0
        self.logged: list[Tensor] = []

    def log(self, name: str, value: Tensor, **more: Any) -> None:
        assert name == "train/loss" and more["on_epoch"] and not more["on_step"]
        self.logged.append(value)


@given(st.lists(st.tuples(st.floats(-100, 100, width=32), st.integers(1, 2000)), min_size=1, max_size=30))
def test_the_mean_loss_is_that_of_torchmetrics(steps: list[tuple[float, int]]) -> None:
    mean, module = MeanLoss(), Stepping()
    for module.current_epoch in range(2):
        reference = MeanMetric()
        for place, (value, count) in enumerate(steps):
            module.trainer.is_last_batch = place == len(steps) - 1
            mean.update(module, torch.tensor(value), count)  # type: ignore[arg-type]
            reference.update(torch.tensor(value), count)
        mean.log(module)  # type: ignore[arg-type]  # the second time has no effect
        torch.testing.assert_close(module.logged.pop(), reference.compute(), rtol=1e-4, atol=1e-4)
        assert not module.logged


def test_the_mean_loss_is_summed_in_float32() -> None:
    mean, module = MeanLoss(), Stepping()
    for _ in range(1000):
        mean.update(module, torch.tensor(0.5, dtype=torch.bfloat16), 1024)  # type: ignore[arg-type]
    mean.log(module)  # type: ignore[arg-type]
    assert module.logged == [torch.tensor(0.5)]


def test_the_mean_loss_of_a_checkpoint_goes_on_to_the_last_digit() -> None:
    losses, counts = torch.rand(9, generator=torch.Generator().manual_seed(0)), torch.arange(9) + 3
    for stop in range(9):
        whole, module = MeanLoss(), Stepping()
        means = [whole, MeanLoss()]
        for step, (loss, count) in enumerate(zip(losses, counts.tolist(), strict=True)):
            for mean in means[: 1 if step <= stop else 2]:
                mean.update(module, loss, count)  # type: ignore[arg-type]
            if step == stop:
                means[1].load_state_dict(whole.state_dict())
        for mean in means:
            mean.log(module)  # type: ignore[arg-type]
        assert torch.equal(*module.logged)
