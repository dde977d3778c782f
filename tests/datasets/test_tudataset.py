"""Graphs in the text format of the TUDataset collection."""

import numpy as np
import pytest
from support.formats import write_tudataset

from cntk_pipeline.datasets import Contents, load
from cntk_pipeline.errors import ConfigError, DataError, DataNotFound
from cntk_pipeline.graphs import pack, unpack


@pytest.fixture
def folder(tmp_path):
    return write_tudataset(tmp_path)


def test_a_data_set_is_read(folder):
    data = load("tudataset", str(folder))
    assert data.name == "tudataset TOY"
    assert data.classes == ("-1", "1")
    assert data.train.labels.tolist() == [1, 0, 1]
    assert data.test is None
    star, path, pair = np.ones((4, 4), int), np.eye(3, k=1, dtype=int), np.array([[0, 1], [1, 0]])
    star[1:, 1:] = star[0, 0] = 0
    features = [np.eye(2)[[0, 1, 1, 1]], np.eye(2)[[1, 0, 1]], np.eye(2)[[0, 0]]]
    assert np.array_equal(data.train.images, pack([star, path + path.T, pair], features))
    assert Contents.of(data).lines[0] == "3 training and 0 test graphs of 2 features a node, 2 classes"


def test_degrees_are_features_where_nodes_have_no_classes_or_where_they_are_asked_for(folder):
    degrees = load("tudataset", str(folder), options={"features": "degrees"})
    found = unpack(degrees.train.images)
    assert found.features[:4].tolist() == [[0, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]]
    (folder / "TOY_node_labels.txt").unlink()
    assert np.array_equal(load("tudataset", str(folder)).train.images, degrees.train.images)
    with pytest.raises(ConfigError, match=r'TOY_node_labels.txt: data.features = "labels" needs this file'):
        load("tudataset", str(folder), options={"features": "labels"})


def test_a_node_alone_is_a_node_of_no_neighbours(folder):
    (folder / "TOY_A.txt").write_text("1, 2\n2, 1\n5, 6\n6, 5\n8, 9\n9, 8\n")  # nodes 3, 4 and 7 are alone
    found = unpack(load("tudataset", str(folder), options={"features": "degrees"}).train.images)
    assert found.degrees.tolist() == [1, 1, 0, 0, 1, 1, 0, 1, 1]
    assert found.features[:3].tolist() == [[0, 1], [0, 1], [1, 0]]


def test_other_labels_are_targets(folder):
    (folder / "TOY_graph_labels.txt").write_text("0.5\n1.5\n2.5\n")
    data = load("tudataset", str(folder))
    assert (data.task, data.train.labels.tolist()) == ("regression", [[0.5], [1.5], [2.5]])


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("A", "1, 2\n2, 1\n5, 6\n6, 5\n8, 9\n9, 8\n", "graph 0: "),
        ("A", "1, 2\n2, 1\n5, 6\n6, 5\n", "graph 2 has no edges"),
        ("A", "", "graph 0 has no edges: leave it out, or join its nodes"),
        ("A", "1, -4\n-4, 1\n", "expected edges between nodes 1 to 9, got node -4"),
        ("graph_labels", "", "expected nodes graph by graph, of 0 graphs"),
        ("A", "1, 5\n5, 1\n", "got one between nodes 1 and 5 of two graphs"),
        ("A", "1, 10\n10, 1\n", "expected edges between nodes 1 to 9, got node 10"),
        ("A", "1, 2, 3\n", "expected lines of 2 numbers, got 3"),
        ("A", "one, two\n", "expected lines of 2 numbers, got ValueError"),
        ("graph_indicator", "1\n2\n1\n", "expected nodes graph by graph, of 3 graphs"),
        ("graph_labels", "1\n2\n", "expected nodes graph by graph, of 2 graphs"),
        ("node_labels", "1\n2\n", "expected 9 labels, one for each node, got 2"),
    ],
)
def test_files_that_do_not_fit_are_refused(folder, name, text, told):
    if told == "graph 0: ":  # one direction alone
        text, told = text.replace("2, 1\n", ""), "graph 0: its adjacency is not symmetric"
    (folder / f"TOY_{name}.txt").write_text(text)
    with pytest.raises(DataError, match=told):
        load("tudataset", str(folder))


def test_what_is_not_there_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="data source 'tudataset': expected a path, got none"):
        load("tudataset")
    with pytest.raises(DataNotFound, match=r"expected a folder with the files NAME_A\.txt"):
        load("tudataset", str(tmp_path / "nothing"))
    (folder / "TWO_A.txt").write_text("")
    with pytest.raises(DataError, match=r"expected one file NAME_A\.txt, got TOY_A\.txt, TWO_A\.txt"):
        load("tudataset", str(folder))
    (folder / "TWO_A.txt").unlink()
    (folder / "TOY_graph_labels.txt").unlink()
    with pytest.raises(DataError, match=r"TOY_graph_labels.txt is not there: a data set NAME has NAME_A.txt,"):
        load("tudataset", str(folder))
