"""Graphs as arrays: a graph is a row of numbers, so that all that carries images carries graphs.

A packed graph of F features a node is an array ``(1, 1, rows, F)``. Its numbers in C order are: the number of nodes N,
the number of edges E, the two nodes of each edge, the smaller number first, the F features of each node, and zeros
up to the end. Graphs of one array have equally many rows, those of the largest. Four axes tell graphs from images,
``(H, W, C)``, and vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cntk_pipeline.errors import DataError
from cntk_pipeline.inputs import as_array, is_whole_number, short_repr

__all__ = ["Graphs", "encode_labels", "pack", "unpack"]

Array = npt.NDArray[Any]

LARGEST_NUMBER = 2**24
"""Whole numbers up to here are exact in float32, in which a run may store its graphs."""


def is_graph(shape: Sequence[int]) -> bool:
    """Tell whether the shape of one input is that of a packed graph."""
    return len(shape) == 4 and tuple(shape[:2]) == (1, 1)


@dataclass(frozen=True, eq=False)
class Graphs:
    """Unpacked graphs, one behind the other.

    Attributes
    ----------
    features : float64 array, (nodes, F)
    offsets : int64 array, (n + 1,)
        The first node of each graph, and one past the last.
    starts : int64 array, (nodes + 1,)
        The first neighbour of each node.
    neighbours : int64 array
        Of each node, by their numbers within the graph, rising.
    """

    features: Array
    offsets: Array
    starts: Array
    neighbours: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def degrees(self) -> Array:
        """Count the neighbours of each node, (nodes,) int64."""
        return np.diff(self.starts)

    @property
    def sizes(self) -> Array:
        """Count the nodes of each graph, (n,) int64."""
        return np.diff(self.offsets)


@dataclass(frozen=True, eq=False)
class NodeCounts:
    """The nodes of each graph of a run: a pair of graphs costs about the product of both numbers.

    Attributes
    ----------
    train, test : int64 array, (n,)
    """

    train: Array
    test: Array

    @property
    def largest(self) -> int:
        """The nodes of the largest graph."""
        return int(max(part.max(initial=0) for part in (self.train, self.test)))

    @property
    def test_weight(self) -> float:
        """The mean number of nodes of a test graph, divided by that of a training graph."""
        return float(self.test.mean() / self.train.mean()) if len(self.test) else 1.0

    def heaviest(self, tile: int) -> int:
        """Return the most nodes that one side of a tile has, of tiles of so many graphs."""
        return int(max(piece_sums(part, tile).max(initial=0) for part in (self.train, self.test)))

    def costliest(self, tile: int) -> float:
        """Return the cost of the costliest tile of so many graphs, in mean pairs of training graphs."""
        heaviest = piece_sums(self.train, tile).max(initial=0)
        return float(heaviest / self.train.mean()) * (self.heaviest(tile) / float(self.train.mean()))


def count_nodes(packed: Array) -> Array:
    """Count the nodes of packed graphs, (n,) int64."""
    return packed.reshape(len(packed), -1)[:, 0].astype(np.int64)


def piece_sums(values: Array, size: int) -> Array:
    """Add up pieces of so many values, the last one ragged."""
    return np.add.reduceat(values, np.arange(0, len(values), size)) if len(values) else values


def pack(edges: Sequence[Any], features: Sequence[Any], rows: int | None = None) -> Array:
    """Pack graphs into one array.

    Parameters
    ----------
    edges : sequence
        Of each graph its adjacency matrix, (N, N) of 0 and 1, dense or of SciPy; or its edges, (2 E, 2), the numbers of
        two nodes, each edge in both directions. Without edges from a node to itself: layers add them.
    features : sequence
        Of each graph, (N, F).
    rows : int, optional
        Of the array, at least as many as the largest graph needs. Arrays for one kernel have equally many rows.

    Returns
    -------
    array, (n, 1, 1, rows, F)
        Of float32, or of float64 where a feature is no float32.

    Raises
    ------
    DataError
        A graph without nodes or edges, an edge in one direction alone, twice, to itself or to no node, or features
        that are not finite or of another width, with the number of the graph.

    Examples
    --------
    >>> import numpy as np
    >>> from cntk_pipeline.graphs import pack
    >>> path = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    >>> pack([path], [np.eye(3)]).shape
    (1, 1, 1, 5, 3)
    """
    if len(edges) != len(features) or not len(edges):
        raise DataError(
            f"graphs: expected edges and features of as many graphs, at least one, got {len(edges)} and {len(features)}"
        )
    first = next(iter(features))  # features[0] of a pandas.Series is the one with the label 0
    width = np.shape(first)[-1] if np.ndim(first) == 2 else 0
    streams = []
    for number, (given, of_nodes) in enumerate(zip(edges, features, strict=True)):
        nodes = _read_features(of_nodes, width, number)
        pairs = _read_edges(given, len(nodes), number)
        streams.append(np.concatenate([[len(nodes), len(pairs)], pairs.reshape(-1), nodes.reshape(-1)]))
    needed = -(-max(map(len, streams)) // width)
    if rows is not None and not is_whole_number(rows):
        raise DataError(f"graphs: rows must be a whole number, got {short_repr(rows)}")
    if rows is not None and rows < needed:
        raise DataError(f"graphs: the largest graph needs {needed} rows of {width} numbers, got rows={rows}")
    packed = np.zeros((len(streams), (rows or needed) * width))
    for row, stream in zip(packed, streams, strict=True):
        row[: len(stream)] = stream
    with np.errstate(over="ignore"):
        single = packed.astype(np.float32)
    return (single if np.array_equal(single, packed) else packed).reshape(len(packed), 1, 1, -1, width)


def encode_labels(labels: Sequence[Any], known: npt.ArrayLike) -> list[Array]:
    """Make one-hot features of the classes of nodes.

    Parameters
    ----------
    labels : sequence
        Of the nodes of each graph, (N,).
    known : array_like, (classes,)
        All labels that may occur, one column each. Give the labels of the training graphs, so that new graphs get the
        same columns.

    Returns
    -------
    list of float32 array, (N, classes)
        One for each graph.

    Raises
    ------
    DataError
        If a class is not among them, with the number of the graph.

    Examples
    --------
    >>> import numpy as np
    >>> from cntk_pipeline.graphs import encode_labels
    >>> encode_labels([["C", "N"]], np.array(["C", "N", "O"]))[0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    columns = {value: column for column, value in enumerate(np.asarray(known).tolist())}
    found = []
    for number, given in enumerate(labels):
        values = np.asarray(given).tolist()
        unknown = [value for value in values if value not in columns]
        if unknown:
            raise DataError(
                f"graph {number}: a node is of class {unknown[0]!r}, which is not among those known, "
                f"{', '.join(map(repr, columns))}: a kernel knows only the features that it was trained on"
            )
        one_hot = np.zeros((len(values), len(columns)), np.float32)
        one_hot[np.arange(len(values)), [columns[value] for value in values]] = 1
        found.append(one_hot)
    return found


def unpack(packed: Array, first: int = 0) -> Graphs:
    """Unpack graphs.

    Parameters
    ----------
    packed : array, (n, 1, 1, rows, F)
        As `pack` makes it.
    first : int
        The number of the first graph, for errors.

    Raises
    ------
    DataError
        If an item is no packed graph, with its number; or it is no such array.
    """
    packed = as_array("packed", packed)
    if not is_graph(packed.shape[1:]) or packed.dtype.kind not in "biuf":
        raise DataError(
            f"packed: expected graphs of shape (n, 1, 1, rows, F), as cntk_pipeline.graphs.pack makes them, got "
            f"{packed.dtype} of shape {packed.shape}"
        )
    flat = packed.reshape(len(packed), -1).astype(np.float64, copy=False)
    width, length = packed.shape[-1], flat.shape[1]
    header = flat[:, :2]
    with np.errstate(invalid="ignore"):
        known = (header >= 1) & (header < LARGEST_NUMBER) & (header == np.floor(header))
        used = 2 + 2 * header[:, 1] + width * header[:, 0]
    _require(known.all(axis=1) & (used <= length), first)
    sizes, edge_counts = header.astype(np.int64).T
    places = np.arange(length)
    ends = 2 + 2 * edge_counts
    is_edge = (places >= 2) & (places < ends[:, None])
    pairs = flat[is_edge].reshape(-1, 2)
    owner = np.repeat(np.arange(len(flat)), edge_counts)
    low, high = pairs.T
    fine = (low >= 0) & (low < high) & (high < sizes[owner]) & (pairs == np.floor(pairs)).all(axis=1)
    _require(np.bincount(owner, ~fine, len(flat)) == 0, first)
    features = flat[(places >= ends[:, None]) & (places < used[:, None])].reshape(-1, width)
    _require(np.isfinite(flat).all(axis=1), first)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    begins = np.concatenate([low, high]).astype(np.int64) + offsets[np.tile(owner, 2)]
    ends_of_edges = np.concatenate([high, low]).astype(np.int64)
    order = np.lexsort((ends_of_edges, begins))
    begins, neighbours = begins[order], ends_of_edges[order]
    twice = (begins[1:] == begins[:-1]) & (neighbours[1:] == neighbours[:-1])
    _require(np.bincount(np.searchsorted(offsets, begins[1:][twice], "right") - 1, minlength=len(flat)) == 0, first)
    starts = np.concatenate([[0], np.cumsum(np.bincount(begins, minlength=offsets[-1]))])
    return Graphs(features, offsets, starts, neighbours)


def fill_rows(packed: Array, rows: int) -> Array:
    """Append zeros to packed graphs, up to so many rows."""
    return np.pad(packed, [(0, 0)] * 3 + [(0, rows - packed.shape[3]), (0, 0)])


def _require(fine: Any, first: int) -> None:
    if not fine.all():
        raise DataError(
            f"graph {first + int(np.argmin(fine))} is no packed graph: make arrays of graphs by "
            "cntk_pipeline.graphs.pack, and do not standardise them"
        )


def _read_features(given: Any, width: int, number: int) -> Array:
    features = as_array(f"features of graph {number}", given)
    if features.ndim != 2 or features.dtype.kind not in "biuf":
        raise DataError(
            f"graph {number}: expected features of shape (nodes, F), got {features.dtype} of shape {features.shape}"
        )
    if not len(features):
        raise DataError(f"graph {number} has no nodes: leave it out")
    if features.shape[1] != width or not width:
        raise DataError(
            f"graph {number}: expected {width or 'at least one'} features a node, as of graph 0, got "
            f"{features.shape[1]}; classes of nodes must be numbered alike in all graphs"
        )
    if not np.isfinite(features).all():
        node = int(np.argwhere(~np.isfinite(features))[0, 0])
        raise DataError(f"graph {number}: expected finite features, got others at node {node}")
    return features.astype(np.float64)


def _read_edges(given: Any, nodes: int, number: int) -> Array:
    """Return edges once each, (E, 2), the smaller node first, in rising order."""
    if nodes >= LARGEST_NUMBER:
        raise DataError(f"graph {number} has {nodes} nodes, and at most {LARGEST_NUMBER - 1} can be packed")
    if hasattr(given, "tocoo"):
        found = _read_sparse(given, nodes, number)
    else:
        found = as_array(f"edges of graph {number}", given)
        if found.shape == (nodes, nodes) and not (nodes == 2 and _is_list(found)):
            _require_zeros_and_ones(found, number)
            found = np.argwhere(found)
    if found.size == 0:
        raise DataError(f"graph {number} has no edges: leave it out, or join its nodes")
    if found.ndim != 2 or found.shape[1] != 2 or found.dtype.kind not in "iu":
        raise DataError(
            f"graph {number}: expected an adjacency matrix of shape {(nodes, nodes)}, or edges of shape (2 E, 2) as "
            f"whole numbers, got {found.dtype} of shape {found.shape}"
        )
    found = found.astype(np.int64)
    if found.min() < 0 or found.max() >= nodes:
        wrong = int(found.min() if found.min() < 0 else found.max())
        raise DataError(f"graph {number}: expected edges between nodes 0 to {nodes - 1}, got node {wrong}")
    loops = found[found[:, 0] == found[:, 1]]
    if len(loops):
        raise DataError(
            f"graph {number}: node {loops[0, 0]} has an edge to itself: leave it out, since layers count each node "
            "among its own neighbours"
        )
    keys = found[:, 0] * nodes + found[:, 1]
    unique, counts = np.unique(keys, return_counts=True)
    if counts.max() > 1:
        a, b = divmod(int(unique[counts.argmax()]), nodes)
        raise DataError(f"graph {number}: the edge from node {a} to node {b} is there twice")
    alone = np.setdiff1d(unique, found[:, 1] * nodes + found[:, 0])
    if len(alone):
        a, b = divmod(int(alone[0]), nodes)
        raise DataError(
            f"graph {number}: its adjacency is not symmetric: there is an edge from node {a} to node {b}, and none "
            "back; give each edge in both directions"
        )
    return np.stack(divmod(unique[unique // nodes < unique % nodes], nodes), 1)


def _read_sparse(given: Any, nodes: int, number: int) -> Array:
    """Return the places of ones in a sparse adjacency matrix, (2 E, 2)."""
    if given.shape != (nodes, nodes):
        raise DataError(
            f"graph {number}: expected an adjacency matrix of shape {(nodes, nodes)}, got a sparse one of shape "
            f"{given.shape}"
        )
    _require_zeros_and_ones(given.tocoo().data, number)
    return np.stack(given.nonzero(), 1)


def _require_zeros_and_ones(values: Array, number: int) -> None:
    if not np.isin(values, (0, 1)).all():
        raise DataError(
            f"graph {number}: expected an adjacency matrix of 0 and 1, got other numbers: layers of graphs know no "
            "weights of edges"
        )


def _is_list(found: Array) -> bool:
    """Tell the edges of two nodes, 0 to 1 and back, from their adjacency matrix, which has the same shape."""
    return np.array_equal(found, [[1, 0], [0, 1]])
