import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llmhd_pl.denoising.baselines import (
    LossHistory,
    damped,
    double_corrected,
    lower_bound,
    num_dropped,
    places,
    reweighted,
    truncated,
    variance_at,
)
from llmhd_pl.losses import bce_loss, bpr_loss

# Five triples. The sampled items' losses are the highest of all, and no business of T-CE.
POINTWISE = torch.tensor([[0.3, 9.0], [2.0, 8.0], [0.1, 7.0], [1.0, 6.0], [3.0, 5.0]])


def released(losses: Tensor, labels: Tensor, rate: float) -> Tensor:
    """What the released T-CE keeps, of flat losses and labels: bool."""
    order = (losses * labels).argsort()
    kept = torch.zeros_like(losses, dtype=torch.bool)
    kept[order[: int((1 - rate) * len(losses))]] = True
    return kept


def test_pointwise_truncation_drops_observed_items_by_the_number_of_all() -> None:
    # int(.8 * 10) = 8 stay: two of five observed items go, not one, and no sampled item.
    assert truncated(POINTWISE, 0.2).tolist() == [[1, 1], [0, 1], [1, 1], [1, 1], [0, 1]]
    assert truncated(POINTWISE, 0.0).tolist() == [[1, 1]] * 5
    # int(.99 * 10) = 9: however small the rate, one goes.
    assert truncated(POINTWISE, 0.01)[:, 0].tolist() == [1, 1, 1, 1, 0]
    # More than half of all samples: the observed items are used up.
    assert truncated(POINTWISE, 0.7).tolist() == [[0, 1]] * 5


def test_pairwise_truncation_drops_the_highest_losses() -> None:
    losses = POINTWISE[:, 0]
    assert truncated(losses, 0.2).tolist() == [1, 1, 1, 1, 0]
    assert truncated(losses, 0.5).tolist() == [1, 0, 1, 0, 0]  # int(2.5) = 2 stay


@pytest.mark.parametrize("rate", [0.0, 0.03, 0.1, 0.2, 0.37, 0.5])
def test_truncation_keeps_what_the_released_code_keeps(rate: float) -> None:
    torch.manual_seed(0)
    for size in (1, 2, 7, 64):
        losses = torch.rand(size, 2)
        kept = released(losses.t().flatten(), torch.ones(2, size).mul(torch.tensor([[1.0], [0.0]])).flatten(), rate)
        assert torch.equal(truncated(losses, rate), kept.view(2, size).t().float())
        assert torch.equal(truncated(losses[:, 0], rate), released(losses[:, 0], torch.ones(size), rate).float())


def test_the_first_of_equal_keys_has_the_first_place() -> None:
    place, number = places(torch.tensor([1.0, 3.0, 1.0, 3.0]))
    assert place.tolist() == [2, 0, 3, 1] and number == 4
    assert num_dropped(torch.rand(3, 2), 10, 0.1) == 2 and num_dropped(torch.rand(3), 10, 0.1) == 1


def test_processes_together_decide_what_one_decides() -> None:
    """Of one batch, each process has a share, one of them an empty one."""
    torch.manual_seed(1)
    losses, shares = torch.rand(30, 2), (12, 0, 18)
    bounds = losses[:, 0].sin()
    kept = truncated(losses, 0.15).split(shares)
    corrected = [part.split(shares) for part in double_corrected(losses, bounds, 0.2, 0.5)]
    assert (corrected[0][0] < 0).any() and (corrected[0][2] < 0).any()
    for process, own in enumerate(losses.split(shares)):
        start = sum(shares[:process])
        assert torch.equal(truncated(own, 0.15, lambda keys, at=start: (losses[:, 0], at)), kept[process])
        ours = double_corrected(own, bounds.split(shares)[process], 0.2, 0.5, lambda keys, at=start: (bounds, at))
        assert all(torch.equal(part, whole[process]) for part, whole in zip(ours, corrected, strict=True))


def test_weights_by_hand() -> None:
    # sigmoid(log 3) = 3/4
    y = torch.tensor([math.log(3), 0.0])
    pointwise = reweighted(bce_loss(y, y), 0.5)
    torch.testing.assert_close(pointwise, torch.tensor([[0.75, 0.25], [0.5, 0.5]]).sqrt())
    pairwise = reweighted(bpr_loss(torch.tensor([math.log(3), 0.0]), torch.tensor([0.0, math.log(3)])), 2.0)
    torch.testing.assert_close(pairwise, torch.tensor([9 / 16, 1 / 16]))  # the pair in the wrong order weighs less


def test_weights_are_powers_of_the_predicted_probability() -> None:
    positive, negative = torch.linspace(-6, 6, 25), torch.linspace(5, -8, 25)
    expected = torch.stack([torch.sigmoid(positive) ** 0.3, (1 - torch.sigmoid(negative)) ** 0.3], dim=1)
    torch.testing.assert_close(reweighted(bce_loss(positive, negative), 0.3), expected)
    torch.testing.assert_close(reweighted(bpr_loss(positive, negative), 0.3), torch.sigmoid(positive - negative) ** 0.3)


def test_damping_and_lower_bound_by_hand() -> None:
    torch.testing.assert_close(damped(torch.tensor([0.0, 1.0, 2.0])), torch.tensor([1.0, 2.5, 5.0]).log())
    mean, seen, kept = torch.tensor([0.5, 0.5, 0.05]), torch.tensor([4.0, 4.0, 4.0]), torch.tensor([2.0, 0.0, 2.0])
    # .1 * (4 + .1 * log(8) / 16) / (2 + 1 - .1) = .138379; kept never: / .9 in place of / 2.9
    expected = [0.5 - 0.1 * 4.0129965 / 2.9, 0.5 - 0.1 * 4.0129965 / 0.9, 0.0]
    torch.testing.assert_close(lower_bound(mean, seen, kept, 0.1), torch.tensor(expected))
    assert torch.equal(lower_bound(mean, seen, kept, 0.0), mean)


