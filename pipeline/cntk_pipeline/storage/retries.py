"""Asks a directory again that fails for the moment, and says where and what to do where it goes on failing."""

import errno
import functools
import resource
import time
from collections.abc import Callable
from typing import Any, TypeVar

from cntk_pipeline.errors import PipelineError, StoreError, StoreUnavailable

DELAYS_SECONDS = (0.1, 0.5, 2.0)
"""What is waited before an operation is tried again; a bucket's own client does so too."""

PASSING = (errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENOTCONN)
"""What a disk, or a server of files, says that may know better in a moment."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a full disk says, or a user's share of it that is used up."""

_Result = TypeVar("_Result")


def patiently(action: Callable[[], _Result], where: object, delays: tuple[float, ...] | None = None) -> _Result:
    """Do something at a place in a directory, again after each of ``delays``, `DELAYS_SECONDS` where none are given.

    Raises
    ------
    FileNotFoundError, FileExistsError
        Which say what is there.
    StoreUnavailable
        If it went on failing with one of `PASSING`.
    StoreError
        If it failed otherwise, with what to mend.
    """
    for delay in (*(DELAYS_SECONDS if delays is None else delays), None):
        try:
            return action()
        except (FileNotFoundError, FileExistsError, PipelineError):
            raise
        except OSError as error:
            if error.errno not in PASSING or delay is None:
                kind = StoreUnavailable if error.errno in PASSING else StoreError
                raise kind(error.errno, _explanation(where, error)) from error
        time.sleep(delay)
    raise AssertionError


def patient(operation: Callable[..., _Result]) -> Callable[..., _Result]:
    """Let a method of a path be tried again, as `patiently` does: it reads, or may be done twice."""

    @functools.wraps(operation)
    def tried_again(self: Any, *arguments: Any, **options: Any) -> _Result:
        return patiently(lambda: operation(self, *arguments, **options), self)

    return tried_again


def explained(operation: Callable[..., _Result]) -> Callable[..., _Result]:
    """Let a method of a path say where it failed; it is not tried again."""

    @functools.wraps(operation)
    def tried_once(self: Any, *arguments: Any, **options: Any) -> _Result:
        return patiently(lambda: operation(self, *arguments, **options), self, ())

    return tried_once


def _explanation(where: object, error: OSError) -> str:
    """Say what cannot be done at a place, and what to do about it."""
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
    return f"{where} cannot be read or written: {reason}. Whatever is finished is kept: mend that, then `cntk resume`"
