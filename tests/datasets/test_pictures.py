"""Pictures of mixed sizes and modes: made alike on demand, and counted."""

import numpy as np
import pytest
from PIL import Image

from cntk_pipeline.datasets import load
from cntk_pipeline.errors import ConfigError, DataError


def paint(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


@pytest.fixture
def mixed(tmp_path):
    rng = np.random.default_rng(2)
    paint(tmp_path / "train/cat/a.png", rng.integers(0, 256, (8, 8)))
    paint(tmp_path / "train/cat/deep/er/b.png", rng.integers(0, 256, (4, 6, 3)))
    paint(tmp_path / "train/dog/c.png", np.kron(rng.integers(0, 256, (8, 8)), np.ones((3, 3))))
    paint(tmp_path / "val/dog/d.png", rng.integers(0, 256, (8, 8, 3)))
    return tmp_path


def test_pictures_of_all_sizes_and_modes_become_alike_and_are_counted(mixed):
    data = load("folder", str(mixed), options={"resize": [8, 8], "mode": "L"})
    assert data.train.images.shape == (3, 8, 8, 1)
    assert data.test.images.shape == (1, 8, 8, 1)
    notes = " | ".join(data.notes)
    assert f"{mixed}/train: resized 2 of 3 images to 8 x 8 pixels (height x width)" in notes
    assert f"{mixed}/train: converted 1 of 3 images to grayscale" in notes
    assert f"{mixed}/val: converted 1 of 1 images to grayscale" in notes
    assert f"{mixed}/val: resized" not in notes


def test_a_picture_of_the_wanted_size_and_mode_keeps_its_pixels(mixed):
    data = load("folder", str(mixed), options={"resize": [8, 8], "mode": "L"})
    np.testing.assert_array_equal(data.train.images[0, :, :, 0], np.asarray(Image.open(mixed / "train/cat/a.png")))


def test_a_smaller_picture_averages_the_pixels_that_it_merges(tmp_path):
    pixels = np.zeros((30, 30))
    pixels[:, 15:] = 200
    pixels[::2] += 40
    paint(tmp_path / "a/1.png", pixels)
    image = load("folder", str(tmp_path), options={"resize": [2, 2]}).train.images[0, :, :, 0]
    np.testing.assert_array_equal(image[0], image[1])  # the nearest pixels would be of rows of either kind
    assert image.mean() == pytest.approx(120, abs=1)


def test_height_comes_first(mixed):
    data = load("folder", str(mixed), options={"resize": [2, 5], "mode": "RGB"})
    assert data.train.images.shape == (3, 2, 5, 3)


def test_grayscale_in_colour_has_three_equal_channels(tmp_path):
    paint(tmp_path / "a/1.png", [[7, 8]])
    image = load("folder", str(tmp_path), options={"mode": "RGB"}).train.images[0]
    np.testing.assert_array_equal(image, [[[7] * 3, [8] * 3]])


def test_the_message_for_unlike_pictures_names_the_keys(mixed):
    with pytest.raises(
        DataError, match=r"all agree: give --set 'data.resize=\[8, 8\]'$|'data.resize=\[8, 8\]' and --set data.mode"
    ):
        load("folder", str(mixed))
    with pytest.raises(DataError, match=r"resize or convert .*: give --set data.mode=L \(or RGB\)$"):
        load("folder", str(mixed), options={"resize": [8, 8]})


@pytest.mark.parametrize("number", [0, 2])
def test_broken_pictures_are_skipped_on_demand_counted_and_named(tmp_path, number):
    for k in range(4):
        paint(tmp_path / f"a/{k}.png", [[k]])
        paint(tmp_path / f"b/{k}.png", [[10 + k]])
    (tmp_path / f"a/{number}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"{number}\.png: expected an image that Pillow can decode"):
        load("folder", str(tmp_path))
    data = load("folder", str(tmp_path), options={"on_error": "skip"})
    assert len(data.train) == 7
    np.testing.assert_array_equal(data.train.images.ravel() // 10, data.train.labels)
    assert data.notes[-1] == f"{tmp_path}: skipped 1 of 8 images that cannot be decoded: {tmp_path}/a/{number}.png"


def test_a_folder_of_broken_pictures_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="expected at least one image that can be decoded, got none of 1"):
        load("folder", str(tmp_path), options={"on_error": "skip"})


def test_pictures_that_no_memory_holds_are_refused_before_they_are_decoded(mixed, monkeypatch):
    monkeypatch.setattr("cntk_pipeline.datasets.reading.memory_bytes", lambda: 100)
    with pytest.raises(DataError, match=r"train: its arrays take 0\.0 GiB, and this process may use"):
        load("folder", str(mixed), options={"resize": [8, 8], "mode": "L"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": [8]}, r"data\.resize.*: "),
        ({"resize": [0, 8]}, r"data\.resize\.0: Input should be greater than or equal to 1, got 0"),
        ({"resize": [8.5, 8]}, r"data\.resize\.0: Input should be a valid integer"),
        ({"mode": "CMYK"}, r"data\.mode: Input should be 'L' or 'RGB', got 'CMYK'"),
        ({"on_error": "warn"}, r"data\.on_error: Input should be 'raise' or 'skip', got 'warn'"),
    ],
)
def test_wrong_keys_are_named(mixed, options, message):
    with pytest.raises(ConfigError, match=message):
        load("folder", str(mixed), options=options)
