"""A data set in one NumPy archive: x_train, y_train and, if there is a test part, x_test, y_test."""

import lzma
import math
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.base import Dataset, Loader, Split, as_split
from cntk_pipeline.datasets.reading import existing_path, open_file, reading
from cntk_pipeline.errors import DataError
from cntk_pipeline.inputs import require_channels_last
from cntk_pipeline.resources import memory_bytes

_EXPECTED = "an .npz archive of plain arrays (numpy.savez)"
# An encrypted entry raises RuntimeError.
_BROKEN = (
    *(ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(NotImplementedError, RuntimeError, SyntaxError, OverflowError, TypeError, tokenize.TokenError),
)

_KEYS = ("x_train", "y_train", "x_test", "y_test", "classes")

_HEADER_BYTES = 10_000
"""Largest header of an array: NumPy writes some 128 bytes, and evaluates the text in it."""


@final
@dataclass(frozen=True)
class Npz(Loader):
    """Load a data set from one ``.npz`` file.

    Keys: ``x_train`` and ``y_train``; ``x_test`` and ``y_test`` together or not at all; ``classes``, names in
    the order of the labels, optional (default: the numbers up to the largest label). Images are
    (n, H, W, C), (n, H, W) for grayscale or (n, features). Pickled objects are refused, never loaded.

    Parameters
    ----------
    path : str
        The file.

    Raises
    ------
    ConfigError
        No path was given.
    DataNotFound
        The file does not exist.
    DataError
        It is not such an archive, lacks a key, or holds unusable arrays (see `Dataset`).
    """

    def load(self) -> Dataset:
        """Read the arrays and check them."""
        path = existing_path(self.path, "npz", "an .npz file")
        arrays = _read(path)
        _check_keys(arrays, path)
        train = _split(arrays, "train", path)
        test = _split(arrays, "test", path) if "x_test" in arrays else None
        return Dataset(f"npz {path}", _classes(arrays, train, test, path), train, test)


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the known keys; other keys become empty arrays, since only their names are used."""
    with reading(path, _EXPECTED, *_BROKEN), open_file(path) as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            raise DataError(f"{path}: expected {_EXPECTED}, got a single array; save it with x_train= and y_train=")
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            needed, memory = sum(entry.file_size for key, entry in entries.items() if key in _KEYS), memory_bytes()
            if needed > memory:
                raise DataError(
                    f"{path}: its arrays take {needed / 2**30:,.1f} GiB, and this process may use "
                    f"{memory / 2**30:,.1f} GiB; take fewer images or features, or a machine with more memory"
                )
            return {
                key: _read_array(archive, entry, f"{path}: {key}") if key in _KEYS else np.empty(0)
                for key, entry in entries.items()
            }


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str) -> npt.NDArray[Any]:
    """Read one array; refuse it, before memory is taken, if its header announces more or less bytes than it has."""
    with archive.open(entry) as file:
        try:
            version = np.lib.format.read_magic(file)
        except ValueError:
            raise DataError(f"{where}: expected {_EXPECTED}, got an entry that is no array; make it again") from None
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
            raise DataError(f"{where}: expected {_EXPECTED}, got Python objects, which are never loaded; save numbers")
        said, there = math.prod(shape) * dtype.itemsize, entry.file_size - file.tell()
        if min(shape, default=0) < 0 or said != there:
            raise DataError(
                f"{where}: expected {said:,} bytes, as of {dtype} of shape {shape}, got {there:,}; the file is damaged "
                "or was not closed: make it again"
            )
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_keys(arrays: dict[str, npt.NDArray[Any]], path: Path) -> None:
    """Raise `DataError` where a key is missing; it names the found and the wanted keys."""
    wanted = ["x_train", "y_train"]
    if "x_test" in arrays or "y_test" in arrays:
        wanted += ["x_test", "y_test"]
    missing = [key for key in wanted if key not in arrays]
    if missing:
        found = ", ".join(arrays) or "none"
        raise DataError(f"{path}: expected the keys {', '.join(wanted)}, got {found}; add {', '.join(missing)}")


def _split(arrays: dict[str, npt.NDArray[Any]], part: str, path: Path) -> Split:
    """Take one part, refusing images that other libraries wrote with the channels first."""
    images = arrays[f"x_{part}"]
    try:
        require_channels_last(f"x_{part}", images.shape)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return as_split(images, arrays[f"y_{part}"])


def _classes(arrays: dict[str, npt.NDArray[Any]], train: Split, test: Split | None, path: Path) -> tuple[str, ...]:
    """Take the names of the classes, or number them up to the largest label."""
    if "classes" in arrays:
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
    # `Dataset` refuses other labels, with the better message.
    given = [split.labels for split in (train, test) if split is not None]
    labels = [part for part in given if part.dtype == np.int64 and part.ndim == 1 and part.size > 0]
    if not labels or labels[0] is not train.labels:
        return ()
    largest = max(int(part.max()) for part in labels)
    image_count = sum(map(len, labels))
    if largest >= image_count:
        raise DataError(
            f"{path}: expected labels 0, 1, ... of fewer classes than the {image_count} images, got label {largest}; "
            "number the classes from 0, or name all of them under the key classes"
        )
    return tuple(str(number) for number in range(largest + 1))
