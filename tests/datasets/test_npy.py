import numpy as np
import pytest

from cntk_pipeline.datasets import load
from cntk_pipeline.errors import DataError, DataNotFound

IMAGES, LABELS = np.random.default_rng(1).random((4, 6, 5)), np.array(["a", "b", "b", "a"])


def test_a_folder_of_arrays_is_read_by_their_names(tmp_path):
    np.save(tmp_path / "x_train.npy", IMAGES)
    np.save(tmp_path / "y_train.npy", LABELS)
    np.save(tmp_path / "x_test.npy", IMAGES[:1])
    data = load("npy", str(tmp_path))
    np.testing.assert_array_equal(data.train.images[..., 0], IMAGES)
    assert data.train.labels.tolist() == [0, 1, 1, 0]
    assert data.test.labels is None


def test_a_pair_of_files_is_a_data_set(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "kinds.npy", LABELS)
    data = load("npy", str(tmp_path / "images.npy"), options={"labels": str(tmp_path / "kinds.npy")})
    np.testing.assert_array_equal(data.train.images[..., 0], IMAGES)
    assert data.classes == ("a", "b")


def test_a_file_of_images_needs_one_of_labels(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    with pytest.raises(
        DataError, match=r"images\.npy: expected a file of labels with it; give data.labels = \"y.npy\""
    ):
        load("npy", str(tmp_path / "images.npy"))
    with pytest.raises(DataNotFound, match=r"expected a file of labels \(data.labels\) at .*none.npy"):
        load("npy", str(tmp_path / "images.npy"), options={"labels": str(tmp_path / "none.npy")})


def test_a_folder_without_arrays_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected the keys x_train, y_train \(or x and y\), got none; add x_train"):
        load("npy", str(tmp_path))


def test_pickled_objects_are_never_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}, None], object), allow_pickle=True)
    np.save(tmp_path / "y.npy", LABELS)
    with pytest.raises(DataError, match=r"x\.npy: expected .* got Python objects, which are never loaded"):
        load("npy", str(tmp_path))


def test_another_file_is_refused(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"text")
    with pytest.raises(DataError, match=r"x\.npy: expected .*, got an entry that is no array"):
        load("npy", str(tmp_path / "x.npy"), options={"labels": str(tmp_path / "x.npy")})
