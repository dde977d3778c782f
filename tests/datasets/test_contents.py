"""What a data set holds, counted and in words."""

import json

import numpy as np
import pytest

from cntk_pipeline.datasets import Contents, Dataset, Split, as_split


def contents(train: list[int], test: list[int], names: str = "abcdefgh") -> Contents:
    parts = [as_split(np.zeros((len(labels), 4, 5, 3)), labels) for labels in (train, test) if labels]
    return Contents.of(Dataset("toy", tuple(names), *parts))


def test_the_sizes_and_every_class_are_said() -> None:
    assert contents([0, 1, 1, 2, 2, 2], [2, 1, 0], "abc").lines == (
        "6 training and 3 test images of 4 x 5 pixels in 3 channels, 3 classes",
        "training images by class: a: 1, b: 2, c: 3",
        "test images by class: 1 each",
    )


def test_vectors_have_features() -> None:
    data = Dataset("toy", ("a",), as_split(np.zeros((2, 13)), [0, 0]))
    assert Contents.of(data).lines[0] == "2 training and 0 test images of 13 features, 1 classes"


def test_of_many_classes_the_ends_are_said() -> None:
    counts = [number for number in range(1, 30) for _ in range(number)]
    line = Contents.count([f"c{k}" for k in range(30)], (2,), np.array(counts), np.array([0])).lines[1]
    assert line == "training images by class: from 0 (c0) to 29 (c29), half of the classes up to 14"


def test_an_ordinary_data_set_is_no_warning() -> None:
    assert contents([0, 1, 1, 2], [2, 1, 0], "abc").warnings == ()
    assert contents([0, 0], [0], "a").warnings == ()


def test_classes_without_training_images_are_named_with_what_they_cost_and_the_way_out() -> None:
    (line,) = contents([0, 0, 1], [0, 1, 2, 2, 3], "abcd").warnings
    assert line.startswith(
        "2 of 4 classes have no training images: c, d; all 3 test images of them will count as wrong"
    )
    assert line.endswith("data.shuffle = 0 mixes them")


def test_classes_without_test_images_are_named() -> None:
    (line,) = contents([0, 1, 2], [1], "abc").warnings
    assert line == "2 of 3 classes have no test images: a, c; the accuracy says nothing about them"


def test_labels_with_gaps_are_named() -> None:
    (line,) = contents([0, 7, 7, 0], [7, 0]).warnings
    assert line.startswith("6 of 8 classes have no images at all: b, c, d, e, f, g; number the labels without gaps")


def test_uneven_classes_are_said_with_what_a_constant_answer_reaches() -> None:
    (line,) = contents([0] * 30 + [1] * 5 + [2] * 3, [0, 0, 1, 2], "abc").warnings
    assert line.endswith("30 of a, 3 of c; who always answers a is right for 50.00% of the test images")
    assert contents([0] * 29 + [1] * 5 + [2] * 3, [0, 0, 1, 2], "abc").warnings == ()


@pytest.mark.parametrize("count", [12, 40])
def test_a_warning_names_a_few_classes_only(count: int) -> None:
    found = Contents.count([f"c{k}" for k in range(count + 1)], (2,), np.array([count]), np.array([count]))
    assert ("c11 and 28 more;" in found.warnings[0]) == (count == 40)
    assert "c12" not in found.warnings[0]


def test_the_counts_are_plain_values_for_json() -> None:
    record = json.loads(json.dumps(contents([0, 1, 1], [0], "ab").to_json()))
    assert record["classes"] == [{"name": "a", "train": 1, "test": 1}, {"name": "b", "train": 2, "test": 0}]
    assert record["shape"] == [4, 5, 3]
    assert (record["train"], record["test"]) == (3, 1)
    assert len(record["warnings"]) == 1


def numbers(labels: list[list[float]], test: list[list[float]] | None, task: str) -> Contents:
    images = np.zeros((len(labels), 3))
    parts = Split(images, np.array(labels, float)), Split(images[:1], None if test is None else np.array(test, float))
    return Contents.of(Dataset("toy", ("round", "red"), *parts, task=task))


def test_targets_of_a_regression_are_said_by_their_range() -> None:
    found = numbers([[1, 2], [3, 2], [5, 5]], [[1, 1]], "regression")
    assert found.lines == (
        "3 training and 1 test images of 3 features, 2 targets of a regression (round, red)",
        "round: 1 to 5 in training, mean 3, standard deviation 1.633",
        "red: 2 to 5 in training, mean 3, standard deviation 1.414",
    )
    assert found.columns == 2
    assert found.warnings == ()
    assert json.loads(json.dumps(found.to_json()))["targets"][0]["mean"] == 3


def test_several_classes_an_image_are_counted_each() -> None:
    found = numbers([[1, 1], [1, 0], [1, 0]], [[1, 0]], "multilabel")
    assert found.lines[0].endswith("2 classes, several an image")
    assert found.lines[1:] == ("training images by class: round: 3, red: 1", "test images by class: round: 1, red: 0")
    assert found.columns == 2


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_a_test_part_without_labels_is_said_and_not_warned_of(task: str) -> None:
    found = numbers([[1, 1], [1, 0], [0, 0]], None, task)
    assert found.lines[0].endswith("; the test images have no labels")
    assert (found.test, found.has_test_labels, found.warnings) == (1, False, ())
    assert not any(line.startswith("test images by class") for line in found.lines)
