"""Labels as people have them: taken where nothing is lost, otherwise refused with advice that works when followed."""

import numpy as np
import pytest

from cntk_pipeline.datasets import Dataset, as_split
from cntk_pipeline.errors import DataError


def labelled(labels, classes=("a", "b")):
    return Dataset("toy", classes, as_split(np.zeros((4, 2)), labels))


def test_a_column_of_labels_is_a_row_of_labels():
    data = labelled(np.array([[0], [1], [1], [0]], np.uint8))
    assert data.train.labels.tolist() == [0, 1, 1, 0]
    assert data.train.labels.dtype == np.int64


WRONG = {
    "one-hot": (np.eye(2)[[0, 1, 1, 0]], r"one-hot rows: give labels\.argmax\(axis=1\)"),
    "one-hot truth values": (np.eye(2, dtype=bool)[[0, 1, 1, 0]], r"one-hot rows: give labels\.argmax\(axis=1\)"),
    "several a row": (np.array([[1, 1], [0, 1], [1, 0], [0, 0]]), "each image has one class: give its number"),
    "columns of numbers": (np.array([[0, 3], [1, 2], [1, 1], [0, 5]]), "each image has one class: give its number"),
    "a row of a matrix": (np.array([[0, 1, 1, 0]]), r"this is one row: give labels\[0\]"),
    "a single number": (np.array(1), "give one class number for each image"),
    "whole floats": (np.array([0.0, 1.0, 1.0, 0.0]), r"they are whole numbers: give labels\.astype\(int\)"),
    "a missing one": (np.array([0.0, np.nan, 1.0, 0.0]), "that of image 1 is nan: drop the images without a label"),
    "measured values": (np.array([0.0, 1.0, 2.5, 0.0]), r"that of image 2 is 2\.5, which is no class: regress"),
    "truth values": (np.array([False, True, True, False]), r"class 1: labels\.astype\(int\)"),
    "names": (np.array(["a", "b", "b", "a"]), r"classes, labels = numpy\.unique\(names, return_inverse=True\)"),
    "bytes": (np.array([b"a", b"b", b"b", b"a"]), r"classes, labels = numpy\.unique\(names, return_inverse=True\)"),
    "objects": (np.array(["a", "b", "b", 1], object), r"classes, labels = numpy\.unique\(names, return_inverse=True\)"),
    "beyond int64": (np.array([0, 1, 1, 2**64 - 1], np.uint64), r"give the class numbers 0, 1, \.\.\."),
    "minus and plus one": (np.array([-1, 1, 1, -1]), r"got -1 at image 0; for .* give \(labels \+ 1\) // 2"),
    "negative": (np.array([0, -2, 1, 1]), "got -2 at image 1; number the classes from 0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_other_labels_are_refused_with_what_to_write(kind):
    labels, advice = WRONG[kind]
    with pytest.raises(DataError, match=rf"toy: train labels: expected .*{advice}"):
        labelled(labels)


@pytest.mark.parametrize(
    ("kind", "follow"),
    [
        ("one-hot", lambda labels: labels.argmax(axis=1)),
        ("one-hot truth values", lambda labels: labels.argmax(axis=1)),
        ("a row of a matrix", lambda labels: labels[0]),
        ("whole floats", lambda labels: labels.astype(int)),
        ("truth values", lambda labels: labels.astype(int)),
        ("names", lambda labels: np.unique(labels, return_inverse=True)[1]),
        ("bytes", lambda labels: np.unique(labels, return_inverse=True)[1]),
        ("minus and plus one", lambda labels: (labels + 1) // 2),
    ],
)
def test_who_follows_the_advice_has_the_labels_that_were_meant(kind, follow):
    assert labelled(follow(WRONG[kind][0])).train.labels.tolist() == [0, 1, 1, 0]
