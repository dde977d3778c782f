"""Decoding of one picture into pixels."""

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.datasets.reading import optional_import, reading
from pipeline.errors import DataError

# What Pillow's own `ImageFile` expects of its readers on broken files, and ValueError, which some raise on decoding.
_BROKEN = (SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)
_GRAY = ("1", "L", "LA")
_DEEP = ("I", "F")


def decode(source: Path | BinaryIO, where: object) -> npt.NDArray[np.uint8]:
    """Decode a picture into uint8 pixels of shape (H, W, 1) or (H, W, 3).

    Grayscale stays grayscale, every other kind becomes RGB; transparency is dropped, an orientation tag is
    not applied, of an animation the first frame is taken.

    Parameters
    ----------
    source : path or binary file
        The encoded picture, in any format Pillow reads.
    where : object
        How messages name it.

    Raises
    ------
    DataError
        The picture cannot be decoded, or has more than 8 bits for each channel.
    ConfigError
        Pillow is not installed.
    """
    with optional_import(where):
        from PIL import Image
    broken = (*_BROKEN, Image.DecompressionBombError)
    with reading(where, "an image that Pillow can decode", *broken), Image.open(source) as image:
        if image.mode.startswith(_DEEP):
            raise DataError(
                f"{where}: expected 8 bits for each channel, got mode {image.mode}; "
                "convert the images, or store them as floats in an .npz file"
            )
        pixels: npt.NDArray[Any] = np.asarray(image.convert("L" if image.mode in _GRAY else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)
