"""Many pictures as one array: of one size and mode, with a count of what was done to them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from cntk_pipeline.datasets.base import Loader
from cntk_pipeline.datasets.images import Mode, WantedPictures, decode_as
from cntk_pipeline.datasets.reading import require_memory
from cntk_pipeline.errors import DataError

SHOWN = 3
"""Largest number of pictures that a note names."""

Side = Annotated[int, Field(ge=1, le=10_000)]

Source = tuple[Path | BinaryIO, str]
"""A picture, and its name in messages."""


@dataclass(frozen=True)
class PictureLoader(Loader):
    """A source of pictures.

    Parameters
    ----------
    path : str, optional
        File or folder to read.
    resize : (int, int), optional
        Height and width of all images, in pixels; the ratio of the sides is not kept. Without it, pictures of unequal
        size are refused.
    mode : {"L", "RGB"}, optional
        Grayscale or colour for all images. Without it, grayscale among colour is refused.
    on_error : {"raise", "skip"}
        Whether a picture that cannot be decoded is refused, or left out and counted.
    """

    resize: tuple[Side, Side] | None = None
    mode: Mode | None = None
    on_error: Literal["raise", "skip"] = "raise"


@final
@dataclass(frozen=True)
class Pictures:
    """Decoded pictures.

    Attributes
    ----------
    images : uint8 array, (n, H, W, C)
        C is 1 or 3.
    rows : int64 array
        Which of the sources they are; without on_error = "skip", all.
    notes : tuple of str
        What was done to them, counted.
    """

    images: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]
    notes: tuple[str, ...]


def read_pictures(sources: Sequence[Source], where: object, options: PictureLoader) -> Pictures:
    """Decode pictures into one array; all must have the first one's size and mode.

    Parameters
    ----------
    sources : sequence
        At least one.
    where : object
        Names them all, in messages.
    options : PictureLoader
        The wanted size and mode, and what happens to a broken picture.

    Raises
    ------
    DataError
        A picture cannot be decoded, or has another size or mode than the first one; or none is left.
    ConfigError
        Pillow is not installed.
    """
    wanted = WantedPictures(options.resize, options.mode)
    images: npt.NDArray[Any] = np.empty(0, np.uint8)
    rows: list[int] = []
    counts: Counter[str] = Counter()
    skipped: list[str] = []
    for number, (source, name) in enumerate(sources):
        try:
            pixels, done = decode_as(source, name, wanted)
        except DataError:
            if options.on_error == "raise":
                raise
            skipped.append(name)
            continue
        if not rows:
            require_memory(len(sources) * pixels.size, where)
            images, first = np.empty((len(sources), *pixels.shape), np.uint8), name
        elif pixels.shape != images.shape[1:]:
            raise DataError(
                f"{name}: expected {_describe(images[0])} as {first} has, got {_describe(pixels)}; "
                f"{_remedy(images[0], pixels)}"
            )
        images[len(rows)] = pixels
        rows.append(number)
        counts.update(done)
    if not rows:
        raise DataError(f"{where}: expected at least one image that can be decoded, got none of {len(sources)}")
    notes = _notes(counts, len(rows), images.shape[1:], where)
    if skipped:
        more = f" and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
        notes.append(
            f"{where}: skipped {len(skipped)} of {len(sources)} images that cannot be decoded: "
            f"{', '.join(skipped[:SHOWN])}{more}"
        )
    return Pictures(images[: len(rows)], np.array(rows), tuple(notes))


def _notes(counts: Counter[str], total: int, shape: tuple[int, ...], where: object) -> list[str]:
    """Count the resized and the converted pictures, a line each."""
    height, width, channels = shape
    goals = {
        "resized": f"{height} x {width} pixels (height x width)",
        "converted": "grayscale" if channels == 1 else "colour",
    }
    return [f"{where}: {done} {counts[done]} of {total} images to {goals[done]}" for done in goals if counts[done]]


def _describe(pixels: npt.NDArray[Any]) -> str:
    """Write the size in the order of arrays and of ``data.resize``, height first."""
    height, width, channels = pixels.shape
    return f"{height} x {width} pixels (height x width) in {'grayscale' if channels == 1 else 'colour'}"


def _remedy(first: npt.NDArray[Any], other: npt.NDArray[Any]) -> str:
    """Name the keys that make two pictures agree."""
    height, width, _ = first.shape
    options = [f"--set 'data.resize=[{height}, {width}]'"] if first.shape[:2] != other.shape[:2] else []
    options += ["--set data.mode=L (or RGB)"] if first.shape[2] != other.shape[2] else []
    return f"resize or convert the images so that all agree: give {' and '.join(options)}"
