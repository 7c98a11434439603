import torch

from llmhd_pl.backbones.seeding import dropout, seeded_generator

CPU = torch.device("cpu")


def test_draws_depend_on_the_key_alone() -> None:
    def draw(*key: int | str) -> list[float]:
        return torch.rand(4, generator=seeded_generator(CPU, *key)).tolist()

    first = draw("sgl", 0, 3)
    torch.rand(100)  # whatever the process draws in between
    assert draw("sgl", 0, 3) == first
    others = [draw("ncl", 0, 3), draw("sgl", 1, 3), draw("sgl", 0, 4), draw("sgl", 3, 0)]
    assert first not in others and len({tuple(other) for other in others}) == 4


def test_dropout_zeroes_a_share_and_scales_up_the_rest() -> None:
    x = torch.arange(1.0, 10_001)
    dropped = dropout(x, 0.25, seeded_generator(CPU, 0))
    kept = dropped != 0
    assert 0.72 < kept.float().mean() < 0.78
    torch.testing.assert_close(dropped[kept], x[kept] / 0.75)
