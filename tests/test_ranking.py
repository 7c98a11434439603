"""Rankings by blocks of items or of users are those of all predictions at once."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llmhd_pl.backbones import GMF, MF, NeuMF, base, embedding_backbone
from llmhd_pl.metrics import rank_hits
from llmhd_pl.ranking import hits_among, top_items, top_items_by_blocks, top_items_by_users


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Predictions with many or few ties, what is seen and relevant, K and the width of a block."""
    users, items = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    values = draw(st.sampled_from([1, 3, 30, 10**6]))
    scores = torch.randint(values, (users, items), generator=generator).float()
    if draw(st.booleans()):  # a model that leaves items out itself, but not all
        left_out = torch.rand(scores.shape, generator=generator) < 0.2
        left_out[:, 0] = False
        scores[left_out] = -torch.inf
    kinds = torch.rand(scores.shape, generator=generator)
    share = draw(st.sampled_from([0.0, 0.2, 0.9, 1.1]))
    seen = (kinds < share).nonzero()
    seen = seen[torch.randperm(len(seen), generator=generator)].T.contiguous()
    return (
        scores,
        seen,
        (kinds >= max(share, 0.8)).nonzero().T.contiguous(),
        draw(st.integers(1, 12)),
        draw(st.integers(1, 45)),
    )


@settings(max_examples=400, deadline=None)
@given(cases(), st.integers(1, 4))
def test_blocks_give_the_ranking_of_all_predictions(case: Any, at_once: int) -> None:
    scores, seen, relevant, k, width = case
    users = torch.arange(len(scores)) + 100
    values, items = top_items(scores.clone(), seen, k)

    def rank(some: Tensor) -> Tensor:
        return scores[some - 100].clone()

    blocks = (block.clone() for block in scores.split(width, dim=1))
    for found in (
        top_items_by_blocks(blocks, rank, users, seen, k, at_once),
        top_items_by_users(rank, users, seen, k, at_once),
    ):
        assert torch.equal(found[0], values) and torch.equal(found[1], items)
    hits, num_relevant = hits_among(items, relevant, scores.shape[1])
    expected, expected_number = rank_hits(scores.clone(), seen, relevant, k)
    assert torch.equal(hits, expected) and torch.equal(num_relevant, expected_number)


def test_only_users_with_ties_are_ranked_again() -> None:
    scores = torch.tensor([[4.0, 3, 2, 1, 0], [4, 2, 2, 1, 0], [4, 3, 2, 0, 0], [5, 4, 3, 3, 3], [5, 4, 4, 0, 0]])
    asked: list[int] = []

    def rank(some: Tensor) -> Tensor:
        asked.extend(some.tolist())
        return scores[some]

    nothing = torch.empty(2, 0, dtype=torch.int64)
    top_items_by_blocks(scores.clone().split(2, dim=1), rank, torch.arange(5), nothing, 2, 8)
    assert asked == [1, 4]  # with equal ones among the first three; those behind do not matter


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 4])
def test_predictions_that_are_not_finite_are_refused(bad: float, place: int) -> None:
    scores = torch.arange(10.0).view(2, 5)
    scores[1, place] = bad
    nothing = torch.empty(2, 0, dtype=torch.int64)
    with pytest.raises(FloatingPointError, match="here: predictions are not finite"):
        top_items_by_blocks(scores.split(2, dim=1), lambda some: scores[some], torch.arange(2), nothing, 2, 8, "here")
    with pytest.raises(FloatingPointError, match="here: predictions"):
        top_items_by_blocks(
            [torch.full((2, 3), -torch.inf)], lambda some: scores[some], torch.arange(2), nothing, 2, 8, "here"
        )


@pytest.mark.parametrize("one_row", [False, True])
def test_predictions_are_left_as_they_are(one_row: bool) -> None:
    """The model may keep them: a part of a larger table, a table from end to end, or one row for all users."""
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(9, 20, generator=generator)
    views = {"part": table[2:6], "columns": table[:4, 3:17], "whole": table, "turned": table.T}
    if one_row:
        views = {"expanded": table[:1].expand(4, -1), "of one user": table[0].expand(1, -1)}
    before = table.clone()
    for name, scores in views.items():
        seen = (torch.rand(scores.shape, generator=generator) < 0.3).nonzero().T
        users = torch.arange(len(scores))
        expected = top_items(scores.clone(), seen, 3)
        for found in (
            top_items(scores, seen, 3),
            top_items_by_users(lambda some, scores=scores: scores[: len(some)], users[:1], seen[:, seen[0] == 0], 3, 4),  # type: ignore[misc]
            top_items_by_blocks(
                scores.split(5, dim=1),
                lambda some, scores=scores: scores[some],
                users,
                seen,
                3,
                4,  # type: ignore[misc]
            ),
        ):
            assert torch.equal(found[1], expected[1][: len(found[1])]), name
            assert torch.equal(table, before), name


def test_predictions_are_not_copied() -> None:
    scores = torch.rand(30, 400)
    seen = (scores < 0.01).nonzero().T
    with torch.profiler.profile(profile_memory=True) as profile:
        top_items(scores, seen, 3)
    assert max(event.self_cpu_memory_usage for event in profile.events()) < scores.numel()


class Rows(TorchDispatchMode):
    """Remembers for how many rows there was a result for all items at once."""

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.num_items, self.most = num_items, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dim() == 2 and result.shape[1] >= self.num_items:
            self.most = max(self.most, len(result))
        return result


@pytest.mark.parametrize("kind", [MF, GMF, NeuMF])
@pytest.mark.parametrize("ties", [False, True])
def test_a_model_ranks_a_large_catalogue_in_parts(kind: Any, ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    num_users, num_items = 30, 5000
    model = kind(num_users, num_items, embedding_dim=4)
    if ties:
        with torch.no_grad():
            for table in (part for part in model.modules() if isinstance(part, torch.nn.Embedding)):
                table.weight.copy_(torch.randint(-2, 3, table.weight.shape))
    generator = torch.Generator().manual_seed(1)
    seen, relevant = ((torch.rand(num_users, num_items, generator=generator) < 0.01).nonzero().T for _ in range(2))
    batch = {"user": torch.randperm(num_users, generator=generator), "seen": seen, "relevant": relevant}
    monkeypatch.setattr(kind, "_where", lambda self: "here")
    monkeypatch.setattr(kind, "log", lambda *a, **k: None)
    found = []
    for at_once, block in ((2**28, 2**22), (4 * num_items, 3000)):
        monkeypatch.setattr(base, "AT_ONCE", at_once)
        monkeypatch.setattr(embedding_backbone, "AT_ONCE", at_once)
        monkeypatch.setattr(embedding_backbone, "_BLOCK", block)
        model.test_metrics.reset()
        with torch.inference_mode(), Rows(num_items) as rows:
            predicted = model.predict_step(batch, 0)
            model.test_step(batch, 0)
        found.append((predicted, {name: float(value) for name, value in model.test_metrics.compute().items()}))
        assert rows.most == num_users if at_once == 2**28 else rows.most <= 4
    (whole, metrics), (parts, metrics_of_parts) = found
    assert metrics == metrics_of_parts and metrics["test/recall@20"] >= 0
    assert torch.equal(whole["item"], parts["item"])
    torch.testing.assert_close(whole["score"], parts["score"])
