import pytest
import torch
from sklearn.cluster import KMeans  # type: ignore[import-untyped]

from llmhd_pl.backbones.k_means import k_means


def points(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(600, 8, generator=generator)
    if kind == "far from the origin":
        return found + 100
    if kind == "in groups":
        return 0.1 * found + torch.randn(7, 8, generator=generator)[torch.arange(600) % 7]
    if kind == "often the same":  # so that clusters start from the same point, and stay empty
        found[::2] = found[0].clone()
    return found


@pytest.mark.parametrize("kind", ["everywhere", "far from the origin", "in groups", "often the same"])
@pytest.mark.parametrize("clusters", [1, 20, 100])
def test_it_is_that_of_scikit_learn(kind: str, clusters: int) -> None:
    given = points(kind)
    centres, cluster = k_means(given, clusters, seed=5)
    theirs = KMeans(clusters, init="random", n_init=1, max_iter=25, random_state=5).fit(given.numpy())
    if kind == "often the same":  # rounding decides to which of the same centres a point belongs, and so which is empty
        lost = float((given - centres[cluster]).square().sum())
        assert lost == pytest.approx(theirs.inertia_, rel=0.03, abs=1e-3)
        return
    assert cluster.tolist() == theirs.labels_.tolist()
    torch.testing.assert_close(centres, torch.from_numpy(theirs.cluster_centers_), atol=1e-4, rtol=1e-5)


def test_an_empty_cluster_gets_the_farthest_point() -> None:
    """Two clusters start from the same place; by hand, the second would stay empty."""
    given = torch.tensor([[0.0], [0.0], [0.0], [0.1], [9.0]])
    for seed in range(20):
        centres, cluster = k_means(given, 3, seed)
        assert len(cluster.unique()) == 3, (seed, centres)
        assert centres[cluster[4]].item() == pytest.approx(9.0, abs=1e-5)


def test_as_many_clusters_as_points_and_points_that_are_the_same() -> None:
    centres, cluster = k_means(torch.tensor([[1.0], [5.0], [3.0]]), 3, 0)
    assert centres[cluster].flatten().tolist() == pytest.approx([1, 5, 3])
    centres, _ = k_means(torch.ones(4, 2), 3, 0)
    assert torch.equal(centres, torch.ones(3, 2))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = k_means(points("everywhere"), 20, 0)
    monkeypatch.setattr("llmhd_pl.backbones.k_means._ROWS", 7)
    torch.testing.assert_close(k_means(points("everywhere"), 20, 0), found)
