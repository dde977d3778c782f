"""The three published forms of CIFAR-10, and the reading of their files."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.base import Split, as_split
from cntk_pipeline.datasets.images import decode
from cntk_pipeline.datasets.reading import open_file, optional_import, reading
from cntk_pipeline.datasets.restricted_pickle import load_dictionary
from cntk_pipeline.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PIXEL_BYTES = 3 * 32 * 32
_RECORD_BYTES = 1 + _PIXEL_BYTES
_IMAGE_COLUMNS = ("img", "image")

_Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]


def read_binary(path: Path) -> _Arrays:
    """Read one file of the binary release: for each image a label byte, then its red, green and blue plane.

    Returns
    -------
    images : uint8 array, (n, 32, 32, 3)
    labels : uint8 array, (n,)

    Raises
    ------
    DataError
        The size is not a whole number of records, or a label byte is above 9.
    """
    with reading(path, "a readable file"), open_file(path) as file:
        content = file.read()
    if not content or len(content) % _RECORD_BYTES:
        raise DataError(
            f"{path}: expected records of 3,073 bytes (the release: 10,000 of them, 30,730,000 bytes), "
            f"got {len(content):,} bytes; the file is truncated or of another format, fetch it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD_BYTES)
    labels = records[:, 0]
    if labels.max() >= len(CLASSES):
        row = int((labels >= len(CLASSES)).argmax())
        raise DataError(f"{path}: expected labels 0 to 9, got {labels[row]} at record {row}; fetch the file again")
    return _channels_last(records[:, 1:]), labels


def read_python(path: Path) -> _Arrays:
    """Read one file of the python release: a pickled dictionary with ``b"data"`` and ``b"labels"``.

    Returns
    -------
    images : uint8 array, (n, 32, 32, 3)
    labels : int array, (n,)

    Raises
    ------
    DataError
        The pickle loads anything but arrays, is broken, or holds something else.
    """
    batch = load_dictionary(path)
    if b"data" not in batch or b"labels" not in batch:
        found = ", ".join(sorted(map(repr, batch))) or "no keys"
        raise DataError(f"{path}: expected a dictionary with b'data' and b'labels', got {found}; fetch the file again")
    data, labels = batch[b"data"], batch[b"labels"]
    if not isinstance(data, np.ndarray) or data.shape[1:] != (_PIXEL_BYTES,):
        got = f"shape {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{path}: expected b'data' to be uint8 of shape (n, 3072), got {got}; fetch the file again")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels) or len(labels) != len(data):
        raise DataError(f"{path}: expected b'labels' to be a list of {len(data)} integers; fetch the file again")
    return _channels_last(data), np.array(labels)


def read_parquet(path: Path) -> _Arrays:
    """Read one Parquet file in the layout of the Hugging Face hub: encoded pictures and labels.

    Columns: ``img`` (or ``image``), a struct with the encoded ``bytes``, and ``label``.

    Returns
    -------
    images : uint8 array, (n, 32, 32, 3)
    labels : int array, (n,)

    Raises
    ------
    DataError
        The file or a picture is broken, a column is missing, or a picture is not of 32 x 32 pixels.
    ConfigError
        PyArrow or Pillow is not installed.
    """
    with optional_import(path):
        import pyarrow as pa
        import pyarrow.parquet as pq
    images: list[npt.NDArray[np.uint8]] = []
    labels: list[Any] = []
    broken = (pa.ArrowException, ValueError, KeyError, TypeError)
    with reading(path, "a Parquet file", *broken), open_file(path) as opened, pq.ParquetFile(opened) as file:
        column = _image_column(file.schema_arrow, path)
        for batch in file.iter_batches(batch_size=1024, columns=[column, "label"]):
            for row, encoded in enumerate(batch.column(column).field("bytes"), start=len(labels)):
                images.append(_decode_row(encoded.as_py(), f"{path}, row {row}"))
            labels += batch.column("label").to_pylist()
    if None in labels:
        raise DataError(f"{path}, row {labels.index(None)}: expected a label, got null; fetch the file again")
    return np.array(images, np.uint8).reshape(-1, 32, 32, 3), np.array(labels)


def _image_column(schema: Any, path: Path) -> str:
    """Return the name of the column of pictures, if there is exactly one and also a column of labels."""
    import pyarrow as pa

    names = [field.name for field in schema if field.name in _IMAGE_COLUMNS and _holds_bytes(field.type)]
    kinds = [field.type for field in schema if field.name == "label"]
    if len(names) != 1 or len(kinds) != 1 or not pa.types.is_integer(kinds[0]):
        found = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise DataError(
            f"{path}: expected one column img (a struct with bytes) and one label of integers, got {found}; fetch the "
            "file again"
        )
    return str(names[0])


def _holds_bytes(kind: Any) -> bool:
    """Tell whether a column's type is a struct with a binary field ``bytes``."""
    import pyarrow as pa

    return pa.types.is_struct(kind) and any(
        f.name == "bytes" and (pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)) for f in kind
    )


def _decode_row(encoded: bytes | None, where: str) -> npt.NDArray[np.uint8]:
    """Decode one picture of a table; gray ones are spread over the three channels."""
    if encoded is None:
        raise DataError(f"{where}: expected an encoded image, got null; fetch the file again")
    pixels = decode(io.BytesIO(encoded), where)
    if pixels.shape[:2] != (32, 32):
        height, width = pixels.shape[:2]
        raise DataError(f"{where}: expected 32 x 32 pixels, got {height} x {width} (height x width); is this CIFAR-10?")
    return np.broadcast_to(pixels, (32, 32, 3))


def _channels_last(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Turn rows of three colour planes (n, 3072) into images (n, 32, 32, 3)."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


@final
@dataclass(frozen=True)
class Layout:
    """One published form: the name patterns of its files, and the function that reads one of them."""

    train_patterns: tuple[str, ...]
    test_patterns: tuple[str, ...]
    read_file: Callable[[Path], _Arrays]

    def missing(self, folder: Path) -> list[str]:
        """List the patterns for which `folder` holds no file."""
        return [pattern for pattern in self.train_patterns + self.test_patterns if not _files(folder, pattern)]

    def read(self, folder: Path) -> tuple[Split, Split]:
        """Read the training and the test part, files in the order of their names."""
        return self._read_part(folder, self.train_patterns), self._read_part(folder, self.test_patterns)

    def _read_part(self, folder: Path, patterns: tuple[str, ...]) -> Split:
        files = [path for pattern in patterns for path in _files(folder, pattern)]
        images, labels = zip(*map(self.read_file, files), strict=True)
        for path, rows in zip(files, labels, strict=True):
            if len(rows) == 0:
                raise DataError(f"{path}: expected at least one image, got none; fetch the file again")
        return as_split(np.concatenate(images), np.concatenate(labels))


def _files(folder: Path, pattern: str) -> list[Path]:
    """List the files of `folder` that match, sorted."""
    return sorted(path for path in folder.glob(pattern) if path.is_file())


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))

LAYOUTS = (
    Layout(tuple(f"{name}.bin" for name in _BATCHES), ("test_batch.bin",), read_binary),
    Layout(_BATCHES, ("test_batch",), read_python),
    Layout(("train-*.parquet",), ("test-*.parquet",), read_parquet),
)
