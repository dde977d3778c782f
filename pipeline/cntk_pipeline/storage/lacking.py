"""Features that the file system of a directory may lack, and their substitutes: links, fsync of folders, mapped files.

File systems over a network, in user space, or of other operating systems lack one or the other. docs/stores.md lists
the file systems that were tried.
"""

import errno
import os
import stat
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np

NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EIO)
"""Errors of linking between devices, on file systems without links, for files of others, or with too many links.

Rclone reports EIO. Where the disk really has this error, the substitute meets it too.
"""

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""Errors of the fsync of a folder on file systems without it."""

_NO_MAP = (errno.ENODEV, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""Errors of mapping a file on file systems without it."""

CLAIM_SECONDS, _POLL_SECONDS = 10.0, 0.02
"""Time that a claimed name may stay empty before its claimer counts as dead; the claimer needs one more call."""


def give_name(aside: Path, path: Path) -> None:
    """Give a whole file a name that no other file has.

    Raises
    ------
    FileExistsError
        If another file has it: of several calls at once, one gives its file the name.
    """
    try:
        os.link(aside, path)
    except OSError as error:
        # Linux says that a name exists before it asks whether the file system has links.
        if error.errno not in NO_LINK and not (error.errno == errno.EEXIST and _is_claimed(path)):
            raise
        _claim(path)
        os.replace(aside, path)


def _claim(path: Path) -> None:
    """Make an empty file; its maker replaces it by a whole one at once, and others wait while it is empty."""
    deadline = time.monotonic() + CLAIM_SECONDS
    while True:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return
        except FileExistsError:
            if not _is_claimed(path):
                raise
            if time.monotonic() > deadline:  # its maker was killed in between
                return
        time.sleep(_POLL_SECONDS)


def _is_claimed(path: Path) -> bool:
    """Tell whether a name is that of an empty file, or free again by now."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and not status.st_size


def keep_names(folder: Path) -> bool:
    """Make the names in a folder safe; tell whether its file system supports this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
        return False
    finally:
        os.close(descriptor)
    return True


def map_file(file: BinaryIO) -> np.ndarray:
    """Map a file that is not empty, as ``(bytes,)`` uint8, read-only; read it where it cannot be mapped."""
    try:
        return np.memmap(file, np.uint8, "r").view(np.ndarray)
    except OSError as error:
        if error.errno not in _NO_MAP:
            raise
        file.seek(0)
        return np.frombuffer(file.read(), np.uint8)
