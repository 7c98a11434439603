"""K-means on the device that the points are on."""

import numpy as np
import torch
from torch import Tensor

_ROWS = 256  # the points at once on a CPU: their distances to 1,000 centres stay in its cache
_DISTANCES = 2**27  # the distances at once on another device: 512 MB
_TOLERANCE = 1e-4


@torch.no_grad()
def k_means(points: Tensor, num_clusters: int, seed: int, iterations: int = 25) -> tuple[Tensor, Tensor]:
    """Find clusters by Lloyd's algorithm, starting from random points.

    It is ``KMeans(num_clusters, init="random", n_init=1, max_iter=25, random_state=seed)`` of scikit-learn: it starts
    from the same points, gives empty clusters the points that are farthest from their centres, and stops early when the
    centres hardly move. Only the rounding differs.

    Args:
        points: The points, float32 [n, d].
        num_clusters: The number of clusters, k, at most n.
        seed: The seed of the points to start from.
        iterations: The most iterations.

    Returns:
        The centres, float32 [k, d], and the number of each point's cluster, int64 [n].
    """
    start = np.random.RandomState(seed).choice(
        len(points), num_clusters, replace=False, p=np.full(len(points), 1 / len(points))
    )
    middle = points.mean(dim=0)
    points = points - middle
    centres = points[torch.from_numpy(start).to(points.device)]
    enough = _TOLERANCE * points.var(dim=0, correction=0).mean()
    for _ in range(iterations):
        cluster, distances = _nearest(points, centres)
        sizes = points.new_zeros(num_clusters).index_add_(0, cluster, points.new_ones(len(points)))
        sums = torch.zeros_like(centres).index_add_(0, cluster, points)
        empty = (sizes == 0).nonzero().squeeze(1)
        if len(empty) and distances.max() > 0:
            farthest = distances.topk(len(empty)).indices
            sums.index_add_(0, cluster[farthest], points[farthest], alpha=-1)
            sizes.index_add_(0, cluster[farthest], -torch.ones_like(sizes[empty]))
            sums[empty], sizes[empty] = points[farthest], torch.ones_like(sizes[empty])
        moved = torch.where(sizes[:, None] > 0, sums / sizes[:, None], centres)
        shift = (moved - centres).square().sum()
        centres = moved
        if shift <= enough:
            break
    return centres + middle, _nearest(points, centres)[0]


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest centre of each point, int64 [n], and its squared distance, float32 [n]."""
    norms = centres.square().sum(dim=1)
    rows = _ROWS if points.device.type == "cpu" else max(1, _DISTANCES // len(centres))
    found = [torch.addmm(norms, part, centres.t(), alpha=-2).min(dim=1) for part in points.split(rows)]
    distances = torch.cat([part.values for part in found]) + points.square().sum(dim=1)
    return torch.cat([part.indices for part in found]), distances
