import contextlib
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.formats import png
from support.garbling import garble

from cntk_pipeline.datasets import load
from cntk_pipeline.datasets.cifar10_layouts import read_binary, read_parquet, read_python
from cntk_pipeline.errors import ConfigError, DataError

RECORD = bytes([3]) + bytes(3072)


@pytest.fixture
def expected(batches):
    train = [batch for name, batch in batches.items() if name != "test_batch"]
    return np.concatenate([images for images, _ in train]), np.concatenate([labels for _, labels in train])


@pytest.mark.parametrize("form", ["write_binary", "write_python", "write_parquet"])
def test_every_release_gives_the_same_arrays(form, request, tmp_path, expected, batches):
    data = load("cifar10", str(request.getfixturevalue(form)(tmp_path)))
    np.testing.assert_array_equal(data.train.images, expected[0])
    np.testing.assert_array_equal(data.train.labels, expected[1])
    np.testing.assert_array_equal(data.test.images, batches["test_batch"][0])
    np.testing.assert_array_equal(data.test.labels, batches["test_batch"][1])
    assert data.train.images.flags.c_contiguous
    assert data.classes[3] == "cat"


def test_one_record_is_enough(tmp_path):
    (tmp_path / "b.bin").write_bytes(RECORD)
    images, labels = read_binary(tmp_path / "b.bin")
    assert images.shape == (1, 32, 32, 3)
    assert labels.tolist() == [3]


@pytest.mark.parametrize("size", [0, 1, 3072, 3074, 2 * 3073 - 1])
def test_a_truncated_binary_file_is_named_with_its_size(tmp_path, size):
    (tmp_path / "b.bin").write_bytes((RECORD * 2)[:size])
    with pytest.raises(DataError, match=rf"b\.bin: expected records of 3,073 bytes .*30,730,000.*, got {size:,} bytes"):
        read_binary(tmp_path / "b.bin")


def test_a_garbled_label_byte_is_named(tmp_path):
    (tmp_path / "b.bin").write_bytes(RECORD + b"\xc8" + bytes(3072))
    with pytest.raises(DataError, match=r"b\.bin: expected labels 0 to 9, got 200 at record 1; fetch"):
        read_binary(tmp_path / "b.bin")


def test_a_binary_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"expected a file, got a folder"):
        read_binary(Path(str(tmp_path)))


@pytest.fixture
def pickled(tmp_path):
    def write(content, protocol=2):
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps(content, protocol=protocol))
        return tmp_path / "data_batch_1"

    return write


@pytest.mark.parametrize(
    ("content", "got"),
    [({b"data": 1, b"fine_labels": 2}, r"b'data', b'fine_labels'"), ({}, "no keys"), ({b"labels": [1]}, "b'labels'")],
)
def test_a_batch_without_data_and_labels_is_refused(pickled, content, got):
    with pytest.raises(DataError, match=f"data_batch_1: expected a dictionary with b'data' and b'labels', got {got}"):
        read_python(pickled(content))


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (np.zeros((2, 3000), np.uint8), r"shape \(2, 3000\)"),
        (b"xx", "bytes"),
    ],
)
def test_a_batch_of_other_data_is_refused(pickled, data, got):
    with pytest.raises(DataError, match=rf"data_batch_1: expected b'data' to be uint8 of shape \(n, 3072\), got {got}"):
        read_python(pickled({b"data": data, b"labels": [0, 1]}))


@pytest.mark.parametrize("labels", [[1], [1, 2.0], (1, 2)])
def test_a_batch_of_other_labels_is_refused(pickled, labels):
    with pytest.raises(DataError, match="data_batch_1: expected b'labels' to be a list of 2 integers; fetch"):
        read_python(pickled({b"data": np.zeros((2, 3072), np.uint8), b"labels": labels}))


