import contextlib
import io
import os
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from support.garbling import garble

from cntk_pipeline.datasets import load
from cntk_pipeline.errors import DataError, DataNotFound

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
    with pytest.raises(
        DataError, match=r"expected the keys x_train, y_train \(or x and y\), got x_train, z; add y_train"
    ):
        load("npz", save(x_train=TRAIN["x_train"], z=np.zeros(3)))


def test_test_images_need_no_labels(save):
    data = load("npz", save(**TRAIN, x_test=TEST["x_test"]))
    assert data.test.labels is None
    assert len(data.test) == 2


def test_test_labels_need_test_images(save):
    with pytest.raises(
        DataError, match=r"keys x_train, y_train, x_test, y_test .*got x_train, y_train, y_test; add x_test"
    ):
        load("npz", save(**TRAIN, y_test=TEST["y_test"]))


def test_x_and_y_are_the_images_and_labels_of_one_part(save):
    data = load("npz", save(x=TRAIN["x_train"], y=TRAIN["y_train"]))
    np.testing.assert_array_equal(data.train.images, TRAIN["x_train"])
    assert data.train.labels.tolist() == [0, 1, 2, 1]
    assert data.test is None


def test_the_parts_win_over_the_whole(save):
    data = load("npz", save(**TRAIN, x=np.zeros((9, 2)), y=np.zeros(9, int)))
    assert len(data.train) == 4


def test_images_with_channels_first_are_refused_with_the_file(save):
    path = save(x_train=np.zeros((4, 3, 8, 8)), y_train=TRAIN["y_train"])
    with pytest.raises(DataError, match=re.escape(f"{path}: x_train: expected shape (n, H, W, C), got (4, 3, 8, 8)")):
        load("npz", path)


def test_channels_first_are_turned_on_demand(save):
    images = np.random.default_rng(0).random((4, 3, 8, 7))
    path = save(x_train=images, y_train=TRAIN["y_train"])
    with pytest.raises(DataError, match=r'data\.layout = "channels_first" does so'):
        load("npz", path)
    data = load("npz", path, options={"layout": "channels_first"})
    assert data.train.images.shape == (4, 8, 7, 3)
    assert data.train.images[1, 5, 6, 2] == images[1, 2, 5, 6]


def test_vectors_have_no_channels_to_turn(save):
    with pytest.raises(
        DataError, match=r"x_train: expected shape \(n, C, H, W\), .*got \(4, 5\); leave data.layout out"
    ):
        load("npz", save(x=np.zeros((4, 5)), y=TRAIN["y_train"]), options={"layout": "channels_first"})


def test_sequences_become_images_of_one_row(save):
    steps = np.random.default_rng(0).random((4, 8, 8))  # which would be grayscale images, or channels first
    options = {"layout": "sequences"}
    data = load("npz", save(x_train=steps, y_train=TRAIN["y_train"]), options=options)
    np.testing.assert_array_equal(data.train.images, steps[:, None])
    data = load("npz", save(x_train=steps[:, :, 0], y_train=TRAIN["y_train"]), options=options)
    np.testing.assert_array_equal(data.train.images, steps[:, None, :, :1])
    with pytest.raises(
        DataError, match=r"expected shape \(n, T, C\) or \(n, T\), .*got \(4, 1, 8, 8\); leave data.layout"
    ):
        load("npz", save(x_train=steps[:, None], y_train=TRAIN["y_train"]), options=options)


def test_labels_in_a_column_are_those_of_a_row(save):
    data = load("npz", save(x_train=TRAIN["x_train"], y_train=TRAIN["y_train"][:, np.newaxis]))
    assert data.train.labels.tolist() == [0, 1, 2, 1]
    assert data.classes == ("0", "1", "2")


def test_a_label_beyond_the_number_of_images_is_the_name_of_a_class(save):
    data = load("npz", save(x_train=TRAIN["x_train"], y_train=np.array([0, 1, 2, 10**6])))
    assert data.classes == ("0", "1", "2", "1000000")
    assert data.train.labels.tolist() == [0, 1, 2, 3]


def test_no_labels_at_all_are_refused(save):
    with pytest.raises(DataError, match=r"train labels: expected numbers .*of shape \(0,\)"):
        load("npz", save(x_train=TRAIN["x_train"], y_train=np.array([], int)))


def test_pickled_objects_are_refused(save):
    with pytest.raises(
        DataError,
        match=r"data\.npz: classes: expected an .* got Python objects, which are never",
    ):
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
    with pytest.raises(DataError, match=r"expected a file, got a folder; correct data.path, or data.source"):
        load("npz", str(tmp_path))


def test_the_home_folder_is_expanded(save, tmp_path, monkeypatch):
    save(**TRAIN)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load("npz", "~/data.npz").train) == 4


