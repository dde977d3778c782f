"""Images without labels, read some at a time: what predictions are made for."""

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.folder import SUFFIXES
from cntk_pipeline.datasets.images import decode
from cntk_pipeline.datasets.npz import _BROKEN, _read_array
from cntk_pipeline.datasets.reading import open_file, reading
from cntk_pipeline.errors import DataError, DataNotFound
from cntk_pipeline.inputs import require_channels_last
from cntk_pipeline.resources import memory_bytes

KEYS = ("x", "images", "x_test")
"""Names of the images in an archive, the first that is there counts; of an archive with one array, any name does."""

_Array = npt.NDArray[Any]


@final
@dataclass(frozen=True)
class Unlabelled:
    """Images without labels.

    Attributes
    ----------
    origin : the file or folder.
    names : of the images: their files, or their row numbers.
    shape : ``(n, H, W, C)``, ``(n, H, W)`` or ``(n, features)``.
    dtype : of the pixels.
    read : returns the images from one row up to, but without, another.
    notes : remarks on what was not read.
    """

    origin: str
    names: Sequence[str]
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], _Array]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, images: _Array, origin: str) -> "Unlabelled":
        """Take images in memory, or a mapped file."""
        names = list(map(str, range(len(images)))) if images.ndim else []
        return cls(origin, names, images.shape, images.dtype, lambda begin, end: np.asarray(images[begin:end]))


def open_images(place: str | Path) -> Unlabelled:
    """Open images without labels: a folder of pictures, ``.npy`` or ``.npz``.

    Parameters
    ----------
    place : A folder, whose pictures, also those in folders below, are taken in the order of their names. Or an array
        of images. Or an archive with images under one of `KEYS`.

    Raises
    ------
    DataNotFound
        If nothing lies there.
    DataError
        If it is of no known format, or damaged.
    ConfigError
        If Pillow is needed and not installed.
    """
    path = Path(place).expanduser()
    with reading(path, "images"):
        if not path.exists():
            raise DataNotFound(f"{path.absolute()}: expected images, got nothing there; correct the name")
        if path.is_dir():
            return _folder(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise DataError(
            f"{path}: expected a folder of pictures, or a file that ends in {', '.join(FORMATS)}, got "
            f"{path.suffix or 'no ending'}; save the images with numpy.save"
        )
    return kind(path)


def _npy(path: Path) -> Unlabelled:
    """Map an array, so that only what is read takes memory."""
    with reading(path, "an array of numbers (numpy.save)", *_BROKEN):
        open_file(path).close()
        images = np.lib.format.open_memmap(path, mode="r")
    require_channels_last(str(path), images.shape)
    return Unlabelled.of(images, str(path))


def _npz(path: Path) -> Unlabelled:
    """Read the images of an archive into memory: it may be compressed."""
    expected = "an .npz archive of plain arrays (numpy.savez)"
    with reading(path, expected, *_BROKEN), open_file(path) as file, zipfile.ZipFile(file) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        key = next((key for key in KEYS if key in entries), next(iter(entries)) if len(entries) == 1 else None)
        if key is None:
            found = ", ".join(entries) or "none"
            raise DataError(f"{path}: expected images under one of the keys {', '.join(KEYS)}, got {found}")
        needed, memory = entries[key].file_size, memory_bytes()
        if needed > memory:
            raise DataError(
                f"{path}: its images take {needed / 2**30:,.1f} GiB, and this process may use "
                f"{memory / 2**30:,.1f} GiB; save them with numpy.save, of which only parts are read"
            )
        images = _read_array(archive, entries[key], f"{path}: {key}")
    require_channels_last(f"{path}: {key}", images.shape)
    return Unlabelled.of(images, str(path))


def _folder(root: Path) -> Unlabelled:
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
    first = decode(files[0], files[0])

    def read(begin: int, end: int) -> _Array:
        images = np.empty((end - begin, *first.shape), np.uint8)
        for row, file in enumerate(files[begin:end]):
            pixels = decode(file, file)
            if pixels.shape != first.shape:
                raise DataError(
                    f"{file}: expected pixels of shape {first.shape}, as {files[0]} has, got {pixels.shape}; resize or "
                    "convert the pictures so that all agree"
                )
            images[row] = pixels
        return images

    names = [file.relative_to(root).as_posix() for file in files]
    notes = (f"{root}: {passed} files that are no pictures by their names are not read",) if passed else ()
    return Unlabelled(str(root), names, (len(files), *first.shape), np.dtype(np.uint8), read, notes)


FORMATS: dict[str, Callable[[Path], Unlabelled]] = {".npy": _npy, ".npz": _npz}
"""Readers by the ending of a file's name."""
