"""Graphs in the text format of the TUDataset collection."""

import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.base import Dataset, Loader, as_split
from cntk_pipeline.datasets.reading import existing_path, open_file, reading
from cntk_pipeline.datasets.targets import assemble
from cntk_pipeline.errors import ConfigError, DataError
from cntk_pipeline.graphs import encode_labels, pack


@final
@dataclass(frozen=True)
class TUDataset(Loader):
    """Load graphs from the text files of the TUDataset collection (Morris et al. 2020, arXiv:2007.08663).

    The files of a data set NAME are ``NAME_A.txt``, the edges; ``NAME_graph_indicator.txt``, the graph of each node;
    ``NAME_graph_labels.txt``; and ``NAME_node_labels.txt``, where nodes have classes. There is no test part, and files
    are often sorted by class: give ``shuffle``.

    Parameters
    ----------
    path : str
        The folder with the files of one data set.
    features : {"auto", "labels", "degrees"}
        What is one-hot at a node: its class, or its number of neighbours. "auto" is "labels" where there are some.

    Raises
    ------
    ConfigError
        No path was given.
    DataNotFound
        The folder does not exist.
    DataError
        A file is missing, or does not fit the others; or a graph has no edges, or is not symmetric, with its number,
        counted from 0.
    """

    features: Literal["auto", "labels", "degrees"] = "auto"

    def load(self) -> Dataset:
        """Read the files and pack the graphs."""
        folder = existing_path(self.path, "tudataset", "a folder with the files NAME_A.txt, NAME_graph_labels.txt, ...")
        found = sorted(folder.glob("*_A.txt")) if folder.is_dir() else []
        if len(found) != 1:
            what = ", ".join(path.name for path in found) or "none"
            raise DataError(f"{folder}: expected one file NAME_A.txt, got {what}; give the folder of one data set")
        stem = str(found[0]).removesuffix("A.txt")
        edges = _read(found[0], np.int64, 2) - 1
        owner = _read(Path(stem + "graph_indicator.txt"), np.int64, 1)[:, 0] - 1
        labels = _read(Path(stem + "graph_labels.txt"), np.float64, 1)
        if (np.diff(owner) < 0).any() or not np.array_equal(np.unique(owner), np.arange(len(labels))):
            raise DataError(f"{stem}graph_indicator.txt: expected nodes graph by graph, of {len(labels)} graphs")
        if edges.size and (edges.min() < 0 or edges.max() >= len(owner)):
            wrong = 1 + int(edges.min() if edges.min() < 0 else edges.max())
            raise DataError(f"{found[0]}: expected edges between nodes 1 to {len(owner)}, got node {wrong}")
        across = owner[edges[:, 0]] != owner[edges[:, 1]]
        if across.any():
            a, b = edges[across.argmax()] + 1
            raise DataError(
                f"{found[0]}: expected edges within a graph, got one between nodes {a} and {b} of two graphs"
            )
        offsets = np.searchsorted(owner, np.arange(len(labels) + 1))
        by_graph = _split(edges, owner, offsets)
        of_nodes = self._one_hot(Path(stem + "node_labels.txt"), edges, offsets)
        whole = (labels == np.floor(labels)).all() if len(labels) else False
        train = as_split(pack(by_graph, of_nodes), labels[:, 0].astype(np.int64) if whole else labels[:, 0])
        return assemble(f"tudataset {Path(stem).name.rstrip('_')}", train, None, task=self.task, names=None)

    def _one_hot(self, path: Path, edges: npt.NDArray[Any], offsets: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        nodes = int(offsets[-1])
        if self.features == "labels" and not path.exists():
            raise ConfigError(
                f'{path}: data.features = "labels" needs this file, which is not there; take data.features = "degrees"'
            )
        if self.features != "degrees" and path.exists():
            numbers = _read(path, np.int64, 1)[:, 0]
            if len(numbers) != nodes:
                raise DataError(f"{path}: expected {nodes} labels, one for each node, got {len(numbers)}")
        else:
            numbers = np.bincount(edges[:, 0], minlength=nodes)
        parts = [numbers[begin:end] for begin, end in pairwise(offsets)]
        return encode_labels(parts, np.unique(numbers))


def _split(edges: npt.NDArray[Any], owner: npt.NDArray[Any], offsets: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Give each graph its edges, with nodes by their numbers within the graph."""
    of_graph = owner[edges[:, 0]]
    order = np.argsort(of_graph, kind="stable")
    local = (edges - offsets[of_graph][:, None])[order]
    bounds = np.searchsorted(of_graph[order], np.arange(len(offsets)))
    return [local[begin:end] for begin, end in pairwise(bounds)]


def _read(path: Path, dtype: type, columns: int) -> npt.NDArray[Any]:
    """Read numbers, some a line, with commas between them."""
    if not path.exists():
        raise DataError(
            f"{path} is not there: a data set NAME has NAME_A.txt, NAME_graph_indicator.txt and "
            "NAME_graph_labels.txt; copy the file to the others"
        )
    with reading(path, f"lines of {columns} numbers", ValueError), open_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a file without lines, which does not fit the others
        found: npt.NDArray[Any] = np.loadtxt(file, dtype, delimiter=",", ndmin=2)
    if found.size and found.shape[1] != columns:
        raise DataError(f"{path}: expected lines of {columns} numbers, got {found.shape[1]}")
    return found.reshape(-1, columns)
