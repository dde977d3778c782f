"""Repeats operations on a directory after errors that may pass, and explains errors that last."""

import errno
import functools
import resource
import time
from collections.abc import Callable
from typing import Any, TypeVar

from cntk_pipeline.errors import PipelineError, StoreError, StoreUnavailable

DELAYS_SECONDS = (0.1, 0.5, 2.0)
"""Waits before an operation is tried again; a bucket's own client waits too."""

PASSING = (errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT, errno.ENOTCONN) + (
    (errno.EREMOTEIO,) if hasattr(errno, "EREMOTEIO") else ()  # macOS has none
)
"""Errors of a disk or a file server that may pass in a moment."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk, or of a used-up quota."""

_Result = TypeVar("_Result")


def patiently(action: Callable[[], _Result], where: object, delays: tuple[float, ...] | None = None) -> _Result:
    """Run an action at a place in a directory, again after each of ``delays``; by default these are `DELAYS_SECONDS`.

    Raises
    ------
    FileNotFoundError, FileExistsError
        As raised by the action.
    StoreUnavailable
        If it went on failing with one of `PASSING`.
    StoreError
        If it failed otherwise, with the remedy.
    """
    for delay in (*(DELAYS_SECONDS if delays is None else delays), None):
        try:
            return action()
        except (FileNotFoundError, FileExistsError, PipelineError):
            raise
        except OSError as error:
            if error.errno not in PASSING or delay is None:
                kind = StoreUnavailable if error.errno in PASSING else StoreError
                raise kind(error.errno, explanation(where, error)) from error
        time.sleep(delay)
    raise AssertionError


def patient(operation: Callable[..., _Result]) -> Callable[..., _Result]:
    """Let a method of a path be tried again by `patiently`: it only reads, or may be done twice."""

    @functools.wraps(operation)
    def tried_again(self: Any, *arguments: Any, **options: Any) -> _Result:
        return patiently(lambda: operation(self, *arguments, **options), self)

    return tried_again


def explained(operation: Callable[..., _Result]) -> Callable[..., _Result]:
    """Let errors of a method of a path name the place; the method is not tried again."""

    @functools.wraps(operation)
    def tried_once(self: Any, *arguments: Any, **options: Any) -> _Result:
        return patiently(lambda: operation(self, *arguments, **options), self, ())

    return tried_once


def explanation(where: object, error: OSError) -> str:
    """Explain an error at a place, with the remedy."""
    if error.errno in FULL:
        return f"the disk of {where} is full. Everything finished is kept: free some space, then the same command again"
    if error.errno == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        allowed = "its file system allows" if limit == resource.RLIM_INFINITY else f"the {limit} bytes of `ulimit -f`"
        return (
            f"{where} would be larger than {allowed}. Everything finished is kept: lift that limit (`ulimit -f "
            "unlimited`, for the workers too), then the same command again"
        )
    reason = error.strerror or error
    return (
        f"{where} cannot be read or written: {reason}. Whatever is finished is kept: mend that, then the same command "
        "again"
    )
