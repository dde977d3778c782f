"""Small files of all formats of data."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

rng = np.random.default_rng(1)
IMAGES, LABELS = rng.integers(0, 256, (6, 4, 4, 3), np.uint8), np.array(["cat", "dog"] * 3)


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


def encoded(image: np.ndarray) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
