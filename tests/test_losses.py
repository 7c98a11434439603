import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llmhd_pl.losses import bce_loss, bpr_loss, info_nce, sampled_info_nce, softmax_loss


def test_bpr_is_minus_log_sigmoid_of_the_difference() -> None:
    losses = bpr_loss(torch.tensor([2.0, 0.0]), torch.tensor([0.5, 0.0]))
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-1.5)), math.log(2)])


def test_bce_has_a_column_for_the_observed_and_one_for_the_sampled_item() -> None:
    losses = bce_loss(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0]))
    log1pexp = [[-2.0, 0.5], [1.0, 3.0]]
    assert losses.tolist() == [pytest.approx([math.log1p(math.exp(x)) for x in row]) for row in log1pexp]


def test_softmax_is_minus_log_of_the_observed_share() -> None:
    losses = softmax_loss(torch.tensor([2.0, -1.0]), torch.tensor([[0.5, 1.0], [3.0, 0.0]]))
    shares = [math.exp(2) / (math.exp(2) + math.exp(0.5) + math.e), math.exp(-1) / (math.exp(-1) + math.exp(3) + 1)]
    assert losses.tolist() == pytest.approx([-math.log(share) for share in shares])
    single = torch.tensor([[0.5], [3.0]])
    torch.testing.assert_close(
        softmax_loss(torch.tensor([2.0, -1.0]), single), bpr_loss(torch.tensor([2.0, -1.0]), single[:, 0])
    )


