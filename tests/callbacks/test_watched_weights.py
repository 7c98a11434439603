from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llmhd_pl.callbacks.watched_weights import WatchedWeights

NAN = float("nan")
MASK = torch.tensor([[True, True, False], [True, False, True]])
Loss = Callable[[Tensor, Tensor], Tensor]


def in_place(w: Tensor, losses: Tensor) -> Tensor:
    losses = losses + 0.0
    losses *= w
    return losses.sum() / 7


def changed_after(w: Tensor, losses: Tensor) -> Tensor:
    losses = losses + 0.0
    product = losses * w
    with torch.no_grad():
        losses += 5.0
    return product.mean()


def rectools_softmax(w: Tensor, losses: Tensor) -> Tensor:
    """The mean over what still has a loss after weighting, as in RecTools."""
    weighted = losses * w
    return weighted.sum() / (weighted > 0).to(weighted.dtype).sum()


FULLY: dict[str, Loss] = {
    "mean": lambda w, losses: (w * losses).mean(),
    "sum": lambda w, losses: (losses * w).sum(),
    "of what is left": rectools_softmax,
    "weighted mean": lambda w, losses: (losses * w).sum() / w.sum().clamp_min(1e-8),
    "normalised first": lambda w, losses: (losses * (w / w.sum())).sum(),
    "log likelihood": lambda w, losses: -(w * -losses).mean(),
    "flat": lambda w, losses: torch.dot(w.view(-1), losses.flatten()),
    "matmul": lambda w, losses: w.reshape(-1) @ losses.flatten() / 6,
    "transposed": lambda w, losses: (w.T * losses.T).mean(),
    "columns": lambda w, losses: sum(((w[:, i] * losses[:, i]).sum() for i in range(3)), torch.zeros(())),
    "unsqueezed": lambda w, losses: (w.unsqueeze(-1) * losses[..., None]).mean(),
    "in place": in_place,
    "changed after": changed_after,
    "half": lambda w, losses: (w.bfloat16().float() * losses).mean(),
    "double": lambda w, losses: (w.double() * losses.double()).mean() * 65536.0,
    "discounted after": lambda w, losses: (torch.tensor([0.5, 1.0, 2.0]) * (w * losses)).mean(),
    "logged too": lambda w, losses: (w * losses).mean() + 0.0 * float((w * losses.detach()).sum()),
    "clamped": lambda w, losses: (w.clamp(min=0.0, max=1.0) * losses).mean(),
    "both signs": lambda w, losses: torch.cat([w, w]).mul(torch.cat([losses + 1, losses - 1])).mean(),
}


def watch(shape: torch.Size, weights: Tensor, losses: Tensor, loss: Loss) -> tuple[WatchedWeights, Tensor]:
    parameter = torch.ones((), requires_grad=True)
    watched = WatchedWeights.of(weights)
    result = loss(watched, losses.to(torch.float32) * parameter)
    result.backward()  # type: ignore[no-untyped-call]
    plain = torch.ones((), requires_grad=True)
    loss(weights, losses * plain).backward()  # type: ignore[no-untyped-call]
    assert parameter.grad is not None and plain.grad is not None
    torch.testing.assert_close(parameter.grad, plain.grad)  # watching changes nothing
    return watched, watched.record.losses()


@pytest.mark.parametrize("name", FULLY)
@pytest.mark.parametrize("weights", [torch.ones(2, 3), torch.tensor([[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]])])
def test_the_losses_of_all_samples_are_seen(name: str, weights: Tensor) -> None:
    """With whatever normalisation, sign and scale, and those of samples of weight 0 too."""
    losses = torch.rand(2, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    watched, seen = watch(losses.shape, weights, losses, FULLY[name])
    if name == "clamped":
        weights = weights.clamp(max=1.0)
    torch.testing.assert_close(seen, losses, atol=5e-7, rtol=0)
    assert watched.record.terms == (2 if name == "both signs" else 1)


MASKED: dict[str, Loss] = {
    "indexed": lambda w, losses: (w[MASK] * losses[MASK]).mean(),
    "multiplied": lambda w, losses: ((w * losses) * MASK).sum() / MASK.sum(),
    "left out after": lambda w, losses: (w * losses)[MASK].mean(),
    "selected": lambda w, losses: (torch.masked_select(w, MASK) * losses[MASK]).mean(),
}


@pytest.mark.parametrize("name", MASKED)
def test_a_loss_that_does_not_count_is_not_seen(name: str) -> None:
    losses = torch.rand(2, 3, generator=torch.Generator().manual_seed(1)) + 0.1
    _, seen = watch(losses.shape, torch.ones(2, 3), losses, MASKED[name])
    torch.testing.assert_close(seen, losses.masked_fill(~MASK, NAN), equal_nan=True)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("positional", [True, False])
@pytest.mark.parametrize("function", [F.binary_cross_entropy_with_logits, F.binary_cross_entropy])
def test_a_weighted_cross_entropy(function: Callable[..., Tensor], positional: bool, reduction: str) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.1], requires_grad=True)
    target = torch.tensor([1.0, 0.0, 0.0, 1.0])
    given = logits if function is F.binary_cross_entropy_with_logits else logits.sigmoid()
    watched = WatchedWeights.of(torch.tensor([1.0, 0.0, 1.0, 2.0]))
    result = (
        function(given, target, watched, reduction=reduction)
        if positional
        else function(given, target, weight=watched, reduction=reduction)
    )
    result.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(watched.record.losses(), function(given, target, reduction="none").detach())
    assert logits.grad is not None and logits.grad[1] == 0  # of weight 0


