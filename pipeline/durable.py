"""Small records in a store, and what a full disk is told by."""

import errno
import json
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
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


def disk_full(path: object) -> StoreError:
    """Make the error that says what to do about a full disk."""
    return StoreError(
        errno.ENOSPC,
        f"the disk of {path} is full. Everything finished is kept: free some space, then `cntk resume {path}`",
    )
