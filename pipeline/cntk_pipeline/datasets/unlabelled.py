"""Images without labels, read some at a time: what predictions are made for."""

import io
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.arrays import EXPECTED, Layout, read_array
from cntk_pipeline.datasets.folder import SUFFIXES
from cntk_pipeline.datasets.images import AS_IT_IS, WantedPictures, decode_as
from cntk_pipeline.datasets.npz import BROKEN
from cntk_pipeline.datasets.reading import expanded, open_file, reading, require_memory
from cntk_pipeline.datasets.table_files import ENDINGS, read_table, require_names
from cntk_pipeline.datasets.unlabelled_tables import features_of, picture_column
from cntk_pipeline.errors import DataError, DataNotFound
from cntk_pipeline.inputs import as_sequences, require_channels_last

KEYS = ("x", "images", "x_test")
"""Names of the images in an archive, the first that is there counts; of an archive with one array, any name does."""

_Array = npt.NDArray[Any]


@final
@dataclass(frozen=True)
class Like:
    """The way in which other images were read, to read new ones alike.

    Attributes
    ----------
    pictures : WantedPictures
        Their size and mode; what is not wanted stays as a picture has it.
    layout : {"channels_last", "channels_first", "sequences"}
        What the axes of arrays are, as of "npz".
    features : tuple of str
        Names of the features of a table, as `datasets.columns.feature_names` writes them; none takes all columns of
        numbers.
    """

    pictures: WantedPictures = AS_IT_IS
    layout: Layout = "channels_last"
    features: tuple[str, ...] = ()


PLAIN = Like()


@final
@dataclass(frozen=True)
class Unlabelled:
    """Images without labels.

    Attributes
    ----------
    origin : str
        The file or folder.
    names : sequence of str
        Of the images: their files, or their row numbers.
    shape : tuple of int
        ``(n, H, W, C)``, ``(n, H, W)`` or ``(n, features)``.
    dtype : dtype
        Of the pixels.
    read : callable
        Returns the images from one row up to, but without, another.
    notes : tuple of str
        Remarks on what was not read.
    """

    origin: str
    names: Sequence[str]
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], _Array]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, images: _Array, origin: str, like: Like = PLAIN) -> "Unlabelled":
        """Take images in memory, or a mapped file."""
        if like.layout == "channels_first" and images.ndim == 4:
            images = images.transpose(0, 2, 3, 1)
        if like.layout == "sequences" and images.ndim in (2, 3):
            images = as_sequences(images)
        names = list(map(str, range(len(images)))) if images.ndim else []
        return cls(origin, names, images.shape, images.dtype, lambda begin, end: np.asarray(images[begin:end]))


def open_images(place: str | Path, like: Like = PLAIN) -> Unlabelled:
    """Open images without labels: a folder of pictures, ``.npy``, ``.npz``, or a table.

    Parameters
    ----------
    place : str or Path
        A folder, whose pictures, also those in folders below, are taken in the order of their names. Or an array of
        images. Or an archive with images under one of `KEYS`. Or a table, ``.csv``, ``.tsv`` or ``.parquet``, of
        features or with a column of pictures.
    like : Like
        The way in which other images were read.

    Raises
    ------
    DataNotFound
        If nothing lies there.
    DataError
        If it is of no known format, or damaged, or lacks a feature.
    ConfigError
        If Pillow or pyarrow is needed and not installed, or the home folder of a ``~`` is not known.
    """
    path = expanded(place)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(f"{str(path)!a}: expected a name in UTF-8; rename the file or folder") from None
    with reading(path, "images"):
        if not path.exists():
            raise DataNotFound(f"{path.absolute()}: expected images, got nothing there; correct the name")
        if path.is_dir():
            return _folder(path, like)
    kind = next((read for ending, read in FORMATS.items() if path.name.lower().endswith(ending)), None)
    if kind is None:
        raise DataError(
            f"{path}: expected a folder of pictures, or a file that ends in {', '.join(FORMATS)}; save the images with "
            "numpy.save"
        )
    return kind(path, like)


def _npy(path: Path, like: Like) -> Unlabelled:
    """Map an array, so that only what is read takes memory."""
    with reading(path, "an array of numbers (numpy.save)", *BROKEN):
        open_file(path).close()
        images = np.lib.format.open_memmap(path, mode="r")
    return _checked(images, str(path), like)


