"""Packed graphs: what goes in comes out, and bad ones are refused by their numbers."""

import numpy as np
import pytest
import scipy.sparse
from support.graphs import draw_graphs

from cntk_pipeline.errors import DataError
from cntk_pipeline.graphs import NodeCounts, count_nodes, encode_labels, fill_rows, is_graph, pack, unpack

PATH = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
ONES = np.ones((3, 2))


def test_graphs_are_packed_and_unpacked():
    graphs = draw_graphs([5, 2, 9], features=2, seed=3)
    packed = pack([a for a, _ in graphs], [f for _, f in graphs])
    assert packed.dtype == np.float32
    assert is_graph(packed.shape[1:])
    for again in (packed, fill_rows(packed, packed.shape[3] + 7), packed.astype(np.float64)):
        found = unpack(again)
        assert len(found) == 3
        assert found.sizes.tolist() == [5, 2, 9]
        for k, (adjacency, features) in enumerate(graphs):
            nodes = slice(*found.offsets[k : k + 2])
            assert np.array_equal(found.features[nodes], features)
            assert np.array_equal(found.degrees[nodes], adjacency.sum(1))
            rebuilt = np.zeros_like(adjacency)
            for node, number in enumerate(range(*found.offsets[k : k + 2])):
                rebuilt[node, found.neighbours[found.starts[number] : found.starts[number + 1]]] = 1
            assert np.array_equal(rebuilt, adjacency)


@pytest.mark.parametrize("edges", [np.argwhere(PATH)[::-1], scipy.sparse.csr_array(PATH), np.argwhere(PATH).tolist()])
def test_edges_and_sparse_matrices_are_the_graph_of_their_matrix(edges):
    assert np.array_equal(pack([edges], [ONES]), pack([PATH], [ONES]))
    assert np.array_equal(pack([[[0, 1], [1, 0]]], [ONES[:2]]), pack([PATH[:2, :2]], [ONES[:2]]))


def test_features_that_are_no_float32_stay_float64():
    packed = pack([PATH], [ONES * 0.1])
    assert packed.dtype == np.float64
    assert (unpack(packed).features == 0.1).all()


@pytest.mark.parametrize(
    ("edges", "features", "told"),
    [
        (PATH, np.ones((0, 2)), "graph 1 has no nodes: leave it out"),
        (0 * PATH, ONES, "graph 1 has no edges: leave it out, or join its nodes"),
        (np.zeros((0, 2), int), ONES, "graph 1 has no edges"),
        (
            [[0, 1]],
            ONES,
            "graph 1: its adjacency is not symmetric: there is an edge from node 0 to node 1, and none back",
        ),
        (np.triu(PATH), ONES, "graph 1: its adjacency is not symmetric"),
        ([[0, 1], [1, 0], [0, 1]], ONES, "graph 1: the edge from node 0 to node 1 is there twice"),
        (PATH + np.eye(3, dtype=int), ONES, "graph 1: node 0 has an edge to itself: leave it out, since layers count"),
        ([[0, 3], [3, 0]], ONES, "graph 1: expected edges between nodes 0 to 2, got node 3"),
        ([[0, -1], [-1, 0]], ONES, "graph 1: expected edges between nodes 0 to 2, got node -1"),
        (0.5 * PATH, ONES, "graph 1: expected an adjacency matrix of 0 and 1, got other numbers"),
        (
            scipy.sparse.csr_array(0.3 * PATH),
            ONES,
            "graph 1: expected an adjacency matrix of 0 and 1, got other numbers",
        ),
        (
            scipy.sparse.csr_array(PATH[:2, :2]),
            ONES,
            r"graph 1: expected .* of shape \(3, 3\), got a sparse one of .*2\)",
        ),
        (
            np.ones((2, 3)),
            ONES,
            r"graph 1: expected an adjacency matrix of shape \(3, 3\), or edges of shape \(2 E, 2\)",
        ),
        (PATH, np.ones((3, 4)), "graph 1: expected 2 features a node, as of graph 0, got 4"),
        (PATH, np.ones(3), r"graph 1: expected features of shape \(nodes, F\), got float64 of shape \(3,\)"),
        (PATH, ONES * [1, np.nan], "graph 1: expected finite features, got others at node 0"),
    ],
)
def test_a_bad_graph_is_refused_by_its_number(edges, features, told):
    with pytest.raises(DataError, match=told):
        pack([PATH, edges], [ONES, features])


@pytest.mark.parametrize("given", [[[1, 2]], np.zeros((3, 4)), np.zeros((1, 1, 1, 2, 2)).astype(str), 3])
def test_what_is_no_array_of_graphs_is_refused(given):
    with pytest.raises(DataError, match=r"^packed: expected graphs of shape \(n, 1, 1, rows, F\), as cntk_pipeline"):
        unpack(given)


def test_arrays_that_hold_no_graphs_are_refused_by_their_rows():
    packed = np.repeat(pack([PATH], [ONES]), 3, axis=0)
    for place, value in ((0, 2.5), (0, 0), (1, 0), (1, 9), (2, 1), (3, 0.5), (4, 2), (5, 3), (6, np.inf)):
        broken = packed.copy()
        broken[1].reshape(-1)[place] = value
        with pytest.raises(DataError, match="graph 11 is no packed graph: make arrays of graphs by"):
            unpack(broken, first=10)
    doubled = packed.copy()
    doubled[1].reshape(-1)[4:6] = 0, 1
    with pytest.raises(DataError, match="graph 1 is no packed graph"):
        unpack(doubled)
    with pytest.raises(DataError, match="the largest graph needs 6 rows of 2 numbers, got rows=5"):
        pack([PATH], [ONES], rows=5)
    with pytest.raises(DataError, match="expected edges and features of as many graphs, at least one, got 1 and 0"):
        pack([PATH], [])


def test_classes_of_nodes_that_training_has_not_are_refused_by_their_graph():
    known = np.array([3, 6, 8])
    assert encode_labels([[6, 3]], known)[0].tolist() == [[0, 1, 0], [1, 0, 0]]
    with pytest.raises(DataError, match="graph 1: a node is of class 7, which is not among those known, 3, 6, 8"):
        encode_labels([[6], [3, 7]], known)


def test_nodes_are_counted_by_graph_and_by_tile() -> None:
    counts = NodeCounts(np.array([1, 2, 3, 30, 4]), np.array([5, 7]))
    assert (counts.largest, counts.heaviest(2), counts.heaviest(1), counts.test_weight) == (30, 33, 30, 0.75)
    assert counts.costliest(2) == 33 * 33 / 8**2
    assert NodeCounts(np.array([4, 4]), np.array([40])).costliest(1) == 4 * 40 / 4**2
    no_test = NodeCounts(np.array([1, 2]), np.zeros(0, int))
    assert (no_test.heaviest(1), no_test.test_weight) == (2, 1.0)
    packed = pack([[[0, 1], [1, 0]], np.ones((3, 3)) - np.eye(3)], [np.ones((2, 1)), np.ones((3, 1))])
    assert count_nodes(packed).tolist() == [2, 3]


def test_rows_that_are_no_whole_number_are_refused():
    with pytest.raises(DataError, match=r"graphs: rows must be a whole number, got 7\.5"):
        pack([PATH], [ONES], rows=7.5)


def test_known_classes_may_be_a_list():
    assert encode_labels([["N", "C"]], ["C", "N"])[0].tolist() == [[0, 1], [1, 0]]
