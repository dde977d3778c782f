"""Small records in a store, and what a full disk is told by."""

import contextlib
import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, StoreError
from pipeline.storage import StorePath
from pipeline.storage.retries import FULL

Json = dict[str, Any]


def write_json(path: StorePath, record: Json) -> None:
    """Replace a small JSON file."""
    path.write_whole(json.dumps(record, indent=2).encode())


def read_json(path: StorePath | Path) -> Json:
    """Read a JSON object; raise `StoreError` where the file is damaged."""
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}): restore it from a copy; it is never overwritten") from error
    if not isinstance(record, dict):
        raise StoreError(f"{path} is damaged: expected an object, got {type(record).__name__}")
    return record


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error means that the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in FULL


def disk_full(path: object, command: str = "resume") -> StoreError:
    """Make the error that says what to do about a full disk: the command of ``cntk`` that goes on."""
    return StoreError(
        errno.ENOSPC,
        f"the disk of {path} is full. Everything finished is kept: free some space, then `cntk {command} {path}`",
    )


@contextlib.contextmanager
def store_explained(path: object, command: str = "resume") -> Iterator[None]:
    """Turn errors of the operating system into ones that say what to do, as of a full disk: the command that goes on.

    Raises
    ------
    StoreError
        In the place of every `OSError` that is none of the package's own.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(path, command) from error
        if isinstance(error, PipelineError):
            raise
        raise StoreError(
            error.errno,
            f"{path}: {type(error).__name__}: {error}. Every finished tile is kept, and `cntk {command} {path}` goes "
            "on",
        ) from error
