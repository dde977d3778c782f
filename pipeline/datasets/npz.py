"""A data set in one NumPy archive: x_train, y_train and, if there is a test part, x_test, y_test."""

import pickle
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from pipeline.datasets.base import Dataset, Loader, Split, as_split
from pipeline.datasets.reading import existing_path, reading
from pipeline.errors import DataError
from pipeline.inputs import require_channels_last

_EXPECTED = "an .npz archive of plain arrays (numpy.savez)"
_BROKEN = (ValueError, EOFError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, NotImplementedError)


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
    """Read the known keys; the others become empty arrays, since only their names are of use."""
    with reading(path, _EXPECTED, *_BROKEN):
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise DataError(f"{path}: expected {_EXPECTED}, got a single array; save it with x_train= and y_train=")
        with archive:
            wanted = {"x_train", "y_train", "x_test", "y_test", "classes"}
            return {key: archive[key] if key in wanted else np.empty(0) for key in archive.files}


def _check_keys(arrays: dict[str, npt.NDArray[Any]], path: Path) -> None:
    """Raise `DataError` where a key is missing, naming those found and wanted."""
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
    labels = [split.labels for split in (train, test) if split is not None]
    if any(part.dtype != np.int64 or part.size == 0 for part in labels):
        return ()  # nothing to count; `Dataset` refuses the labels with the better message
    largest = max(int(part.max()) for part in labels)
    image_count = sum(map(len, labels))
    if largest >= image_count:
        raise DataError(
            f"{path}: expected labels 0, 1, ... of fewer classes than the {image_count} images, got label {largest}; "
            "number the classes from 0, or name all of them under the key classes"
        )
    return tuple(str(number) for number in range(largest + 1))
