import pytest
import torch

from llmhd_pl.backbones.seeding import dropout_factors, seeded_generator

CPU = torch.device("cpu")


def test_draws_depend_on_the_key_alone() -> None:
    def draw(*key: int | str) -> list[float]:
        return torch.rand(4, generator=seeded_generator(CPU, *key)).tolist()

    first = draw("sgl", 0, 3)
    torch.rand(100)  # whatever the process draws in between
    assert draw("sgl", 0, 3) == first
    others = [draw("ncl", 0, 3), draw("sgl", 1, 3), draw("sgl", 0, 4), draw("sgl", 3, 0)]
    assert first not in others and len({tuple(other) for other in others}) == 4


@pytest.mark.parametrize("shape", [(10_000,), (101, 97), (3, 5, 667), (1,), (0, 4)])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 0.5, 0.999])
def test_dropout_zeroes_a_share_and_scales_up_the_rest(shape: tuple[int, ...], rate: float) -> None:
    factors = dropout_factors(shape, rate, seeded_generator(CPU, 0), CPU)
    assert factors.shape == shape and factors.dtype == torch.float32
    assert set(factors.unique().tolist()) <= {0.0, torch.tensor(1.0).div(1 - rate).item()}
    if factors.numel() > 1000:
        deviation = (rate * (1 - rate) / factors.numel()) ** 0.5
        assert abs((factors == 0).float().mean().item() - rate) <= 5 * deviation
        assert torch.equal(factors, dropout_factors(shape, rate, seeded_generator(CPU, 0), CPU))
        other = dropout_factors(shape, rate, seeded_generator(CPU, 1), CPU)
        assert torch.equal(factors, other) == (rate == 0)


def test_the_entries_that_one_draw_decides_about_are_independent() -> None:
    kept = dropout_factors((40_000, 4), 0.5, seeded_generator(CPU, 0), CPU) > 0
    patterns = (kept.long() * torch.tensor([1, 2, 4, 8])).sum(1)
    assert torch.bincount(patterns, minlength=16).sub(2500).abs().max() < 5 * 2500**0.5
