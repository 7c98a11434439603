"""The edges of one type in a graph of PyTorch Geometric, checked.

Nothing here imports torch_geometric, which takes seconds: a graph is whatever has node types and edge types.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

EdgeType = tuple[str, str, str]
MASKS = ("train_mask", "val_mask", "test_mask")
"""The names that PyTorch Geometric gives the masks of the three splits."""


def only_graph(data: Any) -> "HeteroData":
    """Return the graph itself, or the only graph of a data set.

    Args:
        data: A ``HeteroData``, or a data set whose only graph is one.

    Raises:
        TypeError: If it is neither.
        ValueError: If the data set does not hold exactly one graph.
    """
    kind, found = type(data).__name__, data
    if isinstance(data, (tuple, list)):
        raise TypeError(
            f"data is a {kind} of {len(data)}; one HeteroData or a data set with one is needed. Of the three graphs of "
            "RandomLinkSplit, give the last: its edge_index holds the training and validation edges, and its "
            "edge_label_index the test edges."
        )
    if isinstance(data, Dataset):
        count = len(data)  # type: ignore[arg-type]  # those of PyTorch Geometric have a length
        if count != 1:
            raise ValueError(f"{kind} holds {count} graphs; give one of them, such as data[0].")
        found = data[0]
        kind = f"{kind} of a {type(found).__name__}"
    if not _is_hetero(found):
        raise TypeError(
            f"data is a {kind} and has no edge types; a HeteroData, or a data set whose only graph is one, is needed. "
            "Build one in Python: data['user', 'rates', 'item'].edge_index = ..."
        )
    graph: HeteroData = found
    return graph


def _is_hetero(data: Any) -> bool:
    return hasattr(data, "edge_types") and hasattr(data, "node_types")


def choose_edge_type(graph: "HeteroData", wanted: Sequence[str] | None) -> EdgeType:
    """Return the edge type that is asked for or, by default, the only one between two different types of nodes.

    An edge type counts as the reverse of another, and is left out, if its name is that of the other with "rev_" in
    front, as ``ToUndirected`` names it, or if its edges are those of an earlier type with the ends exchanged.

    Args:
        graph: The graph.
        wanted: The edge type; None for the only one.

    Raises:
        ValueError: If there is no such edge type, or several to choose from.
    """
    types: list[EdgeType] = list(graph.edge_types)
    listed = ", ".join(map(str, types)) or "none"
    if wanted is not None:
        if isinstance(wanted, str) or tuple(wanted) not in types:
            raise ValueError(f"The graph has no edge type {wanted!r}. Set edge_type to one of those it has: {listed}.")
        return next(kind for kind in types if kind == tuple(wanted))
    found: list[EdgeType] = []
    for kind in types:
        ends = [other for other in types if kind[0] != kind[2] and (other[2], other[0]) == (kind[0], kind[2])]
        reverse = any(
            kind[1] == f"rev_{other[1]}" or (other in found and exchanged(graph, kind, other)) for other in ends
        )
        if kind[0] != kind[2] and not reverse:
            found.append(kind)
    if not found:
        raise ValueError(
            f"The graph has no edge type between two different types of nodes (its edge types: {listed}). Add one, "
            "such as data['user', 'rates', 'item'].edge_index, or name an edge type with edge_type."
        )
    if len(found) > 1:
        raise ValueError(
            f"Several edge types connect different types of nodes: {', '.join(map(str, found))}. Set edge_type to the "
            "one that leads from users to items."
        )
    return found[0]


def exchanged(graph: "HeteroData", first: EdgeType, second: EdgeType) -> bool:
    """Return whether two edge types have the same edges, in the same order, with the ends exchanged.

    Args:
        graph: The graph.
        first: One edge type.
        second: The other.
    """
    one, other = (graph[kind].get("edge_index") for kind in (first, second))
    same = isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape
    return bool(same and (one.cpu() == other.flip([0]).cpu()).all())


class Edges:
    """The edges of one type, from the users to the items.

    Args:
        graph: The graph.
        edge_type: The type of the edges.
        source: What error messages call the graph.

    Attributes:
        name: What error messages call the edges.
        num_users: The number of nodes at the beginning of the edges.
        num_items: The number of nodes at the end of the edges.

    Raises:
        ValueError: If a number of nodes is unknown, or there are no edges.
    """

    def __init__(self, graph: "HeteroData", edge_type: EdgeType, source: str) -> None:
        self.name = f"{source}, edge type {edge_type}"
        self._store = graph[edge_type]
        self.num_users, self.num_items = (self._count(graph, kind) for kind in (edge_type[0], edge_type[2]))

    def _count(self, graph: "HeteroData", node_type: str) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where the number is a guess, there is an error below
            number = graph[node_type].num_nodes if node_type in graph.node_types else None
        if number is None:
            raise ValueError(
                f"{self.name}: the number of {node_type!r} nodes is unknown. Set data[{node_type!r}].num_nodes."
            )
        return int(number)

    def __contains__(self, name: str) -> bool:
        return name in self._store

    def pairs(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the users and the items of some edges, int32 [E] each.

        Args:
            name: The attribute: "edge_index" or "edge_label_index".

        Raises:
            ValueError: If it is missing, no tensor of whole numbers [2, E], empty, or names a node that is not there.
        """
        if name not in self:
            raise ValueError(
                f"{self.name}: there is no {name}, only {self._names()}. Set it, int64 [2, E]; transforms such as "
                "ToSparseTensor come later."
            )
        index = self._store[name]
        whole = isinstance(index, Tensor) and not (index.is_floating_point() or index.is_complex())
        if not whole or index.dtype == torch.bool or index.dim() != 2 or len(index) != 2:
            raise ValueError(
                f"{self.name}: {name} is {_described(index)}; it must be torch.int64 [2, E], the users above the items."
                " Convert it, for example with .long()."
            )
        if index.shape[1] == 0:
            raise ValueError(f"{self.name}: {name} is empty. Add the interactions, or remove the attribute.")
        users, items = np.asarray(index.detach().cpu())
        for nodes, size, what in ((users, self.num_users, "user"), (items, self.num_items, "item")):
            outside = (nodes < 0) | (nodes >= size)
            if outside.any():
                row = int(outside.argmax())
                raise ValueError(
                    f"{self.name}: edge {row} of {name} names {what} {nodes[row]}, but the {what}s are numbered 0 to "
                    f"{size - 1}. Correct or remove the edge, or set num_nodes of the {what}s."
                )
        return users.astype(np.int32), items.astype(np.int32)

    def values(self, name: str, index: str, remedy: str) -> Tensor:
        """Return a number for each edge, [E].

        Args:
            name: The attribute, [E] or [E, 1].
            index: The edges that it belongs to: "edge_index" or "edge_label_index".
            remedy: How to do without the attribute or with another, for the error messages.

        Raises:
            ValueError: If it is missing, of another shape, or holds a number that is not finite.
        """
        if name not in self:
            raise ValueError(f"{self.name}: there is no {name!r}, only {self._names()}. {remedy}")
        values, count = self._store[name], self._store[index].shape[1]
        if not isinstance(values, Tensor) or values.is_complex() or values.shape not in ((count,), (count, 1)):
            raise ValueError(
                f"{self.name}: {name!r} is {_described(values)}; one number for each of the {count} edges of {index} "
                f"is needed. {remedy}"
            )
        values = values.detach().cpu().reshape(-1)
        wrong = ~values.isfinite()
        if wrong.any():
            row = int(wrong.nonzero()[0])
            user, item = self._store[index][:, row].tolist()
            raise ValueError(
                f"{self.name}: {name!r} of edge {row} (user {user}, item {item}) is {values[row].item()}, not a finite "
                "number. Correct it or remove the edge."
            )
        return values

    def masks(self) -> list[np.ndarray] | None:
        """Return which edges are in the training, validation and test split, bool [E] each; None without masks.

        A mask that is missing is empty, but there must be one for training.

        Raises:
            ValueError: If there is no ``train_mask`` beside others, a mask is not bool [E], two have an edge in common,
                or there is an ``edge_label_index`` too.
        """
        present = [name for name in MASKS if name in self]
        if not present:
            return None
        if "train_mask" not in present:
            raise ValueError(f"{self.name}: there is a {present[0]}, but no train_mask. Add it, or remove the others.")
        if "edge_label_index" in self:
            raise ValueError(f"{self.name}: there are both a train_mask and an edge_label_index. Remove one of them.")
        count = self._store["edge_index"].shape[1]
        masks = []
        for name in MASKS:
            mask = self._store[name] if name in self else torch.zeros(count, dtype=torch.bool)
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (count,):
                raise ValueError(
                    f"{self.name}: {name} is {_described(mask)}; it must be torch.bool [{count}], a value for each "
                    "edge of edge_index. Convert it, for example with .bool()."
                )
            masks.append(mask.cpu().numpy())
        twice = np.sum(masks, axis=0) > 1
        if twice.any():
            row = int(twice.argmax())
            both = " and ".join(name for name, mask in zip(MASKS, masks, strict=True) if mask[row])
            raise ValueError(f"{self.name}: edge {row} of edge_index is in {both}. Leave it in one of them.")
        return masks

    def _names(self) -> str:
        return ", ".join(self._store.keys()) or "an empty store"


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
