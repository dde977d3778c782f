import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.images import decode
from pipeline.errors import ConfigError, DataError


def encode(mode, kind="PNG", size=(5, 4)):
    buffer = io.BytesIO()
    Image.new(mode, size, 1).save(buffer, kind)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grayscale_has_one_channel(mode):
    assert decode(encode(mode), "x").shape == (4, 5, 1)


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("CMYK", "TIFF")])
def test_everything_else_has_three_channels(mode, kind):
    assert decode(encode(mode, kind), "x").shape == (4, 5, 3)


def test_pixels_are_rows_then_columns_then_channels():
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    np.testing.assert_array_equal(decode(buffer, "x"), pixels)


def test_transparency_does_not_change_the_colour():
    buffer = io.BytesIO()
    Image.new("RGBA", (1, 1), (10, 20, 30, 0)).save(buffer, "PNG")
    np.testing.assert_array_equal(decode(buffer, "x"), [[[10, 20, 30]]])


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_refused(mode):
    with pytest.raises(DataError, match=r"deep\.tif: expected 8 bits for each channel, got mode .*; convert"):
        decode(encode(mode, "TIFF"), "deep.tif")


@pytest.mark.parametrize("keep", [0, 10, 40])
def test_a_truncated_picture_is_named(keep):
    torn = io.BytesIO(encode("RGB", size=(64, 64)).getvalue()[:keep])
    with pytest.raises(DataError, match=r"torn\.png: expected an image that Pillow can decode, got .*fetch or make"):
        decode(torn, "torn.png")


@pytest.mark.parametrize(
    "error", [SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, OSError]
)
def test_whatever_a_format_raises_on_broken_files_is_a_data_error(monkeypatch, error):
    def fail(_):
        raise error("broken")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError, match=rf"cat\.png: expected an image .*, got {error.__name__}"):
        decode(encode("L"), "cat.png")


def test_a_picture_of_absurd_size_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    with pytest.raises(DataError, match=r"bomb\.png: expected an image .*DecompressionBombError"):
        decode(encode("L"), "bomb.png")


def test_a_missing_image_package_is_named_with_the_remedy(monkeypatch):
    picture = encode("L")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match=r"cat\.png: needs the package PIL, .* pip install 'cntk-pipeline\[images\]'"):
        decode(picture, "cat.png")
