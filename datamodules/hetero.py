"""HeteroGraphData: a bipartite graph of PyTorch Geometric, such as its MovieLens and AmazonBook data sets."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from llmhd_pl.datamodules.arguments import check_finite, check_split
from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.datamodules.hetero_edges import Edges, choose_edge_type, only_graph
from llmhd_pl.datamodules.hetero_texts import item_texts
from llmhd_pl.datamodules.interactions import Interactions
from llmhd_pl.datamodules.noise import NoiseSource
from llmhd_pl.datamodules.table import Table, sort_pairs, split

if TYPE_CHECKING:
    from torch_geometric.data import Dataset, HeteroData


class HeteroGraphData(InteractionDataModule):
    """A ``HeteroData`` of PyTorch Geometric, or one of its data sets, with an edge for each interaction.

    Users and items keep the numbers that the nodes have in the graph, also those without edges. What the graph itself
    says about the splits is followed:

    * With ``train_mask``, ``val_mask`` and ``test_mask`` on the edges, these are the splits; an edge in no mask is in
      no split.
    * With an ``edge_label_index``, its edges are the test split, except those whose ``edge_label`` is 0, which are no
      edges; with a ``rating_threshold``, such a label is an error. ``edge_index`` is divided among the training and
      validation split.
    * Otherwise ``edge_index`` is divided among all three.

    Of an edge that occurs several times in a part, one row counts: the latest for a temporal split, else the last.

    Args:
        data: The graph, or a data set that holds this one graph. It is only read, when the data is first needed.
        edge_type: The edges that lead from users to items, such as ``("user", "rates", "item")``. None is the only edge
            type between two different types of nodes, where the reverse of an edge type does not count.
        rating_threshold: The lowest rating of a positive. Edges with a lower rating are left out of all splits;
            ``noise_source="low_rating"`` draws from them. None takes every edge, rated or not.
        rating_attr: The attribute with the ratings of ``edge_index``, [E] or [E, 1], such as "rating", "edge_attr" or
            "edge_label". It is read with a threshold only. The ratings of ``edge_label_index`` are in ``edge_label``.
        split: How edges are divided where the graph does not say it: "random", or "temporal" to take each user's
            latest edges as the test split and those before them as the validation split. Edges of the same time are in
            a random order, the same for every seed.
        time_attr: The attribute with the times of ``edge_index``, [E] or [E, 1]. It is read for a temporal split only.
        split_ratios: The shares of the training, validation and test split in each user's edges. With an
            ``edge_label_index``, only the ratio of the first two matters; (1, 0, 0) trains on all of ``edge_index``.
            A share above zero gets at least one edge, as long as one is left for training.
        texts: The text of each item, a string or a dict of fields, by number of the node. None takes every attribute of
            the items that is a list of one string per item, such as ``data["item"].title``.
        batch_size: The number of samples per optimiser step, over all devices together.
        eval_batch_size: The number of users ranked at once on each device.
        noise_ratio: The amount of noise added to the training split, as a share of its size.
        noise_source: "random" for unobserved pairs, "popular" for such of active users and popular
            items, "low_rating" for edges below ``rating_threshold``.
        negative_lifetime: The number of epochs for which a negative stays with its sample.
        seed: The seed of the random split, the noise, the order and the negatives.
        num_negatives: The number of items that are drawn for each sample; see ``InteractionDataModule``.

    Raises:
        ValueError: If an argument is out of range; the message says which.
    """

    def __init__(
        self,
        data: "HeteroData | Dataset",
        edge_type: tuple[str, str, str] | None = None,
        rating_threshold: float | None = None,
        rating_attr: str = "rating",
        split: Literal["random", "temporal"] = "random",
        time_attr: str = "time",
        split_ratios: tuple[float, float, float] = (0.6, 0.2, 0.2),
        texts: Sequence[str | Mapping[str, Any]] | None = None,
        batch_size: int = 1024,
        eval_batch_size: int = 1024,
        noise_ratio: float = 0.0,
        noise_source: NoiseSource = "random",
        negative_lifetime: int = 5,
        seed: int = 0,
        num_negatives: int = 1,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, noise_ratio, noise_source, negative_lifetime, seed, num_negatives)
        check_split(split, split_ratios, Literal["random", "temporal"])
        check_finite("rating_threshold", rating_threshold)
        self.data = data
        self.edge_type = edge_type
        self.rating_threshold = rating_threshold
        self.rating_attr, self.time_attr = rating_attr, time_attr
        self.split: Literal["random", "temporal"] = split
        self.split_ratios = split_ratios
        self.texts = texts

    def load(self) -> Interactions:
        """Read, check, filter and split the edges.

        Raises:
            TypeError: If the data is neither a ``HeteroData`` nor a data set whose graph is one.
            ValueError: If the data set holds several graphs, the edge type is missing or not the only one, the graph is
                malformed (see ``Edges`` and ``item_texts``), an attribute that is needed is missing, no edge reaches
                the threshold, or there is a threshold and an ``edge_label`` is 0.
        """
        graph = only_graph(self.data)
        edge_type = choose_edge_type(graph, self.edge_type)
        edges = Edges(graph, edge_type, type(self.data).__name__)
        parts, low = self._split(edges)
        return Interactions(
            name=edges.name,
            num_users=edges.num_users,
            num_items=edges.num_items,
            train=parts[0],
            valid=parts[1],
            test=parts[2],
            low_rated=None if self.rating_threshold is None else torch.cat(low),
            items=item_texts(graph, edge_type[2], edges.num_items, self.texts),
        )

    def _split(self, edges: Edges) -> tuple[list[Tensor], list[Tensor]]:
        """Return the pairs of the three splits, and those that are rated too low for them."""
        users, items = edges.pairs("edge_index")
        masks = edges.masks()
        table = Table(users, items, self._grades(edges))
        if masks is not None:
            tables = [Table(users[mask], items[mask], _of(table.grades, mask)) for mask in masks]
            low = [self._take_positives(part, edges) for part in tables]
            return [part.pairs() for part in tables], low
        if self.split == "temporal":
            remedy = "Set time_attr, or split at random."
            # Their order is all that matters, and of floats it is the rank.
            times = edges.values(self.time_attr, "edge_index", remedy)
            table.times = times.unique(return_inverse=True)[1].numpy()
        low = [self._take_positives(table, edges)]
        if len(table) == 0:
            raise ValueError(
                f"{edges.name}: no edge has a {self.rating_attr!r} of {self.rating_threshold} or more. Lower "
                "rating_threshold."
            )
        ratios, test = self.split_ratios, None
        if "edge_label_index" in edges:
            test, low_test = self._labelled(edges)
            low.append(low_test)
            ratios = (ratios[0] / (ratios[0] + ratios[1]), ratios[1] / (ratios[0] + ratios[1]), 0.0)
        # A split by time does not depend on the seed.
        numbers = split(table, ratios, 0 if self.split == "temporal" else self.seed)
        train, valid, rest = (table.pairs(numbers == part) for part in range(3))
        return [train, valid, rest if test is None else test], low

    def _labelled(self, edges: Edges) -> tuple[Tensor, Tensor]:
        """Return the pairs of ``edge_label_index``, and those that are rated too low."""
        table = Table(*edges.pairs("edge_label_index"))
        remedy = "Add the ratings of edge_label_index, or leave out rating_threshold."
        if self.rating_threshold is not None:
            ratings = edges.values("edge_label", "edge_label_index", remedy)
            if none := int((ratings == 0).sum()):
                # RandomLinkSplit labels its negatives 0 and raises all ratings by 1 to tell them apart.
                raise ValueError(
                    f"{edges.name}: {none} of {len(ratings)} 'edge_label' are 0, as RandomLinkSplit labels the "
                    "non-edges that it samples, and it then adds 1 to each rating. With rating_threshold="
                    f"{self.rating_threshold}, give it neg_sampling_ratio=0. If 0 is a rating of yours, add 1 to all "
                    "ratings and to the threshold."
                )
            table.grades = _reach(ratings, self.rating_threshold)
        elif "edge_label" in edges:
            table.take((edges.values("edge_label", "edge_label_index", "Correct or remove it.") != 0).numpy())
        low = self._take_positives(table, edges)
        if len(table) == 0:
            raise ValueError(
                f"{edges.name}: no edge of edge_label_index counts, because every 'edge_label' is 0 or below "
                f"rating_threshold={self.rating_threshold}. Lower it, or remove edge_label_index."
            )
        return table.pairs(), low

    def _grades(self, edges: Edges) -> np.ndarray | None:
        """Return 1 for each edge of ``edge_index`` that is rated high enough, and 0 for the others."""
        if self.rating_threshold is None:
            return None
        remedy = "Set rating_attr, or leave out rating_threshold."
        if self.rating_attr == "edge_label" and "edge_label_index" in edges:
            raise ValueError(f"{edges.name}: 'edge_label' rates edge_label_index, not edge_index. {remedy}")
        return _reach(edges.values(self.rating_attr, "edge_index", remedy), self.rating_threshold)

    def _take_positives(self, table: Table, edges: Edges) -> Tensor:
        """Keep each pair once, in order, if its rating is high enough; return the others."""
        sort_pairs(table, edges.num_items)
        if table.grades is None:
            return table.pairs(slice(0))
        liked = table.grades > 0
        low = table.pairs(~liked)
        table.take(liked)
        return low


def _of(column: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if column is None else column[rows]


def _reach(ratings: Tensor, bound: float) -> np.ndarray:
    """Return whether each rating is the bound or more, as 0 and 1, uint8 [E]."""
    # Floats are compared in their own precision: 3.6 as float32 is below 3.6 as float64.
    exact = ratings if ratings.is_floating_point() else ratings.double()
    return (exact >= bound).numpy().astype(np.uint8)
