"""HeteroGraphData: the interactions in a graph of PyTorch Geometric, with users and items as nodes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from llmhd_pl.datamodules.arguments import check_finite
from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.datamodules.interactions import Interactions, unique_pairs
from llmhd_pl.datamodules.noise import NoiseSource
from llmhd_pl.datamodules.table import Table, sort_pairs, split

EdgeType = tuple[str, str, str]


class HeteroGraphData(InteractionDataModule):
    """A ``HeteroData`` of PyTorch Geometric, such as those of its ``MovieLens100K`` or ``AmazonBook``.

    Users and items are numbered as their nodes. Splits that the graph brings are kept: masks on the edges
    (``train_mask``, ``val_mask`` and ``test_mask``), or test edges in ``edge_label_index``; then a validation split is
    taken from the other edges. Otherwise the edges of each user are divided. Of a user and an item with several edges,
    one counts: the latest for a temporal split, else the last.

    Args:
        data: The graph, or a data set whose first element it is.
        edge_type: The edges from users to items, such as ("user", "rates", "movie"). None takes the only edges between
            two types of nodes; those that lead back do not count.
        rating_threshold: The lowest rating of a positive, in the edges' attribute ``rating`` (and ``edge_label`` for
            test edges). Edges with a lower rating are left out; ``noise_source="low_rating"`` draws from them. None
            takes every edge, and those test edges whose label is above 0.
        split: "random", or "temporal" by the edges' attribute ``time``, for a graph without a split.
        split_ratios: The shares of the training, validation and test split in each user's edges. Of a graph with test
            edges only the second is used.
        texts: The text fields of each item, by its node: ``[{"title": "Dune"}, ...]``. None takes the node attribute
            ``title``, a list of strings, if there is one.
        batch_size: The number of samples per optimiser step, over all devices together.
        eval_batch_size: The number of users ranked at once on each device.
        noise_ratio: The amount of noise added to the training split, as a share of its size.
        noise_source: "random" for unobserved pairs, "low_rating" for edges below ``rating_threshold``.
        negative_lifetime: The number of epochs for which a negative stays with its sample.
        seed: The seed of the random split, the noise, the order and the negatives.

    Raises:
        TypeError: If the data is no graph with several types of nodes.
        ValueError: If an argument is out of range, or if the graph lacks something or holds what cannot be; the message
            names the edges and the row.
    """

    def __init__(
        self,
        data: Any,
        edge_type: EdgeType | None = None,
        rating_threshold: float | None = None,
        split: Literal["random", "temporal"] = "random",
        split_ratios: tuple[float, float, float] = (0.6, 0.2, 0.2),
        texts: Sequence[Mapping[str, str]] | None = None,
        batch_size: int = 1024,
        eval_batch_size: int = 1024,
        noise_ratio: float = 0.0,
        noise_source: NoiseSource = "random",
        negative_lifetime: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, noise_ratio, noise_source, negative_lifetime, seed)
        if split not in ("random", "temporal"):
            raise ValueError(f"split is {split!r}; it must be 'random' or 'temporal'.")
        check_finite("rating_threshold", rating_threshold)
        if min(split_ratios) < 0 or split_ratios[0] <= 0 or abs(sum(split_ratios) - 1) > 1e-6:
            raise ValueError(
                f"split_ratios is {split_ratios}; it must be three shares that sum to 1, the first above 0."
            )
        self.graph = data if hasattr(data, "edge_types") else data[0] if hasattr(data, "__getitem__") else data
        if not isinstance(getattr(self.graph, "edge_types", None), list):
            raise TypeError(
                f"data is a {type(data).__name__}; it must be a torch_geometric.data.HeteroData, or a data set of one."
            )
        self.edge_type = self._only_edge_type() if edge_type is None else tuple(edge_type)
        if self.edge_type not in self.graph.edge_types:
            raise ValueError(f"There are no edges {self.edge_type}; the graph has {self._listed()}. Set edge_type.")
        self.rating_threshold, self.split, self.split_ratios, self.texts = rating_threshold, split, split_ratios, texts

    def _only_edge_type(self) -> EdgeType:
        found: list[EdgeType] = []
        for kind in self.graph.edge_types:
            source, _, target = kind
            back = any((target, source) == (other[0], other[2]) for other in found)
            if source != target and not back:
                found.append(kind)
        if len(found) != 1:
            raise ValueError(
                f"The graph has {len(found)} kinds of edges that may lead from users to items; it has "
                f"{self._listed()}. Say which they are: edge_type=('user', 'rates', 'item')."
            )
        return found[0]

    def _listed(self) -> str:
        return ", ".join(map(str, self.graph.edge_types)) or "no edges"

    def load(self) -> Interactions:
        """Read and split the edges.

        Raises:
            ValueError: If an edge leads nowhere, if a rating or a time is missing, or if no edge is left.
        """
        users, items = (self._num_nodes(place) for place in (0, 2))
        edges = self._edges("edge_index", users, items)
        liked, low = self._liked("rating", edges, default=None)
        store = self.graph[self.edge_type]
        if "train_mask" in store:
            masks = [self._mask(name, edges) & liked for name in ("train_mask", "val_mask", "test_mask")]
            train, valid, test = (_pairs(edges[:, mask], items) for mask in masks)
        elif "edge_label_index" in store:
            held_out = self._edges("edge_label_index", users, items)
            good, low_too = self._liked("edge_label", held_out, default=0.0)
            low = np.concatenate([low, low_too], axis=1)
            share = self.split_ratios[1]
            train, valid, _ = self._divided(edges, liked, items, (1 - share, share, 0.0))
            test = _pairs(held_out[:, good], items)
        else:
            train, valid, test = self._divided(edges, liked, items, self.split_ratios)
        return Interactions(
            name=f"the edges {self.edge_type}",
            num_users=users,
            num_items=items,
            train=train,
            valid=valid,
            test=test,
            low_rated=None if self.rating_threshold is None else _pairs(low, items),
            items=self._texts(items),
        )

    def _num_nodes(self, place: int) -> int:
        """The number of nodes of the users (0) or the items (2)."""
        nodes = self.graph[self.edge_type[place]]
        if "num_nodes" in nodes or any(isinstance(value, Tensor) for value in nodes.values()):
            return int(nodes.num_nodes)
        names = ("edge_index", "edge_label_index")
        ends = [self.graph[self.edge_type][name][place // 2] for name in names if name in self.graph[self.edge_type]]
        return max((int(end.max()) + 1 for end in ends if end.numel()), default=0)

    def _edges(self, name: str, users: int, items: int) -> np.ndarray:
        """Return edges, int64 [2, n], that lead from users to items."""
        edges = self.graph[self.edge_type].get(name)
        if not isinstance(edges, Tensor) or edges.is_floating_point() or edges.dim() != 2 or len(edges) != 2:
            what = f"{edges.dtype} {list(edges.shape)}" if isinstance(edges, Tensor) else type(edges).__name__
            raise ValueError(f"The {name} of {self.edge_type} is {what}; it must be whole numbers, [2, n].")
        for end, size, what in ((0, users, self.edge_type[0]), (1, items, self.edge_type[2])):
            outside = (edges[end] < 0) | (edges[end] >= size)
            if outside.any():
                row = int(outside.nonzero()[0])
                raise ValueError(
                    f"Edge {row} in the {name} of {self.edge_type} names {what} {int(edges[end, row])}, but there are "
                    f"{size} nodes {what!r}, numbered from 0. Repair the edge, or set num_nodes."
                )
        if name == "edge_index" and edges.shape[1] == 0:
            raise ValueError(f"The graph has no edges {self.edge_type}, so there is nothing to learn.")
        return edges.cpu().numpy().astype(np.int64)

    def _liked(self, name: str, edges: np.ndarray, default: float | None) -> tuple[np.ndarray, np.ndarray]:
        """Return which edges are positives, bool [n], and the others, [2, m]."""
        everything, none = np.ones(edges.shape[1], dtype=bool), edges[:, :0]
        if self.rating_threshold is None and (default is None or name not in self.graph[self.edge_type]):
            return everything, none
        ratings = self._attribute(name, edges, "Leave out rating_threshold for edges without ratings.")
        good = ratings > 0 if self.rating_threshold is None else ratings >= self.rating_threshold
        return good, none if self.rating_threshold is None else edges[:, ~good]

    def _attribute(self, name: str, edges: np.ndarray, remedy: str) -> np.ndarray:
        values = self.graph[self.edge_type].get(name)
        if not isinstance(values, Tensor) or values.numel() != edges.shape[1]:
            what = f"of shape {list(values.shape)}" if isinstance(values, Tensor) else "missing"
            raise ValueError(
                f"The attribute {name!r} of the edges {self.edge_type} is {what}; it must be one number for each of "
                f"the {edges.shape[1]} edges. {remedy}"
            )
        array: np.ndarray = values.cpu().numpy().reshape(-1)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array))[0])
            raise ValueError(f"The attribute {name!r} of edge {row} of {self.edge_type} is {array[row]}. Repair it.")
        return array

    def _mask(self, name: str, edges: np.ndarray) -> np.ndarray:
        store = self.graph[self.edge_type]
        if name not in store:
            return np.zeros(edges.shape[1], dtype=bool)
        return self._attribute(name, edges, "Repair the mask, or remove all three for a split of ours.").astype(bool)

    def _divided(
        self, edges: np.ndarray, liked: np.ndarray, num_items: int, ratios: tuple[float, float, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Divide the edges of each user, at random or by time."""
        users, items = edges[:, liked].astype(np.int32)
        table = Table(users, items)
        if self.split == "temporal":
            times = self._attribute("time", edges, "Set split='random' for edges without times.")
            table.times = np.unique(times, return_inverse=True)[1][liked]
        sort_pairs(table, num_items)
        parts = split(table, ratios, 0 if self.split == "temporal" else self.seed)
        train, valid, test = (table.pairs(parts == part) for part in range(3))
        return train, valid, test

    def _texts(self, num_items: int) -> list[dict[str, str]]:
        if self.texts is not None:
            return [dict(text) for text in self.texts]
        titles = self.graph[self.edge_type[2]].get("title")
        if not isinstance(titles, (list, tuple)):
            return []
        return [{"title": str(title)} if title else {} for title in titles]


def _pairs(edges: np.ndarray, num_items: int) -> Tensor:
    return unique_pairs(edges[0], edges[1], num_items)
