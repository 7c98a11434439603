import warnings
from typing import Any

import pytest
import torch
from small_models import BATCH, ITEMS, NUM_ITEMS, NUM_USERS, USERS, adjacency, attach, dense, fit, info_nce, normalized

from llmhd_pl.backbones import NCL

SETTINGS = {"embedding_dim": 4, "temperature": 0.4, "structure_weight": 0.3, "item_weight": 0.5, "num_clusters": 3}


def model(epoch: int, **arguments: Any) -> NCL:
    torch.manual_seed(0)
    made = NCL(NUM_USERS, NUM_ITEMS, prototype_weight=0.2, warm_up_epochs=5, **(SETTINGS | arguments))
    made.set_graph(USERS, ITEMS)
    attach(made, epoch)
    return made


@pytest.mark.parametrize("epoch", [4, 5])
def test_loss_and_gradient_equal_the_dense_formula(epoch: int) -> None:
    made = model(epoch)
    ours = made.auxiliary_loss(BATCH, torch.tensor(4.0))
    table = dense(made)
    laplacian = normalized(adjacency())
    context = laplacian @ laplacian @ table
    expected = torch.zeros((), dtype=torch.float64)
    for kind, weight, first, last in (("user", 1.0, 0, 5), ("positive", 0.5, 5, 11)):
        nodes = BATCH[kind] + first
        expected = expected + 0.3 * weight * info_nce(context[nodes], table[nodes], table[first:last], 0.4).sum()
        if epoch == 5:  # the warm-up is over
            centroids = made.centroids[:3].double() if first == 0 else made.centroids[3:].double()
            expected = expected + 0.2 * info_nce(table[nodes], centroids[made.cluster[nodes]], centroids, 0.4).sum()
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(ours, made.embedding.weight)
    (other,) = torch.autograd.grad(expected, table)
    torch.testing.assert_close(gradient.double(), other, atol=1e-5, rtol=1e-4)
    assert (int(made.clustered_epoch) == 5) == (epoch == 5)


def test_clusters_are_k_means() -> None:
    """Each node belongs to the nearest centre, and each centre is the mean of its nodes."""
    made = model(5, num_clusters=2)
    made.embedding.weight.data[:5] = torch.tensor([0.0, 0.1, 0.2, 9.0, 9.2])[:, None]
    made.auxiliary_loss(BATCH, torch.tensor(4.0))
    low, high = made.cluster[0], made.cluster[3]
    assert made.cluster[:5].tolist() == [low, low, low, high, high]
    for number, mean in ((low, 0.1), (high, 9.1)):
        assert made.centroids[number].tolist() == pytest.approx([mean] * 4, abs=1e-5)
    items, centroids = made.embedding.weight[5:].detach(), made.centroids[2:]
    assert torch.equal(made.cluster[5:], torch.cdist(items, centroids).argmin(1))
    for number in (0, 1):
        torch.testing.assert_close(centroids[number], items[made.cluster[5:] == number].mean(0))


def test_clusters_belong_to_the_epoch_and_come_with_the_checkpoint() -> None:
    made = model(5)
    made.auxiliary_loss(BATCH, torch.tensor(4.0))
    found = made.centroids.clone()
    made.embedding.weight.data.normal_()
    made.auxiliary_loss(BATCH, torch.tensor(4.0))
    assert torch.equal(made.centroids, found)  # once an epoch
    resumed = model(5)
    resumed.load_state_dict(made.state_dict())
    resumed.auxiliary_loss(BATCH, torch.tensor(4.0))
    assert torch.equal(resumed.centroids, found)
    attach(resumed, 6)
    resumed.auxiliary_loss(BATCH, torch.tensor(4.0))
    assert not torch.equal(resumed.centroids, found)
    resumed.setup("fit")  # a new fit has clusters of its own, whatever its epoch
    assert int(resumed.clustered_epoch) == -1


def test_no_more_clusters_than_nodes() -> None:
    made = model(5, num_clusters=1000)
    made.auxiliary_loss(BATCH, torch.tensor(4.0))
    assert made.centroids.shape == (11, 4)
    assert made.cluster[:5].sort().values.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="num_clusters"):
        model(0, num_clusters=0)


@pytest.mark.parametrize(
    ("length", "epochs"),
    [
        ({"max_epochs": 2}, "2"),
        ({"max_steps": 9}, "1.8"),  # there are five batches an epoch
        ({"max_epochs": 3, "max_steps": 6, "accumulate_grad_batches": 2}, "2"),
    ],
)
def test_a_run_that_ends_before_the_prototypes_are_used_is_warned_of(length: dict[str, int], epochs: str) -> None:
    with pytest.warns(UserWarning, match=rf"NCL: .*warm_up_epochs=2, .* at most {epochs} epochs. Lower warm_up_epochs"):
        fit(NCL(60, 50, embedding_dim=4, warm_up_epochs=2), limit_val_batches=0, **({"max_epochs": -1} | length))


@pytest.mark.parametrize(
    ("arguments", "length"),
    [({}, {"max_epochs": 3}), ({}, {"max_steps": 11}), ({"prototype_weight": 0.0}, {"max_epochs": 1})],
)
def test_and_no_other_run(arguments: dict[str, float], length: dict[str, int]) -> None:
    made: Any = NCL(60, 50, embedding_dim=4, num_clusters=3, warm_up_epochs=2, **arguments)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="NCL")
        fit(made, limit_val_batches=0, **({"max_epochs": -1} | length))
    assert (int(made.clustered_epoch) == 2) == (not arguments)
