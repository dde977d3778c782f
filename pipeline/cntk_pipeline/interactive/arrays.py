"""Arrays in memory as the data set of a run: an archive in the run directory, which a workflow can name."""

import contextlib
import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from cntk_pipeline.errors import ConfigError, DataError, PipelineError
from cntk_pipeline.inputs import as_array, describe_objects
from cntk_pipeline.rundir.directory import ARRAYS, RunDirectory, holds_run
from cntk_pipeline.storage import LocalPath, StorePath

NO_NAMES = ("file", "allow_pickle")
"""Arguments of `numpy.savez`, which writes the archive."""


@contextlib.contextmanager
def stored(arrays: Mapping[str, object], place: StorePath) -> Iterator[Path]:
    """Store arrays in a run directory for a ``with`` block that begins the run; yield the archive's path.

    The archive is named by its content, so that arrays of another call never take its place. Where the call is refused
    before the run's workflow names it, it is deleted again with the folders made for it, and the error calls it "data".

    Parameters
    ----------
    arrays : mapping of str to object
        By the keys of the data source "npz".
    place : StorePath
        Of the run directory.

    Raises
    ------
    DataError
        If a value is no array of numbers or texts.
    ConfigError
        If the run directory is in a bucket.
    """
    if not isinstance(place, LocalPath):
        raise ConfigError(
            f"arrays in memory are stored in the run directory, which must be local then, got {place}: save them with "
            'numpy.savez, and give the file as data.path with data.source = "npz"'
        )
    content = _archive(arrays)
    folder = place / ARRAYS
    path = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.npz"
    is_new = not path.exists()
    where = Path(path.absolute())
    made = [parent for parent in where.parents if not parent.exists()]
    if is_new:
        path.create_whole(content)
    elif path.size() != len(content) or path.read_bytes(len(content)) != content:  # it was damaged
        path.write_whole(content)
    try:
        yield where
    except PipelineError as error:
        if is_new and not _is_named(path.name, place):
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a folder that holds other files stays, and so do its parents
                for empty in made:
                    empty.rmdir()
            error.args = tuple(
                each.replace(f"npz {where}", "data").replace(str(where), "data") if isinstance(each, str) else each
                for each in error.args
            )
        raise


def _is_named(name: str, place: LocalPath) -> bool:
    """Tell whether the workflow of a run reads an archive; where it cannot be read, yes."""
    if not holds_run(place):
        return False
    try:
        run = RunDirectory(place)
        return run.has_workflow() and Path(run.workflow().data.path or "").name == name
    except PipelineError:
        return True


def _archive(arrays: Mapping[str, object]) -> bytes:
    if not isinstance(arrays, Mapping):
        raise DataError(
            f'data is a dictionary of arrays like {{"x_train": ..., "y_train": ...}}, got {type(arrays).__name__}'
        )
    plain: dict[str, np.ndarray] = {}
    for name, given in arrays.items():
        if not isinstance(name, str) or name in NO_NAMES:
            raise DataError(f"data: expected names of arrays like x_train and y_train, got {name!r}: leave it out")
        array = as_array(f"data[{name!r}]", given)
        if array.dtype.hasobject:
            raise DataError(
                f"data[{name!r}]: expected an array of numbers or texts, got {describe_objects(array)}; drop "
                "what has no value, and convert numbers with numpy.array(values, dtype=float)"
            )
        plain[name] = array
    buffer = io.BytesIO()
    np.savez(buffer, **plain)  # type: ignore[arg-type]
    return buffer.getvalue()
