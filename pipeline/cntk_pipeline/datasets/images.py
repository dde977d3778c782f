"""Decoding of pictures into pixels."""

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, final

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


Mode = Literal["L", "RGB"]


@final
@dataclass(frozen=True)
class WantedPictures:
    """The pictures that a data set wants; None keeps what a picture has.

    Parameters
    ----------
    resize : (int, int), optional
        Height and width; the ratio of the sides is not kept.
    mode : {"L", "RGB"}, optional
        Grayscale or colour.
    """

    resize: tuple[int, int] | None = None
    mode: Mode | None = None


AS_IT_IS = WantedPictures()


def decode(source: Path | BinaryIO, where: object) -> npt.NDArray[np.uint8]:
    """Decode a picture into uint8 pixels of shape (H, W, 1) or (H, W, 3).

    Grayscale stays grayscale, every other kind becomes RGB; transparency is dropped, a camera's orientation (EXIF) is
    applied, of an animation the first frame is taken.

    Parameters
    ----------
    source : Path or BinaryIO
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
    pixels, _ = decode_as(source, where, AS_IT_IS)
    return pixels


def decode_as(source: Path | BinaryIO, where: object, wanted: WantedPictures) -> tuple[npt.NDArray[np.uint8], set[str]]:
    """Decode a picture as `decode` does, into the wanted mode and size.

    Parameters
    ----------
    source, where
        As in `decode`.
    wanted : WantedPictures
        The mode and the size.

    Returns
    -------
    (uint8 array, set of str)
        The pixels, and what was done to the picture: "converted", "resized", both or neither.

    Raises
    ------
    DataError, ConfigError
        As in `decode`.
    """
    with optional_import(where):
        from PIL import Image, ImageOps
    done: set[str] = set()
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
            own_mode = "L" if image.mode in _GRAY else "RGB"
            upright = ImageOps.exif_transpose(image).convert(own_mode)
            if wanted.mode not in (None, own_mode):
                upright, done = upright.convert(wanted.mode), done | {"converted"}
            if wanted.resize is not None and upright.size != wanted.resize[::-1]:
                # Bilinear in Pillow's sense: weights over all pixels that a smaller picture merges, without overshoot.
                upright, done = upright.resize(wanted.resize[::-1], Image.Resampling.BILINEAR), done | {"resized"}
            pixels: npt.NDArray[Any] = np.asarray(upright)
    return pixels.reshape(*pixels.shape[:2], -1), done


def _has_deep_channels(image: Any) -> bool:
    """Tell whether an image that is not decoded yet has channels of more than 8 bits; its mode does not show it."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))) > 8
    # Of a PNG the raw mode, like "RGB;16B"; of a PPM the raw mode and the largest value.
    arguments = [item for tile in image.tile for item in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    if image.format == "PPM":
        return any(isinstance(item, int) and item > 255 for item in arguments)
    return image.format == "PNG" and any(isinstance(item, str) and ";16" in item for item in arguments)