def test_an_empty_batch_is_named(write_python, tmp_path, pickled):
    write_python(tmp_path)
    pickled({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, protocol=4)
    with pytest.raises(DataError, match="data_batch_1: expected at least one image, got none; fetch"):
        load("cifar10", str(tmp_path))


@pytest.fixture
def table(tmp_path):
    def write(name="img", size=(32, 32), mode="RGB", encoded=None, kind=None):
        picture = png(np.array(Image.new(mode, size, 7)))
        rows = [{"bytes": encoded if kind else picture, "path": "a"}]
        path = tmp_path / "train-0.parquet"
        pq.write_table(pa.table({name: pa.array(rows, kind), "label": [1]}), path)
        return path

    return write


@pytest.mark.parametrize("name", ["img", "image"])
def test_both_names_of_the_image_column_are_known(table, name):
    images, labels = read_parquet(table(name))
    assert images.shape == (1, 32, 32, 3)
    assert labels.tolist() == [1]


def test_rows_stay_in_order_beyond_what_is_read_at_once(tmp_path):
    levels = np.arange(1500) % 251
    pictures = {level: png(np.full((32, 32), level, np.uint8)) for level in range(251)}
    rows = [{"bytes": pictures[level]} for level in levels]
    pq.write_table(pa.table({"img": rows, "label": levels % 10}), tmp_path / "train-0.parquet")
    images, labels = read_parquet(tmp_path / "train-0.parquet")
    np.testing.assert_array_equal(images[:, 0, 0, 0], levels)
    np.testing.assert_array_equal(labels, levels % 10)


def test_long_binary_columns_are_known(table):
    picture = pq.read_table(table(mode="L")).to_pylist()[0]["img"]["bytes"]
    kind = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    assert (read_parquet(table(encoded=picture, kind=kind))[0] == 7).all()


def test_a_gray_picture_is_spread_over_the_channels(table):
    assert (read_parquet(table(mode="L"))[0] == 7).all()


def test_a_table_without_images_is_refused_with_its_columns(table):
    with pytest.raises(
        DataError, match=r"expected one column img \(a struct with bytes\) and one label of integers, got picture: str"
    ):
        read_parquet(table("picture"))


def test_a_picture_of_another_size_is_named(table):
    with pytest.raises(
        DataError, match=r"train-0\.parquet, row 0: expected 32 x 32 pixels, got 30 x 28 \(height x width\); is"
    ):
        read_parquet(table(size=(28, 30)))


def test_a_picture_that_is_null_is_named(table):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    with pytest.raises(DataError, match="row 0: expected an encoded image, got null; fetch"):
        read_parquet(table(kind=kind))


@pytest.mark.parametrize("encoded", [b"junk", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n"])
def test_a_picture_that_is_broken_or_postscript_is_named(table, encoded):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    with pytest.raises(DataError, match=r"row 0: expected an image that Pillow can decode .*UnidentifiedImageError"):
        read_parquet(table(encoded=encoded, kind=kind))


def test_a_missing_parquet_package_is_named_with_the_remedy(table, monkeypatch):
    path = table()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"train-0\.parquet: needs the package pyarrow, .*'cntk-pipeline\[images\]'"):
        read_parquet(path)


def test_a_truncated_table_is_named(table):
    path = table()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"train-0\.parquet: expected a Parquet file, got ArrowInvalid"):
        read_parquet(path)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ([("img", 0), ("img", 0)], [("label", [1])]),
        ([("img", 0), ("image", 0)], [("label", [1])]),
        ([("img", 0)], [("label", [1]), ("label", [1])]),
        ([("img", 0)], [("label", [[1, 2]])]),
        ([("img", 0)], [("label", ["cat"])]),
        ([("img", 0)], []),
    ],
    ids=["two img", "img and image", "two labels", "lists of labels", "text", "none"],
)
def test_columns_that_are_repeated_or_of_another_type_are_refused(tmp_path, images, labels):
    rows = [pa.array([{"bytes": png(np.zeros((32, 32), np.uint8))}]) for _ in images]
    columns = [*rows, *(pa.array(values) for _, values in labels)]
    table = pa.Table.from_arrays(columns, names=[name for name, _ in (*images, *labels)])
    pq.write_table(table, tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=r"train-0\.parquet: expected one column img .* and one label of integers, got"):
        read_parquet(tmp_path / "train-0.parquet")


def test_a_label_that_is_null_is_named(tmp_path):
    rows = [{"bytes": png(np.zeros((32, 32), np.uint8))}] * 2
    pq.write_table(pa.table({"img": rows, "label": pa.array([1, None])}), tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=r"train-0\.parquet, row 1: expected a label, got null"):
        read_parquet(tmp_path / "train-0.parquet")


@pytest.mark.parametrize("read", [read_binary, read_python, read_parquet])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "batch")
    with pytest.raises(DataError, match="batch: expected a file, got a pipe, a socket or a device"):
        read(tmp_path / "batch")


@pytest.mark.parametrize(("write", "read"), [("write_parquet", read_parquet), ("write_python", read_python)])
def test_a_garbled_file_raises_nothing_but_data_errors(write, read, request, tmp_path):
    content = next(path for path in request.getfixturevalue(write)(tmp_path / "made").iterdir()).read_bytes()
    random = np.random.default_rng(6)
    for _ in range(500):
        (tmp_path / "garbled").write_bytes(garble(content, random))
        with contextlib.suppress(DataError):
            read(tmp_path / "garbled")
