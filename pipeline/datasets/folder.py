"""A folder of pictures, one subfolder for each class."""

from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from pipeline.datasets.base import Dataset, Loader, Split, as_split
from pipeline.datasets.images import decode
from pipeline.datasets.reading import existing_path, reading
from pipeline.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_Example = tuple[Path, int]


@final
@dataclass(frozen=True)
class ImageFolder(Loader):
    """Load the pictures of ``path/train/<class>/`` and ``path/test/<class>/``, or of ``path/<class>/``.

    Classes and, within a class, files are taken in the order of their names. The rows go through the classes in
    turn, first file of each, second file of each, ..., since the first n rows are what `select` trains on: sorted by
    class they would all be of one. Names that start with a dot and files that are not pictures are passed over.

    Parameters
    ----------
    path : str
        The folder. Without a subfolder ``train`` its subfolders are the classes, and there is no test part.

    Raises
    ------
    ConfigError
        No path was given, or Pillow is not installed.
    DataNotFound
        The folder does not exist.
    DataError
        No class folders, a class without a picture, a test class unknown in training, a picture that cannot be
        decoded, pictures of unequal size, or grayscale among colour.
    """

    def load(self) -> Dataset:
        """Decode all pictures into uint8 images (n, H, W, C), C being 1 or 3."""
        root = existing_path(self.path, "folder", "a folder of images, path/train/<class>/*.png")
        with reading(root, "a readable folder"):
            return _load(root)


def _load(root: Path) -> Dataset:
    """Find the classes and read the parts."""
    train_root = root / "train" if (root / "train").is_dir() else root
    test_root = root / "test"
    classes = _class_names(train_root)
    train = _read(_examples(train_root, classes))
    if train_root is root or not test_root.is_dir():
        return Dataset(f"folder {root}", classes, train)
    unknown = [name for name in _class_names(test_root) if name not in classes]
    if unknown:
        raise DataError(
            f"{test_root}: expected the classes of {train_root} ({', '.join(classes)}), "
            f"got {', '.join(unknown)}; rename or remove those folders"
        )
    test = _read(_examples(test_root, classes))
    return Dataset(f"folder {root}", classes, train, test)


def _class_names(root: Path) -> tuple[str, ...]:
    """List the class folders below `root`, sorted."""
    found = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")) if root.is_dir() else []
    if not found:
        raise DataError(f"{root}: expected one folder for each class, got none; arrange the images as <class>/*.png")
    return tuple(found)


def _examples(root: Path, classes: tuple[str, ...]) -> list[_Example]:
    """List the pictures below `root` with their labels, the classes taking turns."""
    by_class: list[list[_Example]] = []
    for label, name in enumerate(classes):
        if not (root / name).is_dir():
            continue
        files = sorted(p for p in (root / name).iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
        if not files:
            raise DataError(
                f"{root / name}: expected at least one image ({' '.join(sorted(SUFFIXES))}), got none; "
                "add images or remove the folder"
            )
        by_class.append([(path, label) for path in files])
    return [example for example in chain.from_iterable(zip_longest(*by_class)) if example is not None]


def _read(examples: list[_Example]) -> Split:
    """Decode the pictures, all of the first one's shape."""
    first = examples[0][0]
    pixels = decode(first, first)
    images: npt.NDArray[Any] = np.empty((len(examples), *pixels.shape), np.uint8)
    for row, (path, _) in enumerate(examples):
        pixels = decode(path, path)
        if pixels.shape != images.shape[1:]:
            raise DataError(
                f"{path}: expected {_describe(images[0])} as {first} has, got {_describe(pixels)}; "
                "resize or convert the images so that all agree"
            )
        images[row] = pixels
    return as_split(images, [label for _, label in examples])


def _describe(pixels: npt.NDArray[Any]) -> str:
    """Say the size as people do, width first."""
    height, width, channels = pixels.shape
    return f"{width} x {height} pixels in {'grayscale' if channels == 1 else 'colour'}"
