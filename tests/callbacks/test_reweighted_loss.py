from pathlib import Path

import pytest
import single_steps
import torch
import torch.nn.functional as F
from small_fits import catalog, playback, quiet
from torch import Tensor

from llmhd_pl.callbacks import ReweightedLoss
from llmhd_pl.losses import bce_loss, bpr_loss

KEPT = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.5, 1.0])


@pytest.mark.parametrize("objective", ["bpr", "bce"])
@pytest.mark.parametrize("others", [False, True])
def test_the_loss_is_a_plain_mean_with_detached_weights(objective: str, others: bool) -> None:
    trainer, callback = single_steps.trainer(), ReweightedLoss(0.3)
    model = single_steps.model(objective, trainer)
    callback.setup(trainer, model, "fit")
    kept = KEPT if objective == "bpr" else KEPT[:, None].expand(8, 2)
    if others:  # another method drops samples: what it keeps is what the mean is over
        model.attach_denoiser(lambda batch, losses: kept)
    else:
        kept = torch.ones_like(kept)
    positive, negative = single_steps.predictions(model)

    def expected(positive_weighted: Tensor, negative_weighted: Tensor) -> Tensor:
        if objective == "bpr":
            difference = positive_weighted - negative_weighted
            losses = torch.sigmoid(difference) ** 0.3 * bpr_loss(positive, negative)
        else:
            weights = torch.sigmoid(positive_weighted), 1 - torch.sigmoid(negative_weighted)
            losses = torch.stack(weights, dim=1) ** 0.3 * bce_loss(positive, negative)
        return (kept * losses).sum() / kept.sum()

    loss, gradient = single_steps.step(model)
    detached, attached = expected(positive.detach(), negative.detach()), expected(positive, negative)
    assert loss == pytest.approx(float(detached.detach()), rel=1e-5)
    torch.testing.assert_close(gradient, single_steps.gradient(model, detached), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(gradient, single_steps.gradient(model, attached), rtol=0.05)


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_a_foreign_module_multiplies_by_the_weights(tmp_path: Path, objective: str) -> None:
    data = catalog()
    module = playback(data, 2, objective)
    quiet(tmp_path, ReweightedLoss(0.5), max_epochs=2).fit(module, data)
    torch.testing.assert_close(module.weights, (-module.losses).exp().sqrt())


def test_the_worst_pair_weighs_least() -> None:
    trainer, callback = single_steps.trainer(), ReweightedLoss()
    model = single_steps.model("bpr", trainer)
    callback.setup(trainer, model, "fit")
    losses = F.softplus(torch.tensor([-3.0, 0.0, 3.0]))
    weights, counts = callback.weigh({}, losses)
    assert weights[0] > weights[1] > weights[2] and counts.tolist() == [1, 1, 1]
