from typing import Any

import pytest
import torch
from small_models import BATCH, ITEMS, NUM_ITEMS, NUM_USERS, USERS, attach

from llmhd_pl.backbones import NCL, RGCF, SGL
from llmhd_pl.backbones.contrast import contrast, drawn_nodes
from llmhd_pl.losses import info_nce

MODELS: dict[str, Any] = {"SGL": SGL, "NCL": NCL, "RGCF": RGCF}


def model(name: str, num_contrasted: int | None, **arguments: Any) -> Any:
    torch.manual_seed(0)
    weights = {"structure_weight": 0.1, "prototype_weight": 0.0} if name == "NCL" else {"ssl_weight": 0.1}
    made = MODELS[name](
        NUM_USERS, NUM_ITEMS, embedding_dim=4, num_layers=2, num_contrasted=num_contrasted, **weights | arguments
    )
    made.set_graph(USERS, ITEMS)
    attach(made)
    return made


def loss(made: Any) -> torch.Tensor:
    found: torch.Tensor = made.auxiliary_loss(BATCH, torch.tensor(4.0)).detach()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_drawn_nodes_take_the_place_of_all(name: str) -> None:
    """The loss depends on the seed and the step, and with more draws than nodes it is the paper's."""
    exact, some = loss(model(name, None)), loss(model(name, 3))
    assert not torch.allclose(some, exact, rtol=1e-4)
    assert torch.equal(loss(model(name, 3)), some)
    assert not torch.equal(loss(model(name, 3, seed=1)), some)
    torch.testing.assert_close(loss(model(name, 100)), exact)
    with pytest.raises(ValueError, match="num_contrasted is 0"):
        model(name, 0)


def test_draws_depend_on_the_step() -> None:
    table = torch.zeros(50, 2)
    first, again, next_ = (drawn_nodes(table, 20, "sgl", "users", 0, step) for step in (0, 0, 1))
    assert first is not None and again is not None and next_ is not None
    assert torch.equal(first, again) and not torch.equal(first, next_)
    assert first.max() < 50 and first.unique().numel() > 10
    assert drawn_nodes(table, 50, "sgl") is None and drawn_nodes(table, None, "sgl") is None


@pytest.mark.parametrize("drawn", [None, torch.tensor([0, 6, 6, 3])])
def test_a_node_that_is_twice_in_a_batch_counts_twice(drawn: torch.Tensor | None) -> None:
    generator = torch.Generator().manual_seed(0)
    table, other = (torch.randn(7, 4, generator=generator) for _ in range(2))
    nodes = torch.tensor([1, 6, 1, 0])
    one_by_one = sum(contrast(nodes[place : place + 1], table, other, 0.3, drawn) for place in range(4))
    torch.testing.assert_close(contrast(nodes, table, other, 0.3, drawn), one_by_one)
    if drawn is None:
        torch.testing.assert_close(one_by_one, info_nce(table[nodes], other[nodes], other, 0.3, torch.ones(4)))
