import numpy as np
import pytest
from sklearn.datasets import load_wine

from cntk_pipeline.datasets import (
    Dataset,
    Split,
    as_split,
    equal_images,
    load,
    standardize,
    uneven_features,
    warnings_of,
)
from cntk_pipeline.errors import DataError


def dataset(labels: list[int], classes: tuple[str, ...] = ("cat", "dog", "owl")) -> Dataset:
    """Five images; 1 equals 4, and 3 is 0 flipped."""
    images = np.random.default_rng(0).standard_normal((5, 4, 3, 2))
    images[4], images[3] = images[1], images[0][:, ::-1]
    return Dataset("five", classes, as_split(images, labels))


def test_equal_images_are_paired_with_the_first_of_their_kind() -> None:
    images = np.array([1, 2, 1, 3, 1, 2], dtype=float)[:, None]
    assert equal_images(as_split(images, np.zeros(6, int))) == [(0, 2), (0, 4), (1, 5)]


def test_mirrored_images_are_equal_where_the_kernel_averages_over_flips() -> None:
    data = dataset([0, 1, 2, 0, 1])
    assert equal_images(data.train) == [(1, 4)]
    assert equal_images(data.train, mirrored=True) == [(0, 3), (1, 4)]


def test_equal_images_with_different_labels_are_refused_without_a_ridge() -> None:
    with pytest.raises(DataError, match=r"rows 1 \(dog\) and 4 \(cat\)\. Without a ridge .* drop 0 from solve.ridges"):
        warnings_of(dataset([0, 1, 2, 0, 0]), [0.0, 1e-3])


def test_equal_images_with_different_labels_are_a_warning_with_a_ridge() -> None:
    (line,) = warnings_of(dataset([0, 1, 2, 0, 0]), [1e-3])
    assert line.startswith("1 pairs of equal training images have different labels, rows 1 (dog) and 4 (cat)")


def test_equal_images_with_equal_labels_are_a_warning_without_a_ridge_only() -> None:
    assert warnings_of(dataset([0, 1, 2, 0, 1]), [1e-3]) == ()
    (line,) = warnings_of(dataset([0, 1, 2, 0, 1]), [0.0])
    assert "rows 1 and 4: without a ridge their kernel is singular" in line


def test_a_single_class_is_a_warning() -> None:
    (line,) = warnings_of(dataset([2, 2, 2, 2, 2]), [1.0])
    assert line == "all 5 training images are of the class owl: an accuracy says nothing"
    (line,) = warnings_of(dataset([0, 0, 0, 0, 0], ("cat",)), [1.0])
    assert line.endswith("an accuracy says nothing, and targets of one class are all zero")


def vectors(values: np.ndarray) -> Dataset:
    return Dataset("vectors", ("a",), as_split(values, np.zeros(len(values), int)))


def test_features_in_their_own_units_are_a_warning_until_each_is_standardised() -> None:
    wine = vectors(load_wine().data)
    (line,) = uneven_features(wine)
    assert line.startswith("1 of 13 features hold 99% of the variance, most of it feature 12, so that")
    assert 'data.standardize = "per_feature"' in line
    assert uneven_features(standardize(wine, "float64", per="feature")[0]) == ()


def test_one_of_two_features_may_hide_the_other() -> None:
    values = np.random.default_rng(0).standard_normal((50, 2))
    assert uneven_features(vectors(values * [1, 3])) == ()
    assert len(uneven_features(vectors(values * [1, 1000]))) == 1


@pytest.mark.parametrize("count", [1, 3, 3000])
def test_features_on_one_scale_are_no_warning(count: int) -> None:
    assert uneven_features(vectors(np.random.default_rng(0).standard_normal((9, count)))) == ()


def test_pixels_are_no_warning_though_those_at_the_border_hardly_change() -> None:
    pixels = load("digits").train.images
    assert uneven_features(vectors(pixels.reshape(len(pixels), -1))) == ()
    assert uneven_features(vectors(np.ones((4, 3)))) == ()
    images = pixels * np.linspace(0, 1000, 8)
    assert uneven_features(Dataset("images", tuple("0123456789"), as_split(images[..., 0], [0] * len(images)))) == ()


def numbers(labels: list[list[float]], task: str) -> Dataset:
    """The five images of `dataset`, with columns of numbers as labels."""
    images = dataset([0, 0, 0, 0, 0]).train.images
    return Dataset("five", ("round", "red"), Split(images, np.array(labels, float)), task=task)


def test_equal_images_with_different_targets_are_named_with_the_targets() -> None:
    data = numbers([[1, 2], [3, 4], [5, 6], [7, 8], [3, 4.5]], "regression")
    (line,) = warnings_of(data, [0.1])
    assert line == "1 pairs of equal training images have different labels, rows 1 (3, 4) and 4 (3, 4.5): " + (
        "no ridge can make both right"
    )
    with pytest.raises(DataError, match=r"rows 1 \(3, 4\) and 4 \(3, 4.5\)\. Without a ridge no function fits both"):
        warnings_of(data, [0])


def test_equal_images_with_different_classes_of_several_are_named_with_the_classes() -> None:
    (line,) = warnings_of(numbers([[1, 0], [1, 1], [0, 1], [0, 0], [0, 1]], "multilabel"), [0.1])
    assert "rows 1 (round red) and 4 (red)" in line


def test_a_constant_target_is_named() -> None:
    data = numbers([[1, 2], [3, 2], [5, 2], [7, 2], [3, 2]], "regression")
    assert warnings_of(data, [0.1]) == ("red is 2 for all training images",)
