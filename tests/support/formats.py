"""Small files of all formats of data."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

rng = np.random.default_rng(1)
IMAGES, LABELS = rng.integers(0, 256, (6, 4, 4, 3), np.uint8), np.array(["cat", "dog"] * 3)


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_formats(folder: Path) -> None:
    """Write a data set in each format that docs/data.md shows, but for CIFAR-10."""
    np.savez(folder / "shapes.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:2])
    (folder / "arrays").mkdir()
    for name, values in {
        "arrays/x_train": IMAGES,
        "arrays/y_train": LABELS,
        "images": IMAGES,
        "labels": LABELS,
    }.items():
        np.save(folder / f"{name}.npy", values)
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        for root, side in (("pets/train", 4), ("pets/test", 4), ("holiday", 4 + number)):
            path = folder / f"{root}/{label}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).resize((side, 4)).save(path)
    (folder / "houses.csv").write_text("rooms,street,price\n3,elm,1.5\n4,oak,2.5\n2,elm,1.25\n")
    pq.write_table(
        pa.table({"rooms": [3, 4], "street": ["elm", "oak"], "price": [1.5, 2.5]}), folder / "houses.parquet"
    )
    cells = [encoded(image) for image in IMAGES]
    pq.write_table(pa.table({"image": cells, "label": LABELS.tolist()}), folder / "pictures.parquet")
    (folder / "mnist").mkdir()
    for name, values in (("images-idx3", IMAGES[..., 0]), ("labels-idx1", np.arange(6, dtype=np.uint8) % 2)):
        header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
        (folder / f"mnist/train-{name}-ubyte").write_bytes(header + values.tobytes())
    write_tudataset(folder / "toy")


def encoded(image: np.ndarray) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_tudataset(folder: Path) -> Path:
    """Write a star of four nodes, a path of three and a pair in the format of the TUDataset collection."""
    folder.mkdir(exist_ok=True)
    edges = [(1, 2), (1, 3), (1, 4), (5, 6), (6, 7), (8, 9)]
    both = sorted([*edges, *((b, a) for a, b in edges)])
    (folder / "TOY_A.txt").write_text("".join(f"{a}, {b}\n" for a, b in both))
    for name, numbers in {
        "graph_indicator": [1] * 4 + [2] * 3 + [3] * 2,
        "graph_labels": [1, -1, 1],
        "node_labels": [0, 2, 2, 2, 2, 0, 2, 0, 0],
    }.items():
        (folder / f"TOY_{name}.txt").write_text("".join(f"{number}\n" for number in numbers))
    return folder
