"""A data set in NumPy's files: one archive, or a file for each array."""

import lzma
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.arrays import EXPECTED, KEYS, Layout, dataset_of, read_array
from cntk_pipeline.datasets.base import Dataset, Loader
from cntk_pipeline.datasets.reading import existing_path, open_file, reading, require_memory
from cntk_pipeline.errors import DataError

# Errors of NumPy and of archives on broken files. An encrypted entry raises RuntimeError.
BROKEN = (
    *(ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(NotImplementedError, RuntimeError, SyntaxError, OverflowError, TypeError, tokenize.TokenError),
)


@final
@dataclass(frozen=True)
class Npz(Loader):
    """Load a data set from one ``.npz`` file.

    Keys of the file: ``x_train`` and ``y_train``, or ``x`` and ``y``; ``x_test`` and ``y_test``, or ``x_test`` alone
    where the labels are not known; ``classes`` (or ``targets``), the names of the classes or of the columns of labels.
    Images are (n, H, W, C), (n, H, W) for grayscale or (n, features). Pickled objects are refused, never loaded.

    Parameters
    ----------
    path : str
        The file.
    labels : str, optional
        An ``.npy`` file of the training labels, where the archive holds none.
    layout : {"channels_last", "channels_first", "sequences"}
        What the axes are: images (n, H, W, C), images (n, C, H, W), or sequences of T steps, (n, T, C) or, of one
        channel, (n, T). Sequences become images of one row, (n, 1, T, C).

    Raises
    ------
    ConfigError
        No path was given.
    DataNotFound
        The file does not exist.
    DataError
        It is not such an archive, lacks a key, or holds unusable arrays (see `Dataset`).
    """

    PLACES: ClassVar[tuple[str, ...]] = ("path", "labels")

    labels: str | None = None
    layout: Layout = "channels_last"

    def load(self) -> Dataset:
        """Read the arrays and check them."""
        path = existing_path(self.path, "npz", "an .npz file")
        arrays = _read_archive(path)
        if self.labels is not None:
            if held := {"y", "y_train"} & arrays.keys():
                raise DataError(f"{path}: holds {min(held)}, so that data.labels names other labels: leave one out")
            arrays["y_train"] = _read_file(existing_path(self.labels, "npz", "a file of labels (data.labels)"))
        return dataset_of(arrays, f"npz {path}", path, self.task, self.layout)


@final
@dataclass(frozen=True)
class Npy(Loader):
    """Load a data set from ``.npy`` files, an array each.

    Parameters
    ----------
    path : str
        A folder with files that are named like the keys of "npz": ``x_train.npy`` and ``y_train.npy``, or ``x.npy`` and
        ``y.npy``. Or the file of the images.
    labels : str, optional
        The file of the labels, where ``path`` is a file.
    layout : {"channels_last", "channels_first", "sequences"}
        As of "npz".

    Raises
    ------
    ConfigError
        No path was given.
    DataNotFound
        A file does not exist.
    DataError
        As of "npz".
    """

    PLACES: ClassVar[tuple[str, ...]] = ("path", "labels")

    labels: str | None = None
    layout: Layout = "channels_last"

    def load(self) -> Dataset:
        """Read the arrays and check them."""
        path = existing_path(self.path, "npy", "a folder of .npy files, or a file of images")
        if path.is_dir():
            files = {key: path / f"{key}.npy" for key in KEYS if (path / f"{key}.npy").exists()}
        else:
            if self.labels is None:
                raise DataError(f'{path}: expected a file of labels with it; give data.labels = "y.npy"')
            files = {"x": path, "y": existing_path(self.labels, "npy", "a file of labels (data.labels)")}
        arrays = {key: _read_file(file) for key, file in files.items()}
        return dataset_of(arrays, f"npy {path}", path, self.task, self.layout)


def _read_archive(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the known keys; other keys become empty arrays, since only their names are used."""
    with reading(path, EXPECTED, *BROKEN), open_file(path) as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            raise DataError(
                f"{path}: expected {EXPECTED}, got a single array; save it with x_train= and y_train=, or take "
                'data.source = "npy"'
            )
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            require_memory(sum(entry.file_size for key, entry in entries.items() if key in KEYS), path)
            return {
                key: _read_entry(archive, entry, f"{path}: {key}") if key in KEYS else np.empty(0)
                for key, entry in entries.items()
            }


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str) -> npt.NDArray[Any]:
    with archive.open(entry) as file:
        return read_array(file, entry.file_size, where)


def _read_file(path: Path) -> npt.NDArray[Any]:
    with reading(path, "a plain array (numpy.save)", *BROKEN), open_file(path) as file:
        size = path.stat().st_size
        require_memory(size, path)
        return read_array(file, size, str(path))
