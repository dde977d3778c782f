import re

import numpy as np
import pytest

from pipeline.datasets import load
from pipeline.errors import DataError, DataNotFound

TRAIN = {"x_train": np.arange(4 * 5 * 5 * 3, dtype=np.float32).reshape(4, 5, 5, 3), "y_train": np.array([0, 1, 2, 1])}
TEST = {"x_test": np.ones((2, 5, 5, 3), np.float32), "y_test": np.array([3, 0], np.uint8)}


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return str(tmp_path / "data.npz")

    return write


def test_arrays_come_back_as_saved(save):
    data = load("npz", save(**TRAIN, **TEST))
    np.testing.assert_array_equal(data.train.images, TRAIN["x_train"])
    np.testing.assert_array_equal(data.test.labels, [3, 0])


def test_the_test_part_is_optional(save):
    assert load("npz", save(**TRAIN)).test is None


def test_classes_are_numbered_up_to_the_largest_label_of_both_parts(save):
    assert load("npz", save(**TRAIN, **TEST)).classes == ("0", "1", "2", "3")


def test_classes_may_be_named(save):
    assert load("npz", save(**TRAIN, classes=np.array(["cat", "dog", "hen"]))).classes == ("cat", "dog", "hen")


@pytest.mark.parametrize("names", [np.array([1, 2, 3]), np.array([["a"]])])
def test_names_of_classes_must_be_a_row_of_text(save, names):
    with pytest.raises(DataError, match=r"expected classes of text and shape \(classes,\), got .*; save classes="):
        load("npz", save(**TRAIN, classes=names))


def test_classes_of_one_name_are_refused(save):
    with pytest.raises(DataError, match="expected classes of different names, got 'cat' 2 times; give each"):
        load("npz", save(**TRAIN, classes=np.array(["cat", "dog", "cat"])))


def test_too_few_names_are_refused(save):
    with pytest.raises(DataError, match="expected 0 to 1 for 2 classes, got 2 at image 2"):
        load("npz", save(**TRAIN, classes=np.array(["cat", "dog"])))


def test_a_missing_key_is_named_with_those_found(save):
    with pytest.raises(DataError, match="expected the keys x_train, y_train, got x_train, z; add y_train"):
        load("npz", save(x_train=TRAIN["x_train"], z=np.zeros(3)))


def test_test_images_need_test_labels(save):
    with pytest.raises(
        DataError, match=r"expected the keys .*x_test, y_test, got x_train, y_train, x_test; add y_test"
    ):
        load("npz", save(**TRAIN, x_test=TEST["x_test"]))


def test_images_with_channels_first_are_refused_with_the_file(save):
    path = save(x_train=np.zeros((4, 3, 8, 8)), y_train=TRAIN["y_train"])
    with pytest.raises(DataError, match=re.escape(f"{path}: x_train: expected shape (n, H, W, C), got (4, 3, 8, 8)")):
        load("npz", path)


def test_labels_in_a_column_are_those_of_a_row(save):
    data = load("npz", save(x_train=TRAIN["x_train"], y_train=TRAIN["y_train"][:, np.newaxis]))
    assert data.train.labels.tolist() == [0, 1, 2, 1]
    assert data.classes == ("0", "1", "2")


def test_a_label_beyond_the_number_of_images_is_refused(save):
    with pytest.raises(DataError, match="of fewer classes than the 4 images, got label 1000000; number"):
        load("npz", save(x_train=TRAIN["x_train"], y_train=np.array([0, 1, 2, 10**6])))


@pytest.mark.parametrize(
    "labels", [np.array([0.0, 1.0, 2.0, 1.0]), np.array(list("abab")), np.array([-1, -1, -1, -1]), np.array([], int)]
)
def test_labels_without_classes_are_judged_by_the_data_set(save, labels):
    with pytest.raises(DataError, match="train labels: expected"):
        load("npz", save(x_train=TRAIN["x_train"], y_train=labels))


def test_pickled_objects_are_refused(save):
    with pytest.raises(DataError, match=r"data.npz: expected an \.npz archive of plain arrays .*allow_pickle=False"):
        load("npz", save(**TRAIN, classes=np.array(["cat", None, 3], object)))


def test_objects_under_other_keys_are_left_alone(save):
    assert len(load("npz", save(**TRAIN, notes=np.array([None], object))).train) == 4


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 torn"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{path}: expected an .npz archive")):
        load("npz", str(path))


def test_a_flipped_byte_is_noticed(save):
    path = save(**TRAIN)
    with open(path, "r+b") as file:
        file.seek(400)
        file.write(b"\xff")
    with pytest.raises(DataError, match="BadZipFile"):
        load("npz", path)


def test_a_single_array_is_refused(tmp_path):
    np.save(tmp_path / "data.npy", TRAIN["x_train"])
    with pytest.raises(DataError, match="got a single array; save it with x_train= and y_train="):
        load("npz", str(tmp_path / "data.npy"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataNotFound, match=r"'npz': expected an \.npz file at .*none.npz, got nothing there; correct"):
        load("npz", str(tmp_path / "none.npz"))


def test_a_folder_is_not_an_archive(tmp_path):
    with pytest.raises(DataError, match=r"expected an \.npz archive .*IsADirectoryError"):
        load("npz", str(tmp_path))


def test_the_home_folder_is_expanded(save, tmp_path, monkeypatch):
    save(**TRAIN)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load("npz", "~/data.npz").train) == 4