def entry(shape, content=b"", version=2, padding=0, kind="<f4"):
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode() + b" " * padding + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<I", len(header)) + header + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an entry that is no array"),
        (b"hello world", "got an entry that is no array"),
        (entry("(4, 5)", bytes(79)), r"expected 80 bytes, as of float32 of shape \(4, 5\), got 79"),
        (entry("(4, 5)", bytes(81)), "expected 80 bytes, .*, got 81"),
        (entry("(10**13,)".replace("10**13", str(10**13)), bytes(8)), "expected 40,000,000,000,000 bytes"),
        (entry("(-4, -5)", bytes(80)), "expected 80 bytes"),
        (entry("()", bytes(4), padding=20_000), r"got a header of 20,0\d\d bytes in version 2\.0"),
        (entry("(" * 3000 + ")" * 3000), "got SyntaxError|got TokenError|got MemoryError|got ValueError"),
        (entry("(4,)", bytes(16), version=3), r"in version 3\.0"),
        (entry("(4,)", bytes(32), kind="|O"), "got Python objects, which are never loaded"),
    ],
    ids=["empty", "text", "short", "long", "huge", "negative", "header", "nested", "version", "objects"],
)
def test_an_entry_that_is_not_what_it_says_is_named_before_memory_is_taken(tmp_path, content, message):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("y_train.npy", npy(TRAIN["y_train"]))
        archive.writestr("x_train.npy", content)
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"data\.npz.*({message})"):
        load("npz", str(path))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**23


def npy(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def test_arrays_that_no_memory_holds_are_refused_before_they_are_read(save, monkeypatch):
    monkeypatch.setattr("cntk_pipeline.datasets.reading.memory_bytes", lambda: 1000)
    with pytest.raises(DataError, match=r"its arrays take 0\.0 GiB, and this process may use 0\.0 GiB; take fewer"):
        load("npz", save(**TRAIN))


@pytest.mark.parametrize("content", [b"this is text\n", b"", b"PK\x03\x04 and more"])
def test_what_is_no_archive_earns_no_advice_to_load_it_unsafely(tmp_path, content):
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz: expected an \.npz archive .*, got BadZipFile") as raised:
        load("npz", str(tmp_path / "data.npz"))
    assert "pickle" not in str(raised.value)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.npz")
    with pytest.raises(DataError, match=r"data\.npz: expected a file, got a pipe"):
        load("npz", str(tmp_path / "data.npz"))


PARTS = {"x_train": "train images", "y_train": "train labels", "x_test": "test images", "y_test": "test labels"}


@pytest.mark.parametrize("part", PARTS)
def test_a_single_number_in_the_place_of_an_array_is_refused(save, part):
    with pytest.raises(DataError, match=rf"{PARTS[part]}: expected (shape|numbers).* got .*\(\)"):
        load("npz", save(**(TRAIN | TEST | {part: np.array(3.0 if part[0] == "x" else 3)})))


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_however_they_were_written(tmp_path, write, order):
    arrays = {key: np.asarray(values, order=order) for key, values in (TRAIN | TEST).items()}
    write(tmp_path / "data.npz", **arrays, note=np.array([{}], dtype=object))
    data = load("npz", str(tmp_path / "data.npz"))
    np.testing.assert_array_equal(data.train.images, TRAIN["x_train"])


@pytest.mark.slow
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_garbled_archive_raises_nothing_but_data_errors(tmp_path, write):
    path = tmp_path / "data.npz"
    write(path, **TRAIN, classes=np.array(["cat", "dog", "hen"]))
    content, random = path.read_bytes(), np.random.default_rng(5)
    for _ in range(1000):
        path.write_bytes(garble(content, random))
        with contextlib.suppress(DataError):
            load("npz", str(path))


@pytest.mark.parametrize("key", ["x", "x_train"])
def test_labels_may_be_a_file_of_their_own(tmp_path, key):
    images = np.random.default_rng(1).random((4, 6, 5))
    labels = {"labels": str(tmp_path / "y.npy")}
    np.savez(tmp_path / "only.npz", **{key: images}, x_test=images[:1])
    np.save(tmp_path / "y.npy", np.array(["a", "b", "b", "a"]))
    data = load("npz", str(tmp_path / "only.npz"), options=labels)
    np.testing.assert_array_equal(data.train.images[..., 0], images)
    assert data.train.labels.tolist() == [0, 1, 1, 0]
    assert data.classes == ("a", "b")
    assert data.test.labels is None
    np.savez(tmp_path / "both.npz", x=images, y=[0, 1, 1, 0])
    with pytest.raises(DataError, match=r"both\.npz: holds y, so that data\.labels names other labels"):
        load("npz", str(tmp_path / "both.npz"), options=labels)
    with pytest.raises(DataNotFound, match=r"expected a file of labels \(data\.labels\) at .*none\.npy"):
        load("npz", str(tmp_path / "only.npz"), options={"labels": str(tmp_path / "none.npy")})