@pytest.mark.parametrize("temperature", [1.0, 0.15])
def test_softmax_has_the_gradient_of_the_plain_formula(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    positive = torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_()
    negatives = torch.randn(6, 9, generator=generator, dtype=torch.float64).requires_grad_()
    excluded = torch.rand(6, 9, generator=generator) < 0.3
    weights = torch.rand(6, generator=generator, dtype=torch.float64)
    excluded[2] = True
    losses = softmax_loss(positive, negatives, temperature, excluded)
    assert losses[2] == 0
    logits = torch.cat([positive[:, None], negatives.masked_fill(excluded, -torch.inf)], dim=1) / temperature
    plain = F.cross_entropy(logits, torch.zeros(6, dtype=torch.int64), reduction="none")
    torch.testing.assert_close(losses, plain)
    ours, theirs = (torch.autograd.grad((weights * each).sum(), [positive, negatives]) for each in (losses, plain))
    torch.testing.assert_close(ours, theirs)


def test_losses_stay_finite_for_extreme_scores() -> None:
    extreme = torch.tensor([1e4, -1e4])
    assert bpr_loss(extreme, -extreme).isfinite().all()
    assert bce_loss(extreme, extreme).isfinite().all()
    assert softmax_loss(extreme, -extreme[:, None].expand(-1, 3)).isfinite().all()


def test_info_nce_by_hand() -> None:
    anchors = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    candidates = torch.tensor([[5.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    counts = torch.tensor([1, 3])
    loss = info_nce(anchors, candidates[:2], candidates, temperature=0.5, counts=counts)
    half = 1 / math.sqrt(2)
    cosines = [[1.0, 0.0, -1.0], [half, half, -half]]
    sums = [math.log(sum(math.exp(cosine / 0.5) for cosine in row)) for row in cosines]
    assert loss.item() == pytest.approx(sums[0] - 1 / 0.5 + 3 * (sums[1] - half / 0.5))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(info_nce(anchors.bfloat16(), candidates[:2], candidates, 0.5, counts), loss)
    # a process that has no sample of the batch
    assert info_nce(anchors[:0], anchors[:0], anchors[:0], 0.5, counts[:0]) == 0


@pytest.mark.parametrize("temperature", [0.2, 0.03, 0.02])
@pytest.mark.parametrize("shared", [False, True])
def test_info_nce_has_the_gradient_of_the_plain_formula(shared: bool, temperature: float) -> None:
    """With more anchors than are multiplied at once, and with embeddings that are anchor, positive and candidate."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(300, 8, generator=generator, dtype=torch.float64).float()
    weights = torch.rand(300, generator=generator)

    def gradients(loss: Callable[..., Tensor]) -> list[Tensor]:
        parts = [table.clone().requires_grad_() for _ in range(1 if shared else 3)]
        anchors, positives, candidates = (parts * 3)[:3]
        value = 0.3 * loss(anchors, positives.flip(0), candidates[:40], temperature, weights)
        return [value.detach(), *torch.autograd.grad(value, parts)]

    def plain(anchors: Tensor, positives: Tensor, candidates: Tensor, temperature: float, weights: Tensor) -> Tensor:
        anchors, positives, candidates = (F.normalize(part, dim=1) for part in (anchors, positives, candidates))
        own = (anchors * positives).sum(dim=1) / temperature
        return -(weights * (own - torch.logsumexp(anchors @ candidates.t() / temperature, dim=1))).sum()

    torch.testing.assert_close(gradients(info_nce), gradients(plain), rtol=1e-4, atol=1e-5)


def test_sampled_info_nce_by_hand() -> None:
    """Two of five candidates were drawn, one of them the positive of the first anchor, which is not counted twice."""
    anchors = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    positives, drawn = torch.tensor([[5.0, 0.0], [0.0, 3.0]]), torch.tensor([[5.0, 0.0], [-1.0, 0.0]])
    own = torch.tensor([[True, False], [False, False]])
    loss = sampled_info_nce(anchors, positives, drawn, 0.5, torch.tensor([1, 3]), own, 5)
    half = 1 / math.sqrt(2)
    first = math.log(math.exp(2) + 2.5 * math.exp(-2)) - 2
    second = math.log(math.exp(2 * half) + 2.5 * (math.exp(2 * half) + math.exp(-2 * half))) - 2 * half
    assert loss.item() == pytest.approx(first + 3 * second)
    with torch.autocast("cpu", torch.bfloat16):
        counts = torch.tensor([1, 3])
        assert torch.equal(sampled_info_nce(anchors.bfloat16(), positives, drawn, 0.5, counts, own, 5), loss)
    assert sampled_info_nce(anchors[:0], positives[:0], drawn, 0.5, torch.ones(0), own[:0], 5) == 0


def test_sampled_info_nce_is_info_nce_if_each_candidate_is_drawn_once() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(20, 8, generator=generator).requires_grad_()
    other = torch.randn(20, 8, generator=generator).requires_grad_()
    counts, order = torch.rand(20, generator=generator), torch.randperm(20, generator=generator)
    whole = info_nce(table, other, other, 0.2, counts)
    sampled = sampled_info_nce(table, other, other[order], 0.2, counts, torch.arange(20)[:, None] == order, 20)
    torch.testing.assert_close(sampled, whole)
    ours, theirs = (torch.autograd.grad(loss, [table, other]) for loss in (sampled, whole))
    torch.testing.assert_close(ours, theirs)


def test_the_denominator_of_sampled_info_nce_is_right_on_average() -> None:
    generator = torch.Generator().manual_seed(0)
    anchor, candidates = (torch.randn(size, 4, generator=generator, dtype=torch.float64) for size in (1, 12))
    one = torch.ones(1)

    def denominator(loss: Tensor) -> float:
        return float((loss + F.cosine_similarity(anchor, candidates[:1]) / 0.5).exp())

    exact = denominator(info_nce(anchor, candidates[:1], candidates, 0.5, one))
    found = []
    for _ in range(4000):
        drawn = torch.randint(12, (6,), generator=generator)
        own = drawn[None] == 0
        found.append(denominator(sampled_info_nce(anchor, candidates[:1], candidates[drawn], 0.5, one, own, 12)))
    spread = torch.tensor(found).std() / math.sqrt(len(found))
    assert abs(sum(found) / len(found) - exact) < 4 * float(spread)