def _npz(path: Path, like: Like) -> Unlabelled:
    """Read the images of an archive into memory: it may be compressed."""
    with reading(path, EXPECTED, *BROKEN), open_file(path) as file, zipfile.ZipFile(file) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        key = next((key for key in KEYS if key in entries), next(iter(entries)) if len(entries) == 1 else None)
        if key is None:
            found = ", ".join(entries) or "none"
            raise DataError(f"{path}: expected images under one of the keys {', '.join(KEYS)}, got {found}")
        require_memory(entries[key].file_size, path)
        with archive.open(entries[key]) as entry:
            images = read_array(entry, entries[key].file_size, f"{path}: {key}")
    return _checked(images, f"{path}: {key}", like)


def _checked(images: _Array, origin: str, like: Like) -> Unlabelled:
    if like.layout == "channels_last":
        require_channels_last(origin, images.shape)
    return Unlabelled.of(images, origin, like)


def _table(path: Path, like: Like) -> Unlabelled:
    """Read a table into memory; pictures in it are decoded when they are read."""
    table = read_table(path, _text_columns(like.features))
    column = None if like.features else picture_column(table, str(path))
    if column is None:
        if not like.features:
            require_names(path, table)
        return Unlabelled.of(features_of(table, like.features, str(path)), str(path), like)
    cells = table.column(column).to_pylist()
    contents = [(cell.get("bytes") if isinstance(cell, dict) else cell) or b"" for cell in cells]
    names = [str(row) for row in range(len(cells))]
    return _pictures([io.BytesIO(content) for content in contents], names, str(path), like)


def _text_columns(features: tuple[str, ...]) -> set[str]:
    """Name the columns that may be of text by features called "column=value": what stands before an equals sign."""
    return {name[:end] for name in features for end, each in enumerate(name) if each == "="} - set(features)


def _folder(root: Path, like: Like) -> Unlabelled:
    """Find the pictures in a folder and below it; they are decoded when they are read."""
    files, passed = [], 0
    for folder, below, found in os.walk(root):
        below[:] = sorted(name for name in below if name[0] != ".")
        for name in found:
            is_picture = Path(name).suffix.lower() in SUFFIXES
            if name[0] != ".":
                passed += not is_picture
                files += [Path(folder) / name] if is_picture else []
    if not files:
        raise DataError(f"{root}: expected pictures ({' '.join(sorted(SUFFIXES))}), got none; correct the name")
    files.sort(key=lambda file: file.relative_to(root).as_posix())
    # Bytes of a name that are no UTF-8 stand as \x.. in it: no file of predictions could hold them otherwise.
    names = [os.fsencode(file.relative_to(root)).decode(errors="backslashreplace") for file in files]
    notes = (f"{root}: {passed} files that are no pictures by their names are not read",) if passed else ()
    return _pictures(files, names, str(root), like, notes)


def _pictures(
    sources: Sequence[Path | BinaryIO], names: list[str], origin: str, like: Like, notes: tuple[str, ...] = ()
) -> Unlabelled:
    """Describe pictures by the first one; the others are decoded when they are read."""

    def pixels_of(row: int) -> _Array:
        source = sources[row]
        if not isinstance(source, Path):
            source.seek(0)
        return decode_as(source, f"{origin}: {names[row]}", like.pictures)[0]

    shape = pixels_of(0).shape

    def read(begin: int, end: int) -> _Array:
        images = np.empty((end - begin, *shape), np.uint8)
        for row in range(begin, end):
            pixels = pixels_of(row)
            if pixels.shape != shape:
                raise DataError(
                    f"{origin}: {names[row]}: expected pixels of shape {shape}, as {names[0]} has, got {pixels.shape}; "
                    "resize or convert the pictures so that all agree"
                )
            images[row - begin] = pixels
        return images

    return Unlabelled(origin, names, (len(names), *shape), np.dtype(np.uint8), read, notes)


FORMATS: Mapping[str, Callable[[Path, Like], Unlabelled]] = {
    ".npy": _npy,
    ".npz": _npz,
    **dict.fromkeys(ENDINGS, _table),
}
"""Readers by the ending of a file's name."""
