"""Decoding of one picture into pixels."""

import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.reading import optional_import, reading
from cntk_pipeline.errors import DataError

# Pillow goes by the content of a file, not by its name, and some of its formats start other programs (EPS: Ghostscript)
# or open further files. The formats in this list decode within the process.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# Errors of Pillow's readers on broken files, as its own `ImageFile` expects them, and ValueError of some decoders.
_BROKEN = (SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)
_GRAY = ("1", "L", "LA")
_DEEP = ("I", "F")
_BITS_PER_SAMPLE = 258
"""The tag of a TIFF file."""


def decode(source: Path | BinaryIO, where: object) -> npt.NDArray[np.uint8]:
    """Decode a picture into uint8 pixels of shape (H, W, 1) or (H, W, 3).

    Grayscale stays grayscale, every other kind becomes RGB; transparency is dropped, a camera's orientation (EXIF) is
    applied, of an animation the first frame is taken.

    Parameters
    ----------
    source : path or binary file
        The encoded picture, in one of `FORMATS`, under any name.
    where : object
        Its name in messages.

    Raises
    ------
    DataError
        The picture cannot be decoded, is of another format, has more pixels than Pillow takes to be harmless (89
        million), or more than 8 bits for each channel.
    ConfigError
        Pillow is not installed.
    """
    with optional_import(where):
        from PIL import Image, ImageOps
    broken = (*_BROKEN, Image.DecompressionBombError, Image.DecompressionBombWarning)
    expected = f"an image that Pillow can decode ({', '.join(FORMATS)})"
    with reading(where, expected, *broken), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(source, formats=FORMATS) as image:
            if image.mode.startswith(_DEEP) or _has_deep_channels(image):
                raise DataError(
                    f"{where}: expected 8 bits for each channel, got more (mode {image.mode}), which Pillow would cut; "
                    "convert the images, or store them as floats in an .npz file"
                )
            gray = image.mode in _GRAY
            upright = ImageOps.exif_transpose(image)
            pixels: npt.NDArray[Any] = np.asarray(upright.convert("L" if gray else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)


def _has_deep_channels(image: Any) -> bool:
    """Tell whether an image that is not decoded yet has channels of more than 8 bits; its mode does not show it."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))) > 8
    # Of a PNG the raw mode, like "RGB;16B"; of a PPM the raw mode and the largest value.
    arguments = [item for tile in image.tile for item in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    if image.format == "PPM":
        return any(isinstance(item, int) and item > 255 for item in arguments)
    return image.format == "PNG" and any(isinstance(item, str) and ";16" in item for item in arguments)
