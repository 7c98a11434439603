import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmhd_pl.llm.alignment import align, make_projections, scale

NUM_ITEMS, WIDTH = 200, 32


def auc(positive: Tensor, negative: Tensor) -> float:
    positive, negative = positive[~positive.isnan()], negative[~negative.isnan()]
    return float((positive[:, None] > negative).float().mean() + 0.5 * (positive[:, None] == negative).float().mean())


def test_alignment_never_sees_an_item_in_its_own_mean() -> None:
    # Random interactions with random vectors: nothing can be learnt but "this item is part of the mean".
    rng = np.random.default_rng(2)
    pairs = torch.tensor([[u, i] for u in range(2000) for i in sorted(rng.choice(NUM_ITEMS, 4, replace=False))])
    table = torch.from_numpy(rng.normal(size=(NUM_ITEMS, WIDTH))).float()
    projections = make_projections(WIDTH)
    projections.load_state_dict(align(table, pairs, seed=0))
    sums = torch.zeros(2000, WIDTH).index_add_(0, pairs[:, 0], table[pairs[:, 1]])
    with torch.no_grad():
        preferences = F.normalize(projections["preference"](scale(sums)), dim=1)
        judged = F.normalize(projections["item"](scale(table)), dim=1)
    fits = preferences @ judged.T
    inside = torch.zeros(fits.shape, dtype=torch.bool)
    inside[pairs[:, 0], pairs[:, 1]] = True
    assert auc(fits[inside][:5000], fits[~inside][:5000]) < 0.6
