"""CIFAR-10: the search for its files, in any of the published forms."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final

from cntk_pipeline.datasets.archives import BINARY_ARCHIVE, PYTHON_ARCHIVE, URL, download, extract
from cntk_pipeline.datasets.base import Dataset, Loader
from cntk_pipeline.datasets.cifar10_layouts import CLASSES, LAYOUTS, Layout
from cntk_pipeline.datasets.reading import expanded, reading
from cntk_pipeline.errors import DataError, DataNotFound

# Folders of the unpacked archives, and of the hub's tables.
_SUBFOLDERS = (".", "cifar-10-batches-bin", "cifar-10-batches-py", "plain_text", "data")
_WANTED = (
    "data_batch_1.bin to data_batch_5.bin and test_batch.bin (binary release), "
    "data_batch_1 to data_batch_5 and test_batch (python release), "
    "train-*.parquet and test-*.parquet (Hugging Face hub), "
    f"{BINARY_ARCHIVE} or {PYTHON_ARCHIVE}"
)


@final
@dataclass(frozen=True)
class Cifar10(Loader):
    """Load CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 pixels in ten classes.

    Parameters
    ----------
    path : str, optional
        Folder of the binary release, the python release or the hub's Parquet files, a folder around it, or one of
        the published ``.tar.gz`` archives. By default the places are ``$CNTK_DATA/cifar10``, ``$CNTK_DATA``,
        ``./data/cifar10`` and the user's cache folder; if none of them has the files, the binary release is downloaded
        into the cache folder (170 MB).

    Raises
    ------
    DataNotFound
        If no place has the files, and the download failed; the message says how to get them.
    DataError
        If a file is truncated, garbled, or of another kind than its name says.

    References
    ----------
    Krizhevsky, A. (2009). Learning Multiple Layers of Features from Tiny Images. University of Toronto.
    """

    def load(self) -> Dataset:
        """Read uint8 images (50000, 32, 32, 3) and (10000, 32, 32, 3), in the order of the files."""
        self.require_classes("cifar10")
        with reading(self.path or "the places of CIFAR-10", "readable folders"):
            layout, folder = _locate(self.path)
        train, test = layout.read(folder)
        return Dataset(f"cifar10 {folder}", CLASSES, train, test)


def _locate(path: str | None) -> tuple[Layout, Path]:
    """Find a complete set of files: at `path` only, or else in the usual places, or else by download."""
    import pooch

    cache = Path(pooch.os_cache("cntk"))
    places = _usual_places(cache) if path is None else [expanded(path)]
    for place in places:
        found = _unpack(place, cache) if place.is_file() else _search(place, cache)
        if found is not None:
            return found
    if path is not None:
        raise DataNotFound(_describe_absence(places))
    try:
        archive = download(cache)
    except OSError as error:
        raise DataNotFound(f"{_describe_absence(places)}. The download failed: {error}") from error
    return _unpack(archive, cache)


def _usual_places(cache: Path) -> list[Path]:
    """List the folders to search if the user named none, best first."""
    shared = os.environ.get("CNTK_DATA")
    places = [expanded(shared) / "cifar10", expanded(shared)] if shared else []
    return [*places, Path("data", "cifar10"), cache]


def _search(root: Path, cache: Path) -> tuple[Layout, Path] | None:
    """Find the first complete layout in or just below `root`, unpacking an archive as the last resort."""
    found = _complete_layout(root)
    if found is not None:
        return found
    archives = (root / name for name in (BINARY_ARCHIVE, PYTHON_ARCHIVE))
    return next((_unpack(archive, cache) for archive in archives if archive.is_file()), None)


def _complete_layout(root: Path) -> tuple[Layout, Path] | None:
    """Find the first layout without missing files."""
    folders = (root / name for name in _SUBFOLDERS)
    return next(((layout, folder) for folder in folders for layout in LAYOUTS if not layout.missing(folder)), None)


def _unpack(archive: Path, cache: Path) -> tuple[Layout, Path]:
    """Unpack an archive and find the layout in it."""
    patterns = [pattern for layout in LAYOUTS for pattern in layout.train_patterns + layout.test_patterns]
    unpacked = extract(archive, cache, patterns)
    found = _complete_layout(unpacked)
    if found is None:
        shutil.rmtree(unpacked, ignore_errors=True)
        raise DataError(f"{archive}: expected an archive with {_WANTED}, got other files; fetch {URL}")
    return found


def _describe_absence(places: list[Path]) -> str:
    """Describe the wanted files, the searched places and their contents, and how to get the files."""
    looked = "; ".join(f"{place.absolute()} ({_describe_state(place)})" for place in places)
    return (
        f"CIFAR-10 was not found. Expected: {_WANTED}. Looked at: {looked}. "
        f"To get it: download {URL} and set data.path to the file or to the folder it unpacks to, "
        "or put it below the folder in the environment variable CNTK_DATA"
    )


def _describe_state(place: Path) -> str:
    """Describe the fault of one place: absent, incomplete, or something else."""
    if not place.exists():
        return "does not exist"
    for name in _SUBFOLDERS:
        for layout in LAYOUTS:
            missing = layout.missing(place / name)
            if len(missing) < len(layout.train_patterns + layout.test_patterns):
                return f"incomplete, lacks {', '.join(missing)}"
    return "holds none of them"
