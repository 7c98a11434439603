from types import SimpleNamespace

import pytest
import torch

from llmhd_pl.llm.same_logits import is_exact, same_logits

EXACT = SimpleNamespace(dtype=torch.float32)
ROUNDED = [
    SimpleNamespace(dtype=torch.bfloat16),
    SimpleNamespace(dtype=torch.float32, quantization_method="bitsandbytes"),
]


@pytest.mark.parametrize("distance", [1e-6, 3e-2, 0.3])
def test_the_distance_counts_without_the_mean(distance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 1, 2, 1000, generator=generator)
    found = logits + distance * other + 5
    assert same_logits(found, logits, EXACT) == (distance < 1e-4)
    for model in ROUNDED:
        assert same_logits(found, logits, model) == (distance < 0.1)


def test_float32_is_exact_unless_it_is_quantised() -> None:
    assert is_exact(EXACT) and not any(map(is_exact, ROUNDED))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_in_both_is_no_difference(value: float) -> None:
    logits = torch.arange(10.0)
    some = logits.clone()
    some[3] = value
    assert same_logits(some, some.clone(), EXACT)
    assert same_logits(torch.full((10,), value), torch.full((10,), value), EXACT)
    assert not same_logits(some, logits, EXACT) and not same_logits(logits, some, EXACT)
