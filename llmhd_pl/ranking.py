"""The top K of catalogues that are too large for the predictions of a batch of users to be held at once."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from llmhd_pl.finite import check_predictions

Top = tuple[Tensor, Tensor]
"""Predictions, float [users, K], and their items, int64 [users, K], best first."""
AT_ONCE = 2**28
"""The number of predictions that a ranking holds at once: 1 GiB of float32."""


def top_items(scores: Tensor, seen: Tensor, k: int, where: str = "Ranking") -> Top:
    """Return the top K unseen items of each user.

    Args:
        scores: The predictions, [users, items]. They are left as they are.
        seen: The (row, item) pairs to leave out, int64 [2, n].
        k: The length of the ranking; at most all items are ranked.
        where: The beginning of the message of an error.

    Raises:
        FloatingPointError: If predictions are not finite; see ``check_predictions``.
    """
    check_predictions(scores, where)
    with _left_out(scores, seen[0], seen[1]) as unseen:
        top = unseen.topk(min(k, unseen.shape[1]), dim=1)
    return top.values, top.indices


def top_items_by_users(
    rank: Callable[[Tensor], Tensor], users: Tensor, seen: Tensor, k: int, at_once: int, where: str = "Ranking"
) -> Top:
    """Return the top K unseen items of each user, for a few users at a time.

    Args:
        rank: Returns the predictions of all items for some users, [r, items].
        users: The users, int64 [n].
        seen: The (row, item) pairs to leave out, int64 [2, m].
        k: The length of the ranking.
        at_once: The number of users at a time.
        where: The beginning of the message of an error.

    Raises:
        FloatingPointError: If predictions are not finite; see ``check_predictions``.
    """
    found = []
    for rows in torch.arange(len(users), device=users.device).split(at_once):
        found.append(top_items(rank(users[rows]), _of_rows(seen, rows, len(users)), k, where))
    values, items = zip(*found, strict=True)
    return torch.cat(values), torch.cat(items)


def top_items_by_blocks(
    blocks: Iterable[Tensor],
    rank: Callable[[Tensor], Tensor],
    users: Tensor,
    seen: Tensor,
    k: int,
    at_once: int,
    where: str = "Ranking",
) -> Top:
    """Return the top K unseen items of each user, from the predictions of a block of items at a time.

    It is the same ranking as that of ``top_items`` on all predictions. Among equal predictions, ``topk`` chooses as it
    likes. So users with equal ones among their K + 1 best, of whom only those know who chose, are ranked by
    ``top_items`` itself.

    Args:
        blocks: The predictions of consecutive items for all users, [n, width] each. They are left as they are.
        rank: Returns the predictions of all items for some users, [r, items].
        users: The users, int64 [n], with n > 0.
        seen: The (row, item) pairs to leave out, int64 [2, m].
        k: The length of the ranking.
        at_once: The number of users for whom all predictions may be held at once.
        where: The beginning of the message of an error.

    Raises:
        FloatingPointError: If predictions are not finite; see ``check_predictions``.
    """
    rows, columns = seen[:, seen[1].argsort()]
    best: Top | None = None
    highest: Tensor | None = None  # of each user, for the check
    first = 0
    for block in blocks:
        if best is None:
            best = (block.new_full((len(block), k + 1), -torch.inf), rows.new_full((len(block), k + 1), -1))
        after = first + block.shape[1]
        largest = block.amax(dim=1)
        highest = largest if highest is None else torch.maximum(highest, largest)
        here = slice(*torch.searchsorted(columns, columns.new_tensor([first, after])).tolist())
        # In most blocks, most users find nothing that is better than the last of their K + 1.
        better = (largest > best[0][:, -1]).nonzero().squeeze(1)
        if len(better):
            with _left_out(block, rows[here], columns[here] - first) as unseen:
                top = unseen[better].topk(min(k + 1, block.shape[1]), dim=1)
            values = torch.cat([best[0][better], top.values], dim=1)
            items = torch.cat([best[1][better], top.indices + first], dim=1)
            values, places = values.topk(k + 1, dim=1)
            best[0][better], best[1][better] = values, items.gather(1, places)
        first = after
    assert best is not None and highest is not None
    check_predictions(highest[:, None], where)
    k = min(k, first)
    values, items = best[0][:, :k].clone(), best[1][:, :k].clone()
    tied = (best[0].diff(dim=1) == 0).any(dim=1) | best[0].isneginf().any(dim=1)
    unclear = tied.nonzero().squeeze(1)
    if len(unclear):
        again = _of_rows(seen, unclear, len(users))
        values[unclear], items[unclear] = top_items_by_users(rank, users[unclear], again, k, at_once, where)
    return values, items


def hits_among(items: Tensor, relevant: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
    """Return which items of a ranking are relevant.

    Args:
        items: The ranked items, int64 [users, K].
        relevant: The (row, item) pairs of the held-out items, int64 [2, m]; no pair may occur twice.
        num_items: The number of items.

    Returns:
        ``hits``, bool [users, K], in the order of the ranking, and ``num_relevant``, int64 [users], the number of
        held-out items of each user.
    """
    rows = torch.arange(len(items), device=items.device)
    keys = (relevant[0] * num_items + relevant[1]).sort().values
    edges = torch.searchsorted(keys, torch.cat([rows, rows[-1:] + 1]) * num_items)
    ranked = rows[:, None] * num_items + items
    places = torch.searchsorted(keys, ranked)
    hits = torch.zeros_like(ranked, dtype=torch.bool)
    if len(keys):
        hits = keys[places.clamp(max=len(keys) - 1)] == ranked
    return hits, edges.diff()


@contextmanager
def _left_out(scores: Tensor, rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Within it, predictions are -inf in some places, int64 [n] each. Yields all of them, [users, items].

    Afterwards they are what they were, because a model may keep what its ``rank`` returns. They are copied only if they
    are no plain matrix, such as a view in which one row stands for all users.
    """
    scores = scores.contiguous()
    places = rows * scores.shape[1] + columns
    kept = scores.view(-1).index_select(0, places)
    scores[rows, columns] = -torch.inf
    try:
        yield scores
    finally:
        scores.view(-1).index_copy_(0, places, kept)


def _of_rows(pairs: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return the (row, item) pairs of some of ``count`` rows, which are numbered anew: int64 [2, n]."""
    place = rows.new_full((count,), -1)
    place[rows] = torch.arange(len(rows), device=rows.device)
    own = place[pairs[0]]
    return torch.stack([own, pairs[1]])[:, own >= 0]
