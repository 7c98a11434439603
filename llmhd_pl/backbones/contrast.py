"""The contrastive term of SGL, NCL and RGCF: each node of a batch against the nodes of its kind."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llmhd_pl.backbones.seeding import seeded_generator
from llmhd_pl.losses import info_nce, sampled_info_nce


def check_num_contrasted(num_contrasted: int | None) -> None:
    """Raise a ``ValueError`` if the number of nodes that a node is contrasted with is not None or at least 1."""
    if num_contrasted is not None and num_contrasted < 1:
        raise ValueError(
            f"num_contrasted is {num_contrasted}; it must be at least 1. Leave it out for all nodes of the kind."
        )


def distinct(nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different nodes of a batch, int64 [n], and how many times each one occurs, [n].

    Only a CPU looks for what occurs twice. Elsewhere the size of the result would have to be waited for, and the few
    rows that are saved are not worth that: every occurrence is a row, and counts once.

    Args:
        nodes: The nodes, int64 [B].
    """
    if nodes.device.type == "cpu":
        unique, counts = nodes.unique(return_counts=True)
        return unique, counts
    return nodes, torch.ones_like(nodes)


def drawn_nodes(like: Tensor, num_contrasted: int | None, *key: int | str) -> Tensor | None:
    """Draw the nodes of a table that a whole batch is contrasted with, uniformly and with repetitions.

    Args:
        like: The table of all nodes of a kind, [m, d]. The draws are made on its device.
        num_contrasted: The number of draws, k. None is no draws.
        *key: What the draws depend on, for example a name, the seed and the step.

    Returns:
        The nodes, int64 [k]; None if the table has no more than k nodes, so that all of them cost less.
    """
    if num_contrasted is None or num_contrasted >= len(like):
        return None
    generator = seeded_generator(like.device, *key)
    return torch.randint(len(like), (num_contrasted,), generator=generator, device=like.device)


def contrast(nodes: Tensor, table: Tensor, other: Tensor, temperature: float, drawn: Tensor | None) -> Tensor:
    """Return the sum of InfoNCE over the nodes of a batch, each one's row in a table against the rows of another table.

    The positive of a node is its own row in the other table.

    Args:
        nodes: The nodes, int64 [B].
        table: The table of the anchors, [m, d].
        other: The table of the positives and of what they are contrasted with, [m, d].
        temperature: The temperature.
        drawn: The nodes that are contrasted, int64 [k]; None is all m.

    Returns:
        The sum, a scalar.
    """
    unique, counts = distinct(nodes)
    anchors, positives = F.embedding(unique, table), F.embedding(unique, other)
    if drawn is None:
        return info_nce(anchors, positives, other, temperature, counts)
    own = unique.int()[:, None] == drawn.int()
    return sampled_info_nce(anchors, positives, F.embedding(drawn, other), temperature, counts, own, len(other))
