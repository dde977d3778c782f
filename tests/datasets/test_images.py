import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, features

from cntk_pipeline.datasets.images import decode
from cntk_pipeline.errors import ConfigError, DataError


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
    with pytest.raises(
        DataError, match=r"deep\.tif: expected 8 bits for each channel, got more \(mode .*\), which .*; convert"
    ):
        decode(encode(mode, "TIFF"), "deep.tif")


def png(bits, colour, width=2, height=1, pixels=b""):
    """Write a PNG byte by byte, since Pillow writes none with channels of 16 bits."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + pixels)) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + body)


def tiff(bits):
    """Write a TIFF of two RGB pixels with channels of so many bits."""
    pixels = bytes(2 * 3 * bits // 8)
    fields = {256: 2, 257: 1, 258: 0, 259: 1, 262: 2, 273: 8, 277: 3, 278: 1, 279: len(pixels)}
    start = 8 + len(pixels)
    behind = start + 2 + 12 * len(fields) + 4
    entries = [
        struct.pack("<HHII", tag, 3, 3, behind) if tag == 258 else struct.pack("<HHII", tag, 4, 1, value)
        for tag, value in fields.items()
    ]
    directory = struct.pack("<H", len(fields)) + b"".join(entries) + bytes(4) + struct.pack("<3H", bits, bits, bits)
    return io.BytesIO(b"II*\0" + struct.pack("<I", start) + pixels + directory)


DEEP = {
    "gray.png": lambda: png(16, 0, pixels=bytes(4)),
    "gray and alpha.png": lambda: png(16, 4, pixels=bytes(8)),
    "colour.png": lambda: png(16, 2, pixels=bytes(12)),
    "colour and alpha.png": lambda: png(16, 6, pixels=bytes(16)),
    "colour.tif": lambda: tiff(16),
    "gray.pgm": lambda: io.BytesIO(b"P5 2 1 65535\n" + bytes(4)),
    "colour.ppm": lambda: io.BytesIO(b"P6 2 1 1023\n" + bytes(12)),
    "text.ppm": lambda: io.BytesIO(b"P3 1 1 65535 1 2 3\n"),
}


@pytest.mark.parametrize("name", DEEP)
def test_channels_of_sixteen_bits_are_refused_and_not_cut(name):
    with pytest.raises(
        DataError, match=rf"{name}: expected 8 bits for each channel, got more .* which Pillow would cut"
    ):
        decode(DEEP[name](), name)


def test_channels_of_eight_bits_are_read_by_the_same_files():
    assert decode(png(8, 2, pixels=bytes(range(6))), "x").tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert decode(tiff(8), "x").shape == (1, 2, 3)
    assert decode(io.BytesIO(b"P6 2 1 255\n" + bytes(range(6))), "x").tolist() == [[[0, 1, 2], [3, 4, 5]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_camera_is_applied(orientation):
    # Each value, and the pixels "a b c / d e f" that a viewer shows where "a b c / d e f" is what is stored.
    shown = ["abcdef", "cbafed", "fedcba", "defabc", "adbecf", "daebfc", "fcebda", "cfbead"][orientation - 1]
    stored = np.frombuffer(b"abcdef", np.uint8).reshape(2, 3)
    buffer, tags = io.BytesIO(), Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(stored).save(buffer, "PNG", exif=tags)
    pixels = decode(buffer, "x")
    assert pixels.shape == ((2, 3, 1) if orientation < 5 else (3, 2, 1))
    assert pixels.tobytes().decode() == shown


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n0 0 moveto 9 9 lineto stroke\nshowpage\n"


def test_a_picture_that_is_postscript_starts_no_ghostscript(tmp_path):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    (tmp_path / "cat.png").write_bytes(EPS)
    code = "import sys; from cntk_pipeline.datasets.images import decode; decode(sys.argv[1], 0)"
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cat.png")],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not (tmp_path / "started").exists()
    assert "expected an image that Pillow can decode (BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP)" in child.stderr


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_every_format_that_is_promised_is_read(kind):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow knows no WebP")
    assert decode(encode("RGB", kind), "x").shape == (4, 5, 3)


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_small_file_of_many_pixels_is_refused_before_it_is_unpacked(side):
    with pytest.raises(DataError, match=r"bomb\.png: expected an image .*DecompressionBomb"):
        decode(png(8, 0, side, side), "bomb.png")


@pytest.mark.parametrize("keep", [0, 10, 40])
def test_a_truncated_picture_is_named(keep):
    torn = io.BytesIO(encode("RGB", size=(64, 64)).getvalue()[:keep])
    with pytest.raises(DataError, match=r"torn\.png: expected an image that Pillow can decode .*, got .*fetch or make"):
        decode(torn, "torn.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "GIF"])
def test_a_picture_whose_second_half_is_missing_is_not_filled_up(kind):
    noise, buffer = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    with pytest.raises(DataError, match=r"half: expected an image that Pillow can decode .*, got "):
        decode(io.BytesIO(buffer.getvalue()[: len(buffer.getvalue()) // 2]), "half")


@pytest.mark.parametrize(
    "error", [SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, OSError]
)
def test_whatever_a_format_raises_on_broken_files_is_a_data_error(monkeypatch, error):
    def fail(_, formats):
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
