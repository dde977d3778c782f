"""Arrays of NumPy files: read without surprises, and made a data set by their names."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.base import Dataset, Split, as_split
from cntk_pipeline.datasets.targets import assemble
from cntk_pipeline.errors import DataError
from cntk_pipeline.inputs import as_sequences, require_channels_last
from cntk_pipeline.models import AskedTask

EXPECTED = "an .npz archive of plain arrays (numpy.savez)"

Layout = Literal["channels_last", "channels_first", "sequences"]

SYNONYMS = {"x": "x_train", "y": "y_train", "targets": "classes"}
"""Other names of the arrays."""

KEYS = ("x_train", "y_train", "x_test", "y_test", "classes", *SYNONYMS)

_HEADER_BYTES = 10_000
"""Largest header of an array: NumPy writes some 128 bytes, and evaluates the text in it."""

Arrays = Mapping[str, npt.NDArray[Any]]


def read_array(file: IO[bytes], size: int, where: str) -> npt.NDArray[Any]:
    """Read one array; refuse it, before memory is taken, if its header announces more or less bytes than it has.

    Parameters
    ----------
    file : BinaryIO
        At the beginning of the array.
    size : int
        Its bytes, the header included.
    where : str
        Its name in messages.

    Raises
    ------
    DataError
        If it is no array, damaged, or holds Python objects.
    """
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        raise DataError(f"{where}: expected {EXPECTED}, got an entry that is no array; make it again") from None
    size_bytes = 2 if version == (1, 0) else 4
    header_bytes = int.from_bytes(file.read(size_bytes), "little")
    if version not in ((1, 0), (2, 0)) or header_bytes > _HEADER_BYTES:
        raise DataError(
            f"{where}: expected numbers of one type, got a header of {header_bytes:,} bytes in version "
            f"{version[0]}.{version[1]}; save plain arrays"
        )
    start = file.tell()
    file.seek(start - size_bytes)
    read_header = np.lib.format.read_array_header_1_0 if size_bytes == 2 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise DataError(f"{where}: expected {EXPECTED}, got Python objects, which are never loaded; save numbers")
    said, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or said != there:
        raise DataError(
            f"{where}: expected {said:,} bytes, as of {dtype} of shape {shape}, got {there:,}; the file is damaged "
            "or was not closed: make it again"
        )
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def dataset_of(arrays: Arrays, name: str, path: Path, task: AskedTask, layout: Layout) -> Dataset:
    """Make a data set of arrays by their names.

    Parameters
    ----------
    arrays : mapping
        ``x_train`` and ``y_train``, or ``x`` and ``y``; ``x_test`` and ``y_test``, or ``x_test`` alone; ``classes`` or
        ``targets``, the names of classes or of columns of labels. Others are left alone.
    name : str
        Of the data set.
    path : Path
        The file, for messages.
    task : str
        What the labels are.
    layout : {"channels_last", "channels_first", "sequences"}
        What the axes are: images in one of two orders, or sequences, which become images of one row.

    Raises
    ------
    DataError
        If an array is missing, or does not fit.
    """
    arrays = _renamed(arrays, path)
    train = _split(arrays, "train", path, layout)
    test = _split(arrays, "test", path, layout) if "x_test" in arrays else None
    return assemble(name, train, test, task=task, names=_names(arrays, path))


def _renamed(arrays: Arrays, path: Path) -> dict[str, npt.NDArray[Any]]:
    """Give synonyms their first names, and refuse missing arrays; the message has the found and the wanted names."""
    found = ", ".join(arrays) or "none"
    synonyms = {SYNONYMS[key]: value for key, value in arrays.items() if key in SYNONYMS}
    renamed = synonyms | {key: value for key, value in arrays.items() if key not in SYNONYMS}
    wanted = ["x_train", "y_train"] + (["x_test", "y_test"] if "y_test" in arrays else [])
    missing = [key for key in wanted if key not in renamed]
    if missing:
        raise DataError(
            f"{path}: expected the keys {', '.join(wanted)} (or x and y), got {found}; add {', '.join(missing)}"
        )
    return renamed


def _split(arrays: Arrays, part: str, path: Path, layout: Layout) -> Split:
    """Take one part, with its channels last."""
    images = arrays[f"x_{part}"]
    if layout == "sequences":
        if images.ndim not in (2, 3):
            raise DataError(
                f'{path}: x_{part}: expected shape (n, T, C) or (n, T), as data.layout = "sequences" says, got '
                f"{images.shape}; leave data.layout out"
            )
        images = np.ascontiguousarray(as_sequences(images))
    elif layout == "channels_first":
        if images.ndim != 4:
            raise DataError(
                f'{path}: x_{part}: expected shape (n, C, H, W), as data.layout = "channels_first" says, got '
                f"{images.shape}; leave data.layout out"
            )
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    else:
        try:
            require_channels_last(f"x_{part}", images.shape)
        except DataError as error:
            raise DataError(f'{path}: {error}. data.layout = "channels_first" does so') from None
    return as_split(images, arrays.get(f"y_{part}"))


def _names(arrays: Arrays, path: Path) -> tuple[str, ...] | None:
    """Read the names of the classes or of the columns of labels."""
    if "classes" not in arrays:
        return None
    names = arrays["classes"]
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"{path}: expected classes of text and shape (classes,), got {names.dtype} of shape {names.shape}; "
            "save classes=numpy.array(['cat', 'dog'])"
        )
    found, counts = np.unique(names, return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"{path}: expected classes of different names, got {str(found[counts > 1][0])!r} "
            f"{counts.max()} times; give each class its own name, or one label to both"
        )
    return tuple(str(name) for name in names)
