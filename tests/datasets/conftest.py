"""Tiny CIFAR-10 releases, written from the same arrays in each published form."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.formats import png

Writer = Callable[[Path], Path]
PER_BATCH = 3


@pytest.fixture
def batches() -> dict[str, tuple[npt.NDArray[np.uint8], list[int]]]:
    """Give five training batches and a test batch of three images each, by file name."""
    random = np.random.default_rng(20)
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    return {
        name: (
            random.integers(0, 256, (PER_BATCH, 32, 32, 3), dtype=np.uint8),
            random.integers(0, 10, PER_BATCH).tolist(),
        )
        for name in names
    }


def planes(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Spell the release's order of bytes out: for each image the red plane by rows, then green, then blue."""
    return np.array([[image[:, :, c].ravel() for c in range(3)] for image in images]).reshape(len(images), -1)


@pytest.fixture
def write_binary(batches) -> Writer:
    def write(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (images, labels) in batches.items():
            records = [bytes([label]) + row.tobytes() for label, row in zip(labels, planes(images), strict=True)]
            (folder / f"{name}.bin").write_bytes(b"".join(records))
        return folder

    return write


@pytest.fixture
def write_python(batches) -> Writer:
    def write(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (images, labels) in batches.items():
            content = {b"batch_label": b"tiny", b"labels": labels, b"data": planes(images)}
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return folder

    return write


@pytest.fixture
def write_parquet(batches) -> Writer:
    def write(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        train = [batch for name, batch in batches.items() if name != "test_batch"]
        # Two training files, as the hub shards larger sets.
        write_table(folder / "train-00000-of-00002.parquet", train[:2])
        write_table(folder / "train-00001-of-00002.parquet", train[2:])
        write_table(folder / "test-00000-of-00001.parquet", [batches["test_batch"]])
        return folder

    return write


def write_table(path: Path, parts) -> None:
    rows = [{"bytes": png(image), "path": None} for images, _ in parts for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = [label for _, part in parts for label in part]
    pq.write_table(pa.table({"img": pa.array(rows, kind), "label": pa.array(labels, pa.int64())}), path)
