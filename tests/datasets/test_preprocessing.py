import numpy as np
import pytest

from cntk_pipeline.datasets import Dataset, Standardization, as_split, load, one_hot_targets, standardize
from cntk_pipeline.errors import ConfigError, DataError

# Both sides compute in float64 and differ by the order of the sums.
CLOSE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-12}


def toy(images, test_images=None):
    test = None if test_images is None else as_split(test_images, np.zeros(len(test_images), int))
    return Dataset("toy", ("a",), as_split(images, np.zeros(len(images), int)), test)


def noise(count, dtype=np.float64, seed=1):
    values = np.random.default_rng(seed).uniform(0, 255, (count, 4, 5, 3)) * [1.0, 0.5, 0.25]
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("source", [np.uint8, np.float16, np.float32, np.float64])
def test_each_channel_gets_mean_zero_and_deviation_one(source, dtype):
    # More images than are looked at together.
    images = standardize(toy(noise(2500, source)), dtype)[0].train.images
    assert images.dtype == dtype
    assert images.flags.c_contiguous
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2), dtype=float), 0, atol=CLOSE[images.dtype])
    np.testing.assert_allclose(images.std(axis=(0, 1, 2), dtype=float), 1, atol=CLOSE[images.dtype])


def test_the_constants_are_those_of_the_training_pixels_in_units_of_one():
    images = noise(2500, np.uint8)
    constants = standardize(toy(images), np.float64)[1]
    np.testing.assert_allclose(constants.mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(constants.std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-12)


def test_dividing_bytes_by_255_does_not_matter():
    images = noise(20, np.uint8)
    as_bytes = standardize(toy(images), np.float64)[0].train.images
    np.testing.assert_allclose(as_bytes, standardize(toy(images.astype(float)), np.float64)[0].train.images, atol=1e-12)


def test_test_images_are_treated_with_the_training_constants():
    train, test = noise(20), noise(7, seed=2)
    data, constants = standardize(toy(train, test), np.float64)
    np.testing.assert_allclose(data.test.images, (test - constants.mean) / constants.std, rtol=1e-12)
    np.testing.assert_array_equal(constants.apply(test, np.float64), data.test.images)


def test_constants_of_the_first_images_stay_when_more_are_appended():
    images = noise(20, np.uint8)
    few, constants = standardize(toy(images[:8]), np.float32)
    more, same = standardize(toy(images, images[15:]), np.float32, first=8)
    assert same == constants
    np.testing.assert_array_equal(more.train.images[:8], few.train.images)
    np.testing.assert_array_equal(more.test.images, constants.apply(images[15:], np.float32))


@pytest.mark.parametrize("first", [0, 21])
def test_constants_need_images_that_are_there(first):
    with pytest.raises(ConfigError, match=r"toy: expected data.standardize_first from 1 to the 20 rows there are, got"):
        standardize(toy(noise(20)), np.float32, first)


def test_vectors_share_one_mean_and_deviation():
    vectors = noise(20).reshape(20, -1)
    data, constants = standardize(toy(vectors), np.float64)
    np.testing.assert_allclose(data.train.images, (vectors - vectors.mean()) / vectors.std(), rtol=1e-12)
    assert len(constants.mean) == len(constants.std) == 1


def test_each_feature_may_have_its_own_mean_and_deviation():
    vectors = noise(2500).reshape(2500, -1)[:, :7] * 10.0 ** np.arange(-3, 4) + np.arange(7)
    data, constants = standardize(toy(vectors, vectors[:9] + 1), np.float64, per="feature")
    np.testing.assert_allclose(data.train.images, (vectors - vectors.mean(axis=0)) / vectors.std(axis=0), atol=1e-9)
    np.testing.assert_allclose(
        data.test.images, (vectors[:9] + 1 - vectors.mean(axis=0)) / vectors.std(axis=0), atol=1e-9
    )
    assert len(constants.mean) == len(constants.std) == 7


def test_a_constant_feature_becomes_zero():
    vectors = noise(20).reshape(20, -1)[:, :4]
    vectors[:, 2] = 0.1
    data, constants = standardize(toy(vectors), np.float64, per="feature")
    assert (data.train.images[:, 2] == 0).all()
    assert (constants.mean[2], constants.std[2]) == (0.1, 1.0)


def test_features_of_the_first_vectors_stay_when_more_are_appended():
    vectors = noise(20).reshape(20, -1)
    few, constants = standardize(toy(vectors[:8]), np.float32, per="feature")
    more, same = standardize(toy(vectors), np.float32, first=8, per="feature")
    assert same == constants
    np.testing.assert_array_equal(more.train.images[:8], few.train.images)


def test_images_have_channels_and_no_features():
    with pytest.raises(
        ConfigError, match=r'"per_feature" is for vectors .*, got images of shape \(20, 4, 5, 3\); true'
    ):
        standardize(toy(noise(20)), np.float32, per="feature")


def test_constants_of_features_are_for_vectors_of_as_many():
    with pytest.raises(DataError, match=r"shape \(2, 60\): expected 3 features, .* got 60; give"):
        Standardization((0.0,) * 3, (1.0,) * 3).apply(noise(2).reshape(2, -1), np.float32)


def test_a_constant_channel_becomes_zero():
    images = noise(20)
    images[..., 1] = 0.1  # its mean over 400 values is not 0.1 in float64
    data, constants = standardize(toy(images), np.float64)
    assert (data.train.images[..., 1] == 0).all()
    assert (constants.mean[1], constants.std[1]) == (0.1, 1.0)


def test_black_images_are_legal():
    images = noise(20, np.uint8)
    images[3] = 0
    assert len(set(standardize(toy(images), np.float32)[0].train.images[3, :, :, 0].ravel())) == 1
    assert (standardize(toy(np.zeros((3, 2, 2, 1), np.uint8)), np.float32)[0].train.images == 0).all()


def test_labels_and_names_stay():
    digits = load("digits")
    data = standardize(digits, "float32")[0]
    assert (data.name, data.classes, data.test) == (digits.name, digits.classes, None)
    np.testing.assert_array_equal(data.train.labels, digits.train.labels)


@pytest.mark.parametrize("dtype", [np.float16, "int64", "nonsense", None, ">f8", np.uint8])
def test_other_precisions_are_refused(dtype):
    with pytest.raises(ConfigError, match="expected 'float32' or 'float64' for the standardised images, got"):
        standardize(toy(noise(2)), dtype)


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_pixels_out_of_the_range_of_squares_are_refused(scale):
    with pytest.raises(
        DataError, match=r"toy: expected pixels whose squares float64 can hold, got values from .*scale"
    ):
        standardize(toy(noise(20) * scale), np.float64)


def test_test_pixels_that_overflow_are_refused():
    with pytest.raises(DataError, match="toy: test images: expected finite pixels, got inf"):
        standardize(toy(noise(20), noise(2) * 1e100), np.float32)


def test_constants_are_for_images_of_as_many_channels():
    with pytest.raises(DataError, match=r"shape \(2, 4, 5, 3\): expected 1 channels, .* got 3; give"):
        Standardization((0.0,), (1.0,)).apply(noise(2), np.float32)


def test_ten_classes_give_the_targets_of_arora_et_al():
    targets = one_hot_targets(np.array([2]), 10)
    np.testing.assert_allclose(targets, [[-0.1, -0.1, 0.9, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1]], rtol=1e-15)
    assert targets.dtype == np.float64


def test_targets_sum_to_zero_and_point_to_the_label():
    labels = np.random.default_rng(3).integers(0, 7, 50)
    targets = one_hot_targets(labels, 7)
    np.testing.assert_allclose(targets.sum(axis=1), 0, atol=1e-15)
    np.testing.assert_array_equal(targets.argmax(axis=1), labels)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_without_a_column_is_named(label):
    with pytest.raises(DataError, match=f"labels: expected 0 to 2, got {label} at row 1; check class_count"):
        one_hot_targets(np.array([0, label]), 3)


@pytest.mark.parametrize(
    ("labels", "advice"),
    [
        (np.array([True, False]), r"bool of shape \(2,\); give numbers, False being class 0"),
        ([0.0, 1.0], r"float64 of shape \(2,\); they are whole numbers"),
        ([[0], [1]], r"int64 of shape \(2, 1\); each image has one class"),
        (["a", "b"], r"<U1 of shape \(2,\); give numbers"),
    ],
)
def test_targets_are_of_whole_numbers(labels, advice):
    with pytest.raises(DataError, match=f"labels: expected whole numbers of shape .n,., got {advice}"):
        one_hot_targets(labels, 2)
    assert one_hot_targets([0, 1], 2).tolist() == [[0.5, -0.5], [-0.5, 0.5]]


@pytest.mark.parametrize("per", ["features", None, True])
def test_another_unit_of_standardisation_is_refused(per):
    with pytest.raises(ConfigError, match=f"expected per = 'channel' or 'feature' for .*, got {per!r}"):
        standardize(Dataset("toy", ("a",), as_split(np.eye(3), np.zeros(3, int))), "float32", per=per)
