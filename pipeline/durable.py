"""Writing files so that they are there whole or not at all, and survive a power cut."""

import contextlib
import errno
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError

Json = dict[str, Any]
Buffer = bytes | memoryview

_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
"""What linking fails with between devices, on file systems without links, for files of others, or with many links."""


def write_durably(path: Path, *parts: Buffer) -> None:
    """Write a file of one or more parts aside, fsync it, rename it into place, and fsync the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with open(aside, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def create_durably(path: Path, content: bytes) -> None:
    """Create a file with its content at once; leave the one that is there already."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    write_durably(aside, content)
    with contextlib.suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()
    sync_directory(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second place at once, sharing its bytes; copy it where the file system cannot.

    The bytes of a link are durable already, its name is after `sync_directory`: once for all files of a directory.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        write_durably(target, source.read_bytes())


def rename_into_place(aside: Path, target: Path) -> None:
    """Make a directory that was built aside appear at once, unless another driver was first."""
    try:
        os.rename(aside, target)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        if not target.exists():  # otherwise another driver was first, with the same content
            raise
    sync_directory(target.parent)


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Json:
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
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(path: str | Path) -> StoreError:
    """Make the error that says what to do about a full disk."""
    return StoreError(
        errno.ENOSPC,
        f"the disk of {path} is full. Everything finished is kept: free some space, then `cntk resume {path}`",
    )
