"""Labels of any type: the task that they mean, and the numbers that they become."""

import numpy as np
import pytest

from cntk_pipeline.datasets import Dataset, Split, as_split, assemble
from cntk_pipeline.errors import ConfigError, DataError


def split(labels):
    labels = np.asarray(labels)
    return as_split(np.zeros((len(labels), 3)), labels)


def labelled(labels, test=None, **kwargs) -> Dataset:
    return assemble("toy", split(labels), None if test is None else split(test), **kwargs)


CLASSES = {
    "text": (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
    "bytes": ([b"b", b"\xc3\xa4", b"b"], ("b", "ä"), [0, 1, 0]),
    "truth values": ([True, False, True], ("False", "True"), [1, 0, 1]),
    "only true": ([True, True], ("False", "True"), [1, 1]),
    "from 0": ([0, 2, 1, 2], ("0", "1", "2"), [0, 2, 1, 2]),
    "from 0 with a gap": ([0, 2, 2], ("0", "1", "2"), [0, 2, 2]),
    "from 1": ([1, 3, 1], ("1", "3"), [0, 1, 0]),
    "minus and plus one": ([-1, 1, -1], ("-1", "1"), [0, 1, 0]),
    "whole floats": ([2.0, 5.0, 2.0], ("2", "5"), [0, 1, 0]),
    "large unsigned": (np.array([2**64 - 1, 5], np.uint64), ("5", "18446744073709551615"), [1, 0]),
    "one-hot rows": ([[0, 1], [1, 0], [0, 1]], ("0", "1"), [1, 0, 1]),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_of_any_type_are_numbered_in_sorted_order_and_keep_their_names(kind):
    labels, names, numbers = CLASSES[kind]
    data = labelled(labels)
    assert (data.task, data.classes) == ("classification", names)
    assert data.train.labels.tolist() == numbers
    assert data.train.labels.dtype == np.int64


def test_classes_of_the_test_part_alone_are_classes_too():
    data = labelled(["cat", "cow"], ["dog", "cat"])
    assert data.classes == ("cat", "cow", "dog")
    assert data.test.labels.tolist() == [2, 0]


@pytest.mark.parametrize("test", [np.array([7, 9], np.int64), np.array([7.0, 9.0])])
def test_large_numbers_of_two_types_stay_apart(test):
    large = [2**63 + 1, 2**63 + 5]  # one number in float64
    data = labelled(np.array([*large, 7], np.uint64), test)
    assert data.classes == ("7", "9", *map(str, large))
    assert data.train.labels.tolist() == [2, 3, 0]
    assert data.test.labels.tolist() == [0, 1]


def test_given_names_of_classes_number_text():
    data = labelled(["dog", "cat"], names=("dog", "cat"))
    assert data.train.labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="expected labels among the classes dog, cat, got 'cow'; name it under classes"):
        labelled(["dog", "cow"], names=("dog", "cat"))


def test_numbers_that_are_not_whole_mean_a_regression():
    data = labelled([0.5, 1.0, -2.0], [3.0, 4.0])
    assert (data.task, data.classes) == ("regression", ("target",))
    np.testing.assert_array_equal(data.train.labels, [[0.5], [1.0], [-2.0]])
    np.testing.assert_array_equal(data.test.labels, [[3.0], [4.0]])


def test_several_columns_of_numbers_mean_a_regression():
    data = labelled([[1, 2], [3, 4]], names=("width", "height"))
    assert (data.task, data.classes) == ("regression", ("width", "height"))


def test_several_columns_of_truth_values_mean_several_classes_an_image():
    data = labelled(np.array([[1, 1, 0], [0, 1, 0]], bool))
    assert (data.task, data.classes) == ("multilabel", ("0", "1", "2"))
    np.testing.assert_array_equal(data.train.labels, [[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])


def test_whole_numbers_are_regressed_on_where_this_is_asked_for():
    assert labelled([3, 1, 2], task="regression").train.labels.tolist() == [[3.0], [1.0], [2.0]]


def test_one_hot_rows_are_several_labels_where_this_is_asked_for():
    assert labelled([[0, 1], [1, 0]], task="multilabel").task == "multilabel"
    assert 'data.task = "multilabel" takes each column alone' in labelled([[0, 1], [1, 0]]).notes[0]


def test_many_different_whole_numbers_bring_a_note():
    (note,) = labelled(np.arange(100) % 50).notes
    assert '50 different whole numbers in 100 rows, taken as classes; data.task = "regression"' in note
    assert labelled(np.arange(1000) % 50).notes == ()


REFUSED = {
    "not whole": (dict(labels=[0.5, 1.0], task="classification"), "expected classes, got 0.5 at image 0; for measured"),
    "several columns": (
        dict(labels=[[1, 2], [3, 4]], task="classification"),
        r"expected one class for each image, got int64 of shape \(2, 2\); give a single column",
    ),
    "missing": (dict(labels=[0.0, np.nan]), "expected a label for each image, got nan at image 1; drop it"),
    "infinite": (dict(labels=[0.5, np.inf], task="regression"), "got inf at image 1; drop it"),
    "text to regress on": (dict(labels=["1.5", "2"], task="regression"), "for a regression, got text like '1.5'"),
    "one column": (dict(labels=[0, 1], task="multilabel"), "expected a column of 0 and 1 for each class"),
    "neither 0 nor 1": (
        dict(labels=[[0, 1], [2, 0]], task="multilabel"),
        "expected 0 or 1 for each class, got 2 at image 1, column 0",
    ),
    "numbers without squares": (
        dict(labels=[[0.5, 1e160], [2, 3e160]]),
        r"train labels: expected targets whose squares .* their mean, got 1e\+160 in column 1; .* divided by 1e\+160",
    ),
    "numbers whose squares are 0": (dict(labels=[0.5e-170, 2e-170]), "got 7.5e-171; .*divided by [78]e-171"),
    "numbers without a mean": (
        dict(labels=[1.5e308, 1e308, 0.0], task="regression"),
        "got inf; .*divided by 1e[+]300",
    ),
    "constants whose mean is rounded beyond": (dict(labels=[1e200] * 10 + [1e200], task="regression"), "train labels"),
    "test numbers without squares": (dict(labels=[0.5, 2], test=[0.5, 1e160]), "test labels: expected targets whose s"),
    "test numbers far from those of the training": (dict(labels=[0.5, 2], test=[1e160]), "test labels: expected targe"),
    "dates": (dict(labels=np.array(["2020-01-01", "2021-01-01"], "M8[D]")), r"got datetime64\[D\] of shape \(2,\)"),
    "complex": (dict(labels=[1j, 2j]), "got complex128"),
    "too few names": (
        dict(labels=[[0.5, 1], [2, 3]], names=("a",)),
        "expected a name for each of the 2 columns of the labels, got 1 names",
    ),
    "parts of two types": (dict(labels=["a", "b"], test=[0, 1]), "labels of one type, got text and numbers"),
    "one-hot rows and numbers": (
        dict(labels=[[0, 1], [1, 0]], test=[1, 0]),
        "test labels: expected a column of 0 and 1 for each class",
    ),
    "a matrix of text": (dict(labels=[["a", "b"], ["b", "a"]]), r"or text of shape \(n,\), got <U1 of shape \(2, 2\)"),
    "parts of two widths": (
        dict(labels=[[0.5, 1], [2, 3]], test=[0.5, 2.0]),
        "as many columns in both parts, got 1 and 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("factor", [1e-144, 1e-34, 1.0, 1e144])
def test_numbers_of_any_usual_unit_are_taken(factor):
    data = labelled([[0.5 * factor, 0.1], [1.5 * factor, 0.1], [2.5 * factor, 0.1]], [[1.5 * factor, 0.1]])
    assert data.train.labels.shape == (3, 2)


@pytest.mark.parametrize("kind", REFUSED)
def test_labels_that_do_not_fit_are_refused(kind):
    arguments, message = REFUSED[kind]
    with pytest.raises(DataError, match=f"toy.*{message}"):
        labelled(**arguments)


def test_training_images_need_labels():
    with pytest.raises(DataError, match="toy: expected labels of the training images, got none; add them"):
        assemble("toy", as_split(np.zeros((2, 3)), None))
    with pytest.raises(DataError, match="toy: expected labels of the training images, got none; add them"):
        Dataset("toy", ("a",), as_split(np.zeros((2, 3)), None))


@pytest.mark.parametrize(("labels", "columns"), [(np.zeros((2, 3)), 2), (np.zeros(2), 1), (np.zeros((2, 1), int), 1)])
def test_a_data_set_of_numbers_has_a_float_column_for_each_name(labels, columns):
    with pytest.raises(DataError, match=rf"expected float64 of shape \(n, {columns}\) for a regression, got"):
        Dataset("toy", tuple("ab"[:columns]), Split(np.zeros((2, 3)), labels), task="regression")


@pytest.mark.parametrize(("value", "task"), [(np.nan, "regression"), (0.5, "multilabel")])
def test_a_data_set_of_numbers_is_checked(value, task):
    with pytest.raises(DataError, match=rf"toy: train labels: expected .*, got {value:g} at image 1, column 0"):
        Dataset("toy", ("a",), Split(np.zeros((2, 3)), np.array([[1.0], [value]])), task=task)


@pytest.mark.parametrize("labels", [[0, 1], [1, 2], ["a", "b"]])
def test_an_unknown_task_is_named(labels):
    with pytest.raises(ConfigError, match=r"toy: expected a task among 'auto', .*, got 'clasification'"):
        labelled(labels, task="clasification")
    with pytest.raises(ConfigError, match=r"toy: expected a task among 'classification', .*, got 'auto'"):
        Dataset("toy", ("a", "b"), split([0, 1]), task="auto")


def test_two_classes_have_two_names():
    with pytest.raises(
        DataError, match="toy: expected different names of the classes, or of the targets, got 'a' twice; rename"
    ):
        labelled([0, 1, 2], names=("a", "b", "a"))
    with pytest.raises(DataError, match=r"toy: expected different names of the classes, .* got 'a' twice"):
        Dataset("toy", ("a", "a"), split([0, 1]))


def test_bytes_that_are_no_text_never_become_one_class():
    told = r"labels: expected texts of bytes in UTF-8, and b'\\xe4' and b'\\xf6' would both be one class; decode them"
    with pytest.raises(DataError, match=f"train {told}"):
        labelled(np.array([b"\xe4", b"\xf6", b"a"]))
    with pytest.raises(DataError, match=f"test {told}"):
        labelled(np.array([b"\xe4", b"a"]), np.array([b"\xf6", b"a"]))
