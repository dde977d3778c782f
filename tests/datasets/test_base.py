import numpy as np
import pytest

from cntk_pipeline.datasets import Dataset, Split, as_split
from cntk_pipeline.errors import DataError


def images(count=4, dtype=np.uint8, shape=(2, 3, 1)):
    return np.zeros((count, *shape), dtype)


def make(train_images, train_labels=None, test=None, classes=("a", "b")):
    labels = np.zeros(len(train_images), np.int64) if train_labels is None else train_labels
    return Dataset("toy", classes, as_split(train_images, labels), test)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64, ">f4"])
def test_bytes_and_floats_are_pixels(dtype):
    assert make(images(dtype=dtype)).train.images.dtype == dtype


@pytest.mark.parametrize("dtype", [object, complex, bool, np.int64, np.uint16, np.longdouble, "U1"])
def test_other_types_are_not_pixels(dtype):
    with pytest.raises(DataError, match=r"toy: train images: expected uint8, float16.* got .*; convert them"):
        make(images().astype(dtype))


def test_grayscale_images_get_a_channel_axis():
    assert make(np.zeros((4, 5, 6))).train.images.shape == (4, 5, 6, 1)


def test_vectors_keep_rank_two():
    assert make(np.zeros((4, 5))).train.images.shape == (4, 5)


@pytest.mark.parametrize("shape", [(4,), (4, 2, 2, 2, 2)])
def test_another_rank_is_refused(shape):
    with pytest.raises(DataError, match=r"toy: train images: expected shape \(n, H, W, C\).*got \(4.*reshape"):
        make(np.zeros(shape))


@pytest.mark.parametrize("shape", [(0, 2, 2, 1), (3, 0, 2, 1), (0, 5)])
def test_an_empty_part_is_refused(shape):
    with pytest.raises(DataError, match="expected at least one image with one pixel, got shape"):
        make(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("count", [4, 3000])
def test_a_pixel_that_is_not_finite_is_named(value, count):
    broken = images(count, np.float32, (2, 3, 2))
    broken[count - 1, 1, 2, 0] = value
    with pytest.raises(
        DataError, match=rf"train images: .* got {value} in image {count - 1} at \(row, column, channel\) = \(1, 2, 0\)"
    ):
        make(broken)


def test_pixels_that_are_absent_in_all_channels_are_kept_but_some_are_there_in_each_image():
    absent = images(4, np.float32, (2, 3, 2))
    absent[1, 0, :2], absent[3, :, 2] = np.nan, np.nan
    np.testing.assert_array_equal(make(absent).train.images, absent)
    absent[2] = np.nan
    with pytest.raises(DataError, match=r"got nan in image 2 at .* = \(0, 0, 0\); no pixel of it is there"):
        make(absent)


def test_a_feature_that_is_not_finite_is_named():
    with pytest.raises(DataError, match=r"got nan in image 0 at \(feature\) = \(1\); drop or repair"):
        make(np.array([[0.0, np.nan]]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, ">i8", np.uint64])
def test_integers_of_any_width_become_labels(dtype):
    assert make(images(), np.array([0, 1, 1, 0], dtype)).train.labels.dtype == np.int64


@pytest.mark.parametrize("labels", [np.zeros(4), np.zeros(4, bool), np.array(list("abab")), np.zeros((4, 2), int)])
def test_labels_that_are_not_a_row_of_integers_are_refused(labels):
    with pytest.raises(DataError, match=r"toy: train labels: expected integers of shape \(n,\), got .*; \w+"):
        make(images(), labels)


def test_labels_must_be_as_many_as_the_images():
    with pytest.raises(DataError, match="train labels: expected 4, one for each image, got 3; check"):
        make(images(), np.zeros(3, int))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_outside_of_the_classes_is_named(label):
    with pytest.raises(DataError, match=f"expected 0 to 1 for 2 classes, got {label} at image 2; number"):
        make(images(), np.array([0, 1, label, 5]))


def test_the_test_part_is_checked_too():
    with pytest.raises(DataError, match="toy: test labels: expected 2, one for each image, got 1"):
        make(images(), test=as_split(images(2), [0]))


def test_both_parts_have_images_of_one_size():
    with pytest.raises(DataError, match=r"training images' size \(2, 3, 1\), got \(3, 2, 1\); resize"):
        make(images(), test=as_split(images(shape=(3, 2, 1)), [0, 0, 0, 0]))


def test_both_parts_have_pixels_on_one_scale():
    with pytest.raises(DataError, match="pixels on one scale, got uint8 and float32; give both"):
        make(images(), test=as_split(images(dtype=np.float32), [0, 0, 0, 0]))


def test_a_split_counts_its_images():
    assert len(Split(images(3), np.zeros(3, np.int64))) == 3
