"""Alignment: projections of sentence embeddings, learned from the training interactions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HIDDEN, _OUT = 128, 64
_TEMPERATURE = 0.2
_LEARNING_RATE = 1e-3
_BATCH = 1024
_STEPS = 600

RECIPE = f"{_HIDDEN}-{_OUT} t{_TEMPERATURE} lr{_LEARNING_RATE} b{_BATCH} s{_STEPS}"
"""The settings above as text: what was learned with other settings has another cache key."""


def align(embeddings: Tensor, pairs: Tensor, seed: int) -> dict[str, Tensor]:
    """Learn the two projections from interactions. 200,000 of them take less than a minute on one core.

    Args:
        embeddings: The centred embeddings of the items, float32 [items, d].
        pairs: The training interactions (user, item), int64 [n, 2], without repetitions.
        seed: The seed of the initial weights and of the order of the interactions.

    Returns:
        The state dict of the projections.
    """
    users, user_rows = pairs[:, 0].unique(return_inverse=True)
    items = pairs[:, 1]
    count = torch.bincount(user_rows, minlength=len(users))
    sums = embeddings.new_zeros(len(users), embeddings.shape[1]).index_add_(0, user_rows, embeddings[items])
    # Users with a single item teach nothing: leaving it out leaves nothing.
    samples = (count[user_rows] > 1).nonzero().flatten()
    log_popularity = torch.bincount(items, minlength=len(embeddings)).clamp(min=1).log()
    scaled = scale(embeddings)

    generator = torch.Generator().manual_seed(seed)
    projections = make_projections(embeddings.shape[1], generator)
    optimizer = torch.optim.AdamW(projections.parameters(), lr=_LEARNING_RATE, weight_decay=0)
    # With few interactions, use smaller batches and at most ten epochs, or their noise is learned by heart.
    batch_size = min(_BATCH, max(64, len(samples) // 64))
    per_epoch = -(-len(samples) // batch_size)
    epochs = min(10, max(3, round(_STEPS / max(1, per_epoch))))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs * per_epoch))
    for _ in range(epochs):
        for batch in samples[torch.randperm(len(samples), generator=generator)].split(batch_size):
            left_out = sums[user_rows[batch]] - embeddings[items[batch]]
            # Each item once: it must not be its own negative.
            candidates, target = items[batch].unique(return_inverse=True)
            preferences = F.normalize(projections["preference"](scale(left_out)), dim=1)
            judged = F.normalize(projections["item"](scaled[candidates]), dim=1)
            logits = preferences @ judged.T / _TEMPERATURE - log_popularity[candidates]
            loss = F.cross_entropy(logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return projections.state_dict()


def make_projections(width: int, generator: torch.Generator | None = None) -> nn.ModuleDict:
    """Build the projections "preference" and "item", each with one hidden layer.

    Args:
        width: The width of the embeddings.
        generator: The source of the initial weights. None leaves the weights uninitialised, for a state dict that is
            loaded afterwards.
    """
    names = ("preference", "item")
    # Uninitialised at first: the usual initialisation would draw from torch's global generator and advance it.
    modules = nn.ModuleDict(
        {
            name: nn.Sequential(
                nn.utils.skip_init(nn.Linear, width, _HIDDEN), nn.ReLU(), nn.utils.skip_init(nn.Linear, _HIDDEN, _OUT)
            )
            for name in names
        }
    )
    if generator is not None:
        with torch.no_grad():
            for layer in modules.modules():
                if isinstance(layer, nn.Linear):
                    bound = 1 / math.sqrt(layer.in_features)
                    for parameter in layer.parameters():
                        parameter.uniform_(-bound, bound, generator=generator)
    return modules


def scale(vectors: Tensor) -> Tensor:
    """Return the directions of vectors with entries of about 1, which is what a linear layer expects."""
    return F.normalize(vectors, dim=1) * math.sqrt(vectors.shape[1])
