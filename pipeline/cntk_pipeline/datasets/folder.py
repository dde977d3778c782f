"""A folder of pictures, one subfolder for each class."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import final

import numpy as np

from cntk_pipeline.datasets.base import Dataset, Split, as_split
from cntk_pipeline.datasets.pictures import PictureLoader, read_pictures
from cntk_pipeline.datasets.reading import existing_path, reading
from cntk_pipeline.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

TEST_FOLDERS = ("test", "val", "valid", "validation")
"""Names of the folder of the test part beside ``train``; the first existing one is taken."""

_TRAINING = re.compile(r"train(ing)?([ _-]?(set|data|images))?", re.IGNORECASE)
_TESTING = re.compile(r"(test(ing)?|val(id(ation)?)?|eval(uation)?|dev)([ _-]?(set|data|images))?", re.IGNORECASE)
"""Usual names of folders that are parts of a data set, and hardly ever classes."""

SHOWN = 5
"""Largest number of kinds of files, or of subfolders, that a note lists."""

_Example = tuple[Path, int]


@final
@dataclass(frozen=True)
class ImageFolder(PictureLoader):
    """Load the pictures of ``path/train/<class>/`` and ``path/test/<class>/``, or of ``path/<class>/``.

    Classes and, within a class, files are taken in the order of their names, files in subfolders of a class as well.
    The rows take the classes in turn: the first file of each, the second file of each, ... The reason is that `select`
    trains on the first n rows; sorted by class they would all be of one. Names that start with a dot are ignored; all
    other files that are not read become notes of the data set.

    Parameters
    ----------
    path : str
        The folder. Without a subfolder ``train`` its subfolders are the classes, and there is no test part. Beside
        ``train`` the test part is ``test``, or else ``val``, ``valid`` or ``validation``.

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
        self.require_classes("folder")
        root = existing_path(self.path, "folder", "a folder of images, path/train/<class>/*.png")
        with reading(root, "a readable folder"):
            return _load(root, self)


@dataclass
class _Seen:
    """Files that were not read as pictures of a class, and pictures in unexpected places."""

    passed_over: Counter[str] = field(default_factory=Counter)
    deeper: Counter[str] = field(default_factory=Counter)

    def notes(self, root: Path) -> list[str]:
        """Describe both, one line each."""
        lines = []
        if self.passed_over:
            told = _listed(f"{count} {kind}" for kind, count in self.passed_over.items())
            lines.append(f"{root}: files that are no images by their names, or in no class, are not read: {told}")
        if self.deeper:
            told = _listed(f"{count} in {place}" for place, count in self.deeper.items())
            lines.append(f"{root}: images in subfolders are of the class around them: {told}")
        return lines


def _listed(items: Iterable[str]) -> str:
    """Join items in their order; of many, only the first few."""
    found = sorted(items)
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return ", ".join(found[:SHOWN] + more)


