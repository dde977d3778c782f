"""Files in the format of MNIST (idx): a header of a few bytes, then the pixels or the labels."""

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.base import Dataset, Loader, Split, as_split
from cntk_pipeline.datasets.reading import existing_path, open_file, reading, require_memory
from cntk_pipeline.datasets.targets import assemble
from cntk_pipeline.errors import ConfigError, DataError, DataNotFound

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""The names of the files of images and labels, as MNIST, Fashion-MNIST and KMNIST have them; ``.gz`` may follow."""

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Types of values by the third byte of a file."""

MOST_AXES = 4

EXPECTED = "an idx file, as of MNIST"


@final
@dataclass(frozen=True)
class Idx(Loader):
    """Load a data set from idx files, as MNIST and its like have them; ``.gz`` files are unpacked while they are read.

    Parameters
    ----------
    path : str
        A folder with ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, and as the test part
        ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``; a dot in place of the second hyphen is accepted. Or
        a file of images.
    labels : str, optional
        The file of the labels, where ``path`` is a file.

    Raises
    ------
    ConfigError
        No path, or no file of labels, was given.
    DataNotFound
        A file does not exist.
    DataError
        A file is damaged, or of another format.

    References
    ----------
    LeCun, Y., Cortes, C., Burges, C. The MNIST database of handwritten digits.
    """

    PLACES: ClassVar[tuple[str, ...]] = ("path", "labels")

    labels: str | None = None

    def load(self) -> Dataset:
        """Read uint8 images (n, H, W, 1), and their labels."""
        path = existing_path(self.path, "idx", "a folder of idx files, or a file of images")
        if not path.is_dir():
            if self.labels is None:
                raise ConfigError(f"{path}: expected a file of labels with it, got none; set data.labels to the file")
            labels = existing_path(self.labels, "idx", "a file of labels (data.labels)")
            return assemble(f"idx {path}", _split(path, labels), task=self.task)
        with reading(path, "a readable folder"):
            files = {part: [_find(path, name) for name in names] for part, names in NAMES.items()}
        train, test = (_read_part(path, part, files[part]) for part in ("train", "test"))
        if train is None:
            raise DataNotFound(
                f"{path}: expected the files {' and '.join(NAMES['train'])} (.gz too), got neither; correct data.path"
            )
        return assemble(f"idx {path}", train, test, task=self.task)


def _find(folder: Path, name: str) -> Path | None:
    """Find a file by its usual name, packed or not."""
    dotted = name.replace("-idx", ".idx")
    places = (folder / f"{each}{ending}" for each in (name, dotted) for ending in ("", ".gz"))
    return next((place for place in places if place.exists()), None)


def _read_part(folder: Path, part: str, files: list[Path | None]) -> Split | None:
    """Read images and labels of a part; None where neither is there. A test part may lack its labels."""
    images, labels = files
    if images is None and labels is None:
        return None
    missing = NAMES[part][0] if images is None else NAMES[part][1]
    if images is None or (labels is None and part == "train"):
        raise DataNotFound(f"{folder}: expected {missing} (.gz too) beside the other file of the part; fetch it")
    return _split(images, labels)


def _split(images: Path, labels: Path | None) -> Split:
    pixels = _read(images)
    if pixels.ndim not in (2, 3, 4):
        raise DataError(f"{images}: expected images (n, H, W), got the shape {pixels.shape}; is this a file of labels?")
    return as_split(pixels, None if labels is None else _read(labels))


def _read(path: Path) -> npt.NDArray[Any]:
    """Read one file; refuse it, before memory is taken, if its header announces another number of values."""
    with reading(path, EXPECTED, EOFError, zlib.error), open_file(path) as file:
        is_packed = file.peek(2)[:2] == b"\x1f\x8b"
        unpacked = gzip.GzipFile(fileobj=file) if is_packed else file
        magic = unpacked.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= MOST_AXES:
            raise DataError(
                f"{path}: expected {EXPECTED}, got a file that begins with {magic.hex() or 'nothing'}; fetch it again"
            )
        dtype = np.dtype(TYPES[magic[2]])
        header = unpacked.read(4 * magic[3])
        shape = tuple(np.frombuffer(header[: len(header) // 4 * 4], ">u4").tolist())
        said = math.prod(shape) * dtype.itemsize
        require_memory(said, path)
        content = unpacked.read(said + 1)
        if len(shape) != magic[3] or len(content) != said:
            more = "more" if len(content) > said else f"{len(content):,}"
            raise DataError(f"{path}: expected {said:,} bytes, as of the shape {shape}, got {more}; fetch it again")
        values = np.frombuffer(content, dtype).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)
