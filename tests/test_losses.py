import math

import pytest
import torch

from llmhd_pl.losses import bce_loss, bpr_loss


def test_bpr_is_minus_log_sigmoid_of_the_difference() -> None:
    losses = bpr_loss(torch.tensor([2.0, 0.0]), torch.tensor([0.5, 0.0]))
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-1.5)), math.log(2)])


def test_bce_has_a_column_for_the_observed_and_one_for_the_sampled_item() -> None:
    losses = bce_loss(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0]))
    log1pexp = [[-2.0, 0.5], [1.0, 3.0]]
    assert losses.tolist() == [pytest.approx([math.log1p(math.exp(x)) for x in row]) for row in log1pexp]


def test_losses_stay_finite_for_extreme_scores() -> None:
    extreme = torch.tensor([1e4, -1e4])
    assert bpr_loss(extreme, -extreme).isfinite().all()
    assert bce_loss(extreme, extreme).isfinite().all()
