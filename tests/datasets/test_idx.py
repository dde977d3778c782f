"""Files of MNIST's format, packed or not."""

import contextlib
import gzip
import struct

import numpy as np
import pytest
from support.garbling import garble

from cntk_pipeline.datasets import load
from cntk_pipeline.errors import ConfigError, DataError, DataNotFound

rng = np.random.default_rng(9)
IMAGES = {"train": rng.integers(0, 256, (5, 4, 3), np.uint8), "t10k": rng.integers(0, 256, (2, 4, 3), np.uint8)}
LABELS = {"train": np.array([0, 1, 2, 1, 0], np.uint8), "t10k": np.array([2, 0], np.uint8)}


def idx(values, kind=8):
    return bytes([0, 0, kind, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture
def release(tmp_path):
    def write(ending="", dot="-", parts=("train", "t10k")):
        pack = gzip.compress if ending else bytes
        for part in parts:
            (tmp_path / f"{part}-images{dot}idx3-ubyte{ending}").write_bytes(pack(idx(IMAGES[part])))
            (tmp_path / f"{part}-labels{dot}idx1-ubyte{ending}").write_bytes(pack(idx(LABELS[part])))
        return tmp_path

    return write


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
def test_a_release_is_read_packed_or_not(release, ending, dot):
    data = load("idx", str(release(ending, dot)))
    np.testing.assert_array_equal(data.train.images[..., 0], IMAGES["train"])
    np.testing.assert_array_equal(data.test.images[..., 0], IMAGES["t10k"])
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1, 2, 1, 0], [2, 0])
    assert data.train.images.dtype == np.uint8


def test_the_test_part_and_its_labels_may_be_missing(release):
    assert load("idx", str(release(parts=["train"]))).test is None
    folder = release()
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert load("idx", str(folder)).test.labels is None


def test_two_files_are_a_data_set(release):
    folder = release()
    labels = str(folder / "t10k-labels-idx1-ubyte")
    data = load("idx", str(folder / "t10k-images-idx3-ubyte"), options={"labels": labels})
    np.testing.assert_array_equal(data.train.images[..., 0], IMAGES["t10k"])
    with pytest.raises(ConfigError, match=r"expected a file of labels with it, got none; set data.labels to the file"):
        load("idx", str(folder / "t10k-images-idx3-ubyte"))
    with pytest.raises(DataError, match=r"expected images \(n, H, W\), got the shape \(2,\); is this a file of labels"):
        load("idx", labels, options={"labels": labels})


@pytest.mark.parametrize(("kind", "dtype"), [(9, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")])
def test_values_of_all_types_are_read(tmp_path, kind, dtype):
    (tmp_path / "x").write_bytes(idx(np.ones((3, 2, 2), ">f4"), 0x0D))
    (tmp_path / "y").write_bytes(idx(np.array([3, 1, 2], dtype), kind))
    assert load("idx", str(tmp_path / "x"), options={"labels": str(tmp_path / "y")}).classes == ("1", "2", "3")


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_missing_file_is_named(release, name):
    folder = release()
    (folder / name).unlink()
    with pytest.raises(DataNotFound, match=f"expected {name} .*beside the other file of the part; fetch it"):
        load("idx", str(folder))


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(DataNotFound, match=r"expected the files train-images-idx3-ubyte and .*got neither; correct"):
        load("idx", str(tmp_path))


WRONG = {
    "empty": (b"", "begins with nothing; fetch it again"),
    "text": (b"hello world", "begins with 68656c6c; fetch it again"),
    "short": (idx(IMAGES["train"])[:-1], r"expected 60 bytes, as of the shape \(5, 4, 3\), got 59; fetch it again"),
    "long": (idx(IMAGES["train"]) + b"x", "expected 60 bytes, .*, got more; fetch it again"),
    "no header": (idx(IMAGES["train"])[:9], "got 0; fetch it again"),
    "huge": (bytes([0, 0, 8, 3]) + b"\xff" * 12, "its arrays take .* GiB, and this process may use"),
    "torn": (gzip.compress(idx(IMAGES["train"]))[:-12], "expected an idx file, as of MNIST, got EOFError"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_damaged_file_is_refused_before_memory_is_taken(release, kind):
    folder = release()
    (folder / "train-images-idx3-ubyte").write_bytes(WRONG[kind][0])
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte: .*{WRONG[kind][1]}"):
        load("idx", str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_garbled_file_raises_nothing_but_data_errors(release, ending):
    folder = release(ending)
    path = folder / f"train-images-idx3-ubyte{ending}"
    content, random = path.read_bytes(), np.random.default_rng(5)
    for _ in range(500):
        path.write_bytes(garble(content, random))
        with contextlib.suppress(DataError):
            load("idx", str(folder))
