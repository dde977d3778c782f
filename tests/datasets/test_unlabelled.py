"""Images without labels are opened from what people have, and read some at a time."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.formats import IMAGES as FORMAT_IMAGES
from support.formats import write_formats

from cntk_pipeline.datasets import make_loader
from cntk_pipeline.datasets.images import WantedPictures
from cntk_pipeline.datasets.recognition import recognise
from cntk_pipeline.datasets.unlabelled import Like, open_images
from cntk_pipeline.errors import ConfigError, DataError, DataNotFound

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), np.uint8)


def test_an_array_is_mapped_and_read_in_part(tmp_path: Path) -> None:
    np.save(tmp_path / "new.npy", IMAGES)
    found = open_images(tmp_path / "new.npy")
    assert (found.shape, found.dtype, found.names) == (IMAGES.shape, np.uint8, list("0123456"))
    np.testing.assert_array_equal(found.read(2, 5), IMAGES[2:5])


def test_a_home_folder_that_is_not_known_is_named_wherever_data_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail: a traceback (RuntimeError)."""
    place, message = "~no-user-of-this-name/x.npz", "home folder that ~ stands for is not known, got '~no-user-of-this"
    monkeypatch.setenv("CNTK_DATA", place)
    for read in (
        open_images,
        recognise,
        lambda path: make_loader("npz", {"path": path}).load(),
        lambda path: make_loader("cifar10", {"path": path}).load(),
        lambda path: make_loader("cifar10", {}).load(),
    ):
        with pytest.raises(ConfigError, match=message):
            read(place)


@pytest.mark.parametrize("key", ["x", "images", "x_test", "anything"])
def test_an_archive_gives_the_images_under_a_known_key_or_its_only_array(tmp_path: Path, key: str) -> None:
    np.savez_compressed(tmp_path / "new.npz", **{key: IMAGES})
    found = open_images(tmp_path / "new.npz")
    np.testing.assert_array_equal(found.read(0, 7), IMAGES)


def test_labels_in_an_archive_are_not_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", x_train=IMAGES[:1], x_test=IMAGES, y_test=np.zeros(7))
    np.testing.assert_array_equal(open_images(tmp_path / "new.npz").read(0, 7), IMAGES)


def test_a_folder_gives_pictures_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    names = ["a.png", "b/deep/x.png", "b/y.png", "c.png"]
    for name, pixels in zip(names, IMAGES, strict=False):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    found = open_images(tmp_path)
    assert (found.names, found.shape) == (names, (4, 5, 4, 3))
    np.testing.assert_array_equal(found.read(1, 4), IMAGES[1:4])
    assert found.notes == (f"{tmp_path}: 1 files that are no pictures by their names are not read",)


def test_a_picture_whose_name_is_no_text_has_a_name_that_can_be_written(tmp_path: Path) -> None:
    """The file of predictions would fail after all is computed."""
    for name in (b"a.png", b"caf\xe9.png"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            Image.fromarray(IMAGES[0]).save(file, "PNG")
    found = open_images(tmp_path)
    assert found.names == ["a.png", r"caf\xe9.png"]
    np.testing.assert_array_equal(found.read(0, 2), IMAGES[[0, 0]])
    folder = os.fsencode(tmp_path) + b"/\xe9"
    os.mkdir(folder)
    with pytest.raises(DataError, match=r"udce9': expected a name in UTF-8; rename the file or folder"):
        open_images(os.fsdecode(folder))


def test_text_of_numbers_is_read_as_the_table_that_a_run_was_trained_on(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("size,kind\n1,01\n2,01\n")
    like = Like(features=("size", "kind=01", "kind=x"))
    np.testing.assert_array_equal(open_images(tmp_path / "new.csv", like).read(0, 2), [[1, 1, 0], [2, 1, 0]])


def test_a_first_line_of_numbers_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("5.1,3.5\n4.9,3.0\n")
    with pytest.raises(DataError, match=r"names of the columns in the first line, got numbers \(5.1, 3.5, ...\)"):
        open_images(tmp_path / "new.csv")


def test_pictures_of_another_size_are_named(tmp_path: Path) -> None:
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    Image.fromarray(IMAGES[0, :4]).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png: expected pixels of shape \(5, 4, 3\), as .*a\.png has, got \(4, "):
        open_images(tmp_path).read(0, 2)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="expected images, got nothing there"):
        open_images(tmp_path / "nowhere.npy")
    (tmp_path / "new.txt").write_text("1")
    with pytest.raises(DataError, match=r"a folder of pictures, or a file that ends in \.npy, \.npz, \.csv"):
        open_images(tmp_path / "new.txt")
    (tmp_path / "new.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match="expected an array of numbers"):
        open_images(tmp_path / "new.npy")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match="expected an array of numbers"):
        open_images(tmp_path / "objects.npy")
    np.savez(tmp_path / "two.npz", a=IMAGES, b=IMAGES)
    with pytest.raises(DataError, match="expected images under one of the keys x, images, x_test, got a, b"):
        open_images(tmp_path / "two.npz")
    np.save(tmp_path / "first.npy", IMAGES.transpose(0, 3, 1, 2).repeat(2, 2)[:, :, :8, :].repeat(2, 3))
    with pytest.raises(DataError, match="which has its channels first"):
        open_images(tmp_path / "first.npy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected pictures \(.*\), got none"):
        open_images(tmp_path / "empty")


def test_tables_give_pictures_or_all_columns_of_numbers(tmp_path: Path) -> None:
    write_formats(tmp_path)
    found = open_images(tmp_path / "pictures.parquet")
    np.testing.assert_array_equal(found.read(1, 4), FORMAT_IMAGES[1:4])
    np.testing.assert_array_equal(found.read(0, 2), FORMAT_IMAGES[:2])
    for name in ("houses.csv", "houses.parquet"):
        np.testing.assert_array_equal(open_images(tmp_path / name).read(0, 1), [[3, 1.5]])
    encoded = open_images(tmp_path / "houses.csv", Like(features=("street=elm", "street=oak", "rooms")))
    np.testing.assert_array_equal(encoded.read(0, 3), [[1, 0, 3], [0, 1, 4], [1, 0, 2]])


def test_pictures_and_arrays_are_read_like_others(tmp_path: Path) -> None:
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    Image.fromarray(IMAGES[0, :4]).save(tmp_path / "b.png")
    assert open_images(tmp_path, Like(WantedPictures((3, 2), "L"))).read(0, 2).shape == (2, 3, 2, 1)
    np.save(tmp_path / "first.npy", IMAGES.transpose(0, 3, 1, 2))
    found = open_images(tmp_path / "first.npy", Like(layout="channels_first"))
    np.testing.assert_array_equal(found.read(2, 5), IMAGES[2:5])
    assert found.shape == IMAGES.shape


def test_sequences_are_read_like_others(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).random((5, 4, 4))
    np.save(tmp_path / "steps.npy", steps)
    found = open_images(tmp_path / "steps.npy", Like(layout="sequences"))
    np.testing.assert_array_equal(found.read(1, 3), steps[1:3, None])
    (tmp_path / "steps.csv").write_text("a,b\n1,2\n3,4\n")
    found = open_images(tmp_path / "steps.csv", Like(layout="sequences", features=("b", "a")))
    np.testing.assert_array_equal(found.read(0, 2), [[[[2], [1]]], [[[4], [3]]]])