def test_two_losses_of_a_sample_add_up_and_two_terms_have_their_mean() -> None:
    parameter = torch.ones((), requires_grad=True)
    watched = WatchedWeights.of(torch.ones(3))
    losses = torch.tensor([1.0, 2.0, 4.0]) * parameter
    pairs = torch.tensor([[1.0, 3.0], [5.0, 7.0], [0.0, 1.0]]) * parameter
    loss = (watched * losses).mean() + 0.1 * (watched[:, None] * pairs).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert watched.record.losses().tolist() == [1.0 + 2.0, 2.0 + 6.0, 4.0 + 0.5] and watched.record.terms == 2


@pytest.mark.parametrize(
    "loss",
    [
        lambda w, losses: losses.mean(),  # not used
        lambda w, losses: torch.einsum("bl,bl->", w, losses),
        lambda w, losses: (losses / w).mean(),
        lambda w, losses: torch.sort(w.flatten()).values.mul(losses.flatten()).mean(),  # who is where is not known
        lambda w, losses: losses.mean() + 0.0 * float((w * losses).sum()),  # only logged
    ],
)
def test_what_cannot_be_seen_is_not_guessed(loss: Loss) -> None:
    losses = torch.rand(2, 3) + 0.1
    watched, seen = watch(losses.shape, torch.ones(2, 3), losses, loss)
    assert seen.isnan().all() and not watched.record.reached


def test_a_gradient_that_overflowed_gives_no_loss() -> None:
    parameter = torch.ones((), requires_grad=True)
    watched = WatchedWeights.of(torch.ones(2))
    product = watched * (torch.tensor([1.0, 2.0]) * parameter)
    (product * torch.tensor([NAN, 3.0])).sum().backward()  # type: ignore[no-untyped-call]
    assert watched.record.losses().tolist() == pytest.approx([NAN, 2.0], nan_ok=True) and watched.record.reached


AGAIN: dict[str, Loss] = {
    "learned uncertainty": lambda w, losses: (w * torch.exp(-losses.sqrt()) * losses + losses).mean(),
    "focal": lambda w, losses: (losses * (w * (1 - losses.sigmoid()) ** 2)).mean(),
    "in place": lambda w, losses: (w * losses.sqrt()).mul_(losses).sum(),
    "moved before": lambda w, losses: ((w * losses.sqrt()).unsqueeze(1) * losses[:, None]).sum(),
    "indexed before": lambda w, losses: ((w * losses.sqrt())[:] * losses).sum(),
    "log likelihood": lambda w, losses: (-(w * losses.sqrt()) * -losses).sum(),
    "flat": lambda w, losses: torch.dot((w * losses.sqrt()).flatten(), losses.flatten()),
    "divided": lambda w, losses: ((w * losses.sqrt()) / (1 / losses)).sum(),
}


@pytest.mark.parametrize("name", AGAIN)
def test_a_product_that_is_multiplied_again_is_noticed(name: str) -> None:
    """What was noted is a factor, by which samples may be in another order than by their losses."""
    watched, _ = watch(torch.Size([2, 3]), torch.ones(2, 3), torch.rand(2, 3) + 0.1, AGAIN[name])
    assert watched.record.multiplied_again


@pytest.mark.parametrize("name", [*FULLY, *MASKED])
def test_a_finished_loss_is_not_taken_for_a_factor(name: str) -> None:
    watched, _ = watch(torch.Size([2, 3]), torch.ones(2, 3), torch.rand(2, 3) + 0.1, (FULLY | MASKED)[name])
    assert not watched.record.multiplied_again


def test_a_number_that_is_learned_may_scale_all_losses() -> None:
    scale = torch.ones((), requires_grad=True)
    losses = torch.tensor([[1.0, 2.0]])
    watched, seen = watch(losses.shape, torch.ones(1, 2), losses, lambda w, losses: (scale * (w * losses)).mean())
    assert not watched.record.multiplied_again and seen.tolist() == losses.tolist()