def _load(root: Path, options: PictureLoader) -> Dataset:
    """Find the classes and read the parts."""
    train_root = root / "train" if (root / "train").is_dir() else root
    seen = _Seen()
    classes = _class_names(train_root, seen)
    name = f"folder {root}"
    if train_root is root:
        _require_classes(root, classes)
        train, done = _read(_examples(root, classes, seen), root, options)
        return Dataset(name, classes, train, notes=(*seen.notes(root), *done))
    test_name = next((name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    notes = _unread(root, test_name)
    train, done = _read(_examples(train_root, classes, seen), train_root, options)
    notes += [*seen.notes(train_root), *done]
    if test_name is None:
        return Dataset(name, classes, train, notes=tuple(notes))
    test_root, seen = root / test_name, _Seen()
    unknown = [name for name in _class_names(test_root, seen) if name not in classes]
    if unknown:
        raise DataError(
            f"{test_root}: expected the classes of {train_root} ({', '.join(classes)}), "
            f"got {', '.join(unknown)}; rename or remove those folders"
        )
    test, done = _read(_examples(test_root, classes, seen), test_root, options)
    return Dataset(name, classes, train, test, (*notes, *seen.notes(test_root), *done))


def _require_classes(root: Path, classes: tuple[str, ...]) -> None:
    """Refuse folders that are parts of a data set, or the data set itself: the run would tell the parts apart.

    Raises
    ------
    DataError
        With the folder to rename, or to give as path.
    """
    training = [name for name in classes if _TRAINING.fullmatch(name)]
    testing = [name for name in classes if _TESTING.fullmatch(name)]
    parts = training + testing
    tests = [name for name in testing if name.lower().startswith("test")]
    holds_classes = "test" in classes and bool(_folders(root / "test"))
    # Beside other folders, "dev" and "val" may be classes as well, unless all such hold folders of classes.
    are_parts = training and testing and (tests or all(_folders(root / name) for name in parts))
    if are_parts or len(parts) == len(classes) or holds_classes:
        renamed = {"train": training[:1], "test": [] if "test" in testing else (tests or testing)[:1]}
        if training:
            names = " and ".join(f"{name}/ to {part}/" for part, found in renamed.items() for name in found)
            remedy = f"rename {names}"
        elif len(parts) < len(classes):
            remedy = "move the folders of the classes into train/"
        else:
            remedy = "rename the folder of the training images to train/"
        which = "which is the name of a part" if len(parts) == 1 else "which are names of parts"
        raise DataError(
            f"{root}: expected folders of classes, or train/<class>/ and test/<class>/, got {_listed(parts)}, {which}; "
            f"{remedy}"
        )
    if len(classes) == 1 and _holds_only_folders(root / classes[0]):
        raise DataError(
            f"{root}: expected folders of classes, got the one folder {classes[0]}, which holds folders alone; set "
            f"data.path to {root / classes[0]}"
        )


def _holds_only_folders(folder: Path) -> bool:
    """Tell whether no file lies in a folder; names that start with a dot do not count."""
    return all(path.is_dir() for path in folder.iterdir() if path.name[0] != ".") and bool(_folders(folder))


def _unread(root: Path, test_name: str | None) -> list[str]:
    """Name the folder of the test part, unless it is ``test``, and folders beside it that are not read."""
    notes = [] if test_name in (None, "test") else [f"{root}: there is no test/, {test_name}/ is the test part"]
    others = [name for name in _folders(root) if name not in ("train", test_name)]
    return notes + ([f"{root}: beside train/ these folders are not read: {', '.join(others)}"] if others else [])


def _folders(root: Path) -> list[str]:
    """List the folders below `root` whose names do not start with a dot, sorted."""
    return sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".") if root.is_dir() else []


def _class_names(root: Path, seen: _Seen) -> tuple[str, ...]:
    """List the class folders below `root`, sorted, and note the files beside them."""
    found = _folders(root)
    if not found:
        raise DataError(f"{root}: expected one folder for each class, got none; arrange the images as <class>/*.png")
    for path in root.iterdir():
        if path.name not in found and path.name[0] != ".":
            seen.passed_over[path.suffix.lower() or "without an ending"] += 1
    return tuple(found)


def _examples(root: Path, classes: tuple[str, ...], seen: _Seen) -> list[_Example]:
    """List the pictures below `root` with their labels, the classes taking turns."""
    by_class: list[list[_Example]] = []
    for label, name in enumerate(classes):
        if not (root / name).is_dir():
            continue
        files = sorted(_pictures(root / name, name, seen, (os.path.realpath(root / name),)))
        if not files:
            raise DataError(
                f"{root / name}: expected at least one image ({' '.join(sorted(SUFFIXES))}), got none; "
                "add images or remove the folder"
            )
        by_class.append([(path, label) for path in files])
    return [example for example in chain.from_iterable(zip_longest(*by_class)) if example is not None]


def _pictures(folder: Path, place: str, seen: _Seen, above: tuple[str, ...]) -> Iterator[Path]:
    """Find the pictures in a folder of a class and below it; links are followed, but never in a circle."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.name[0] == ".":
                continue
            if entry.is_dir():
                real = os.path.realpath(path)
                if real not in above:
                    yield from _pictures(path, f"{place}/{entry.name}", seen, (*above, real))
            elif path.suffix.lower() in SUFFIXES and entry.is_file():
                if len(above) > 1:
                    seen.deeper[place] += 1
                yield path
            else:
                seen.passed_over[path.suffix.lower() or "without an ending"] += 1


def _read(examples: list[_Example], root: Path, options: PictureLoader) -> tuple[Split, tuple[str, ...]]:
    """Decode the pictures of a part; return them with their labels, and notes on them."""
    found = read_pictures([(path, str(path)) for path, _ in examples], root, options)
    return as_split(found.images, np.array([label for _, label in examples])[found.rows]), found.notes
