"""A number out of its range is refused where a model is made: it would train, and its figures would mean nothing."""

import math
from typing import Any

import pytest

from llmhd_pl.backbones import GMF, MF, NCL, NGCF, RGCF, SGL, LightGCN, NeuMF

ABOVE_0 = [0.0, -0.5, math.nan, math.inf]
FROM_0 = [-0.5, math.nan, math.inf]
DROPPED = [-0.1, 1.0, 10, math.nan]
WIDTH = [0, -3, 2.5]
COUNT = [-1, 0.5]
KINDS: dict[str, Any] = {kind.__name__: kind for kind in (GMF, MF, NCL, NGCF, RGCF, SGL, LightGCN, NeuMF)}
REFUSED: list[tuple[str, str, list[float]]] = [
    *((name, "learning_rate", ABOVE_0) for name in KINDS),
    *((name, "softmax_temperature", ABOVE_0) for name in KINDS),
    *((name, "l2", FROM_0) for name in KINDS),
    *((name, "embedding_dim", WIDTH) for name in KINDS),
    *((name, "num_layers", COUNT) for name in ("LightGCN", "SGL", "NCL", "RGCF")),
    *((name, "temperature", ABOVE_0) for name in ("SGL", "NCL", "RGCF")),
    *((name, "ssl_weight", FROM_0) for name in ("SGL", "RGCF")),
    *(("NCL", name, FROM_0) for name in ("structure_weight", "item_weight", "prototype_weight")),
    ("NCL", "num_clusters", WIDTH),
    ("NCL", "warm_up_epochs", COUNT),
    ("RGCF", "prune_below", [-0.1, 1.1, math.nan]),
    ("RGCF", "added_edges", FROM_0),
    ("SGL", "drop_rate", DROPPED),
    ("NGCF", "message_dropout", DROPPED),
    ("NeuMF", "dropout", DROPPED),
]


@pytest.mark.parametrize(("name", "argument", "values"), REFUSED)
def test_a_number_out_of_its_range_is_refused(name: str, argument: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"^{argument} is {value}; it must be "):
            KINDS[name](3, 4, **{argument: value})


@pytest.mark.parametrize("name", ["NGCF", "NeuMF"])
def test_a_layer_without_a_width_is_named(name: str) -> None:
    for width in WIDTH:
        with pytest.raises(ValueError, match=rf"hidden_dims\[1\] is {width}; it must be an integer of at least 1"):
            KINDS[name](3, 4, hidden_dims=(8, width))


def test_the_ends_of_the_ranges_are_taken() -> None:
    LightGCN(3, 4, embedding_dim=1, num_layers=0, l2=0)
    NCL(3, 4, structure_weight=0, item_weight=0, prototype_weight=0, num_clusters=1, warm_up_epochs=0)
    for share in (0, 1):
        RGCF(3, 4, prune_below=share, added_edges=0, ssl_weight=0)
    SGL(3, 4, drop_rate=0, ssl_weight=0)
    NGCF(3, 4, hidden_dims=(), message_dropout=0)
    NeuMF(3, 4, hidden_dims=(1,), dropout=0)
