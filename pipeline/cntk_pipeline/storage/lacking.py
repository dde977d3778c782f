"""What the file system of a directory may lack, and what is done instead: links, fsync of folders, mapped files.

File systems over a network or in user space, and those of other operating systems, lack one or the other. Which were
tried, docs/stores.md says.
"""

import errno
import os
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np

NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EIO)
"""What linking fails with between devices, on file systems without links, for files of others, or with many links.

Rclone says EIO; where that is true, what is done instead meets it too.
"""

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""What the fsync of a folder fails with where there is none."""

_NO_MAP = (errno.ENODEV, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""What mapping a file fails with where that cannot be done."""

CLAIM_SECONDS, _POLL_SECONDS = 10.0, 0.02
"""How long a claimed name may stay empty before whoever claimed it counts as dead, who has one more call to make."""


def give_name(aside: Path, path: Path) -> None:
    """Give a whole file a name that no other file has.

    Raises
    ------
    FileExistsError
        If another has it: of several at once, one gives its file the name.
    """
    try:
        os.link(aside, path)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        _claim(path)
        os.replace(aside, path)


def _claim(path: Path) -> None:
    """Make an empty file, whose maker puts a whole one in its place at once; who finds it empty waits for that."""
    deadline = time.monotonic() + CLAIM_SECONDS
    while True:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            return
        except FileExistsError:
            if os.stat(path).st_size:
                raise
            if time.monotonic() > deadline:  # its maker was killed in between
                return
        time.sleep(_POLL_SECONDS)


def keep_names(folder: Path) -> bool:
    """Make the names in a folder safe; tell whether its file system does that on demand."""
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
    """Map a file that is not empty, as ``(bytes,)`` uint8 that is not written to; read it where it cannot be mapped."""
    try:
        return np.memmap(file, np.uint8, "r").view(np.ndarray)
    except OSError as error:
        if error.errno not in _NO_MAP:
            raise
        file.seek(0)
        return np.frombuffer(file.read(), np.uint8)
