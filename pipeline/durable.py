"""What a full disk is told by."""

import errno

from pipeline.errors import StoreError
from pipeline.storage.records import Json
from pipeline.storage.retries import FULL

__all__ = ["Json", "disk_full", "is_disk_full"]


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error means that the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in FULL


def disk_full(path: object) -> StoreError:
    """Make the error that says what to do about a full disk."""
    return StoreError(
        errno.ENOSPC,
        f"the disk of {path} is full. Everything finished is kept: free some space, then `cntk resume {path}`",
    )
