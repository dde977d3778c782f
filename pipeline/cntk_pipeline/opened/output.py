"""Files of predictions for people: csv, parquet or npz, whole or not at all."""

import csv
import importlib.util
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.opened.columns import joined, named_columns
from cntk_pipeline.opened.predict_on_cluster import Predictions
from cntk_pipeline.storage import LocalPath, StorePath, open_path


def require_output(place: str, *, force: bool) -> StorePath:
    """Return the place of a file to write, before anything is computed for it.

    Raises
    ------
    ConfigError
        If its ending is unknown, a file is there and ``force`` is not set, a package is missing, or the place is a
        folder or lies in a file.
    """
    suffix = _suffix(place)
    if suffix not in WRITERS:
        raise ConfigError(
            f"--out {place}: expected a file that ends in {', '.join(WRITERS)}, got {suffix or 'no ending'}"
        )
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"--out {place} needs pyarrow: pip install 'cntk-pipeline[images]', or write a .csv")
    path = open_path(place)
    if isinstance(path, LocalPath):
        if path.is_dir():
            raise ConfigError(f"--out {place}: it is a folder; give the name of a file")
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise ConfigError(f"--out {place}: {above} is a file, in which no other can lie; give another place")
    if path.exists() and not force:
        raise ConfigError(f"--out {place}: there is a file already; give another name, or --force to replace it")
    return path


def write_predictions(path: StorePath, found: Predictions, *, force: bool) -> None:
    """Write predictions to a file by its ending; it appears whole or not at all.

    Raises
    ------
    ConfigError
        If a file has appeared there since `require_output`, and ``force`` is not set.
    """
    content = WRITERS[_suffix(str(path))](found)
    if force:
        path.write_whole(content)
    elif path.exists() or not path.create_whole(content):  # an empty file is no claim of ours
        raise ConfigError(f"--out {path}: there is a file already; give another name, or --force to replace it")


def columns_of(found: Predictions) -> dict[str, Any]:
    """Lay out predictions as columns: image, class, a score for each class, and the standard deviation.

    A regression has a column for each target instead, and a standard deviation for each. A target named like
    another column gets a number, see `joined`.
    """
    deviations: dict[str, Any] = {}
    if found.std is not None and found.std.ndim == 1:
        deviations = {"std": found.std}
    elif found.std is not None:
        deviations = {f"std_{name}": found.std[:, k] for k, name in enumerate(found.data.classes)}
    return joined({"image": list(found.names)}, named_columns(found.data, found.scores), deviations)


def _csv(found: Predictions) -> bytes:
    columns, text = columns_of(found), io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    plain = [values.tolist() if isinstance(values, np.ndarray) else values for values in columns.values()]
    writer.writerows(zip(*plain, strict=True))
    return text.getvalue().encode()


def _parquet(found: Predictions) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns_of(found)), buffer)
    return buffer.getvalue()


def _npz(found: Predictions) -> bytes:
    arrays: dict[str, Any] = {
        "images": np.array(found.names),
        "classes": np.array(found.data.classes),
        "predicted": found.predicted,
        "scores": found.scores,
    }
    buffer = io.BytesIO()
    np.savez(buffer, **(arrays if found.std is None else arrays | {"std": found.std}))
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Predictions], bytes]] = {".csv": _csv, ".parquet": _parquet, ".npz": _npz}
"""Writers by the ending of a file's name."""


def _suffix(place: str) -> str:
    name = place.rpartition("/")[2]
    return f".{name.rpartition('.')[2]}".lower() if "." in name else ""