def test_the_variance_falls_to_zero_over_the_epochs() -> None:
    assert [variance_at(epoch, 5) for epoch in range(5)] == pytest.approx([1e-4, 7.5e-5, 5e-5, 2.5e-5, 0])
    assert variance_at(0, 1) == 1e-4 and variance_at(7, 5) == 0


def test_the_history_belongs_to_the_sample_and_lasts_three_epochs() -> None:
    history, means = LossHistory(3), []
    losses = torch.tensor([[1.0, 10.0, 0.1], [2.0, 20.0, 0.2], [3.0, 30.0, 0.3], [4.0, 40.0, 0.4], [5.0, 50.0, 0.5]])
    orders = ([0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0], [0, 2, 1])
    for order, values in zip(orders, losses, strict=True):
        sample, mean = torch.tensor(order), torch.empty(3)
        for part in sample.split(2):
            mean[part] = history.bounds(part, values[part], 0.0)
        means.append(mean)
    expected = [damped(losses[max(0, epoch - 2) : epoch + 1]).mean(dim=0) for epoch in range(5)]
    torch.testing.assert_close(torch.stack(means), torch.stack(expected))
    assert history.seen.tolist() == [5, 5, 5]


def test_how_often_a_sample_was_kept_decides_how_low_its_bound_is() -> None:
    history, sample = LossHistory(4), torch.tensor([3, 1])
    history.bounds(sample, torch.tensor([1.0, 1.0]), 1e-2)
    history.keep(sample, torch.tensor([True, False]))
    bounds = history.bounds(sample, torch.tensor([1.0, 1.0]), 1e-2)
    mean, seen = damped(torch.ones(2)), torch.full((2,), 2.0)
    torch.testing.assert_close(bounds, lower_bound(mean, seen, torch.tensor([1.0, 0.0]), 1e-2))
    assert bounds[1] < bounds[0]  # dropped before: it gets another chance
    assert history.kept.tolist() == [0, 0, 0, 1] and history.seen.tolist() == [0, 2, 0, 2]


def test_the_highest_are_flipped_and_those_below_them_dropped() -> None:
    losses = torch.stack([torch.linspace(0.1, 2.0, 20), torch.full((20,), 9.0)], dim=1)
    bounds = torch.linspace(2.0, 0.1, 20)  # by bounds, not by losses
    # 40 samples: int(.85 * 40) = 34 stay; of the 6 that go int(.4 * 6) = 2 are flipped.
    weights, counts = double_corrected(losses, bounds, 0.15, 0.4)
    assert counts[:, 0].tolist() == [1, 1, 0, 0, 0, 0] + [1] * 14 and (counts[:, 1] == 1).all()
    assert torch.equal(weights[2:], counts[2:]) and (weights[:2, 1] == 1).all()
    torch.testing.assert_close(weights[:2, 0], -1 / (losses[:2, 0].exp() - 1))
    # The share that is flipped grows with the drop rate.
    flips = [int((double_corrected(losses, bounds, rate, 0.4)[0] < 0).sum()) for rate in (0.0, 0.05, 0.1, 0.2)]
    assert flips == [0, 0, 1, 3]  # first of all something is dropped
    pairs, counts = double_corrected(losses[:, 0], bounds, 0.2, 0.5)
    assert (pairs < 0).nonzero().flatten().tolist() == [0, 1] and counts.tolist() == [1, 1, 0, 0] + [1] * 16


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_a_flipped_label_has_the_gradient_of_the_other_label(objective: str) -> None:
    torch.manual_seed(2)
    positive, negative = (torch.randn(2, 40) * 4).requires_grad_().unbind()
    loss, pointwise = (bce_loss, True) if objective == "bce" else (bpr_loss, False)
    losses = loss(positive, negative)
    bounds = torch.rand(40)
    weights, counts = double_corrected(losses.detach(), bounds, 0.25, 0.5)
    ours = torch.autograd.grad((weights * losses).sum() / counts.sum(), (positive, negative), retain_graph=True)
    # The other way round: labels 0 from the start. Half of 25 %, counted as int() counts: 10 or 5 rows.
    order = bounds.argsort(descending=True)
    number = 10 if pointwise else 5
    labels = torch.ones(40)
    labels[order[:number]] = 0
    kept = torch.ones(40, dtype=torch.bool)
    kept[order[number : 2 * number]] = False
    y = positive if pointwise else positive - negative
    corrected = F.binary_cross_entropy_with_logits(y, labels, reduction="none")[kept]
    if pointwise:
        corrected = torch.cat([corrected, F.softplus(negative)])
    theirs = torch.autograd.grad(corrected.mean(), (positive, negative))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_a_flip_of_a_sure_prediction_stays_finite() -> None:
    y = torch.tensor([60.0, 200.0, 15.0], requires_grad=True)
    losses = F.softplus(-y)
    weights, _ = double_corrected(losses.detach(), losses.detach(), 1.0, 1.0)
    (gradient,) = torch.autograd.grad((weights * losses).sum(), y)
    assert gradient.isfinite().all() and gradient[[0, 2]].tolist() == pytest.approx([1.0, 1.0])
