"""Errors of a full disk, and of the operating system in general, as messages with a remedy."""

import contextlib
import errno
from collections.abc import Iterator

from cntk_pipeline.errors import PipelineError, StoreError
from cntk_pipeline.storage.retries import FULL, explanation
from cntk_pipeline.units import shell_word


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error means that the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in FULL


def disk_full(path: object, command: str | None = "resume") -> StoreError:
    """Make the error for a full disk; it names the command of ``cntk`` that goes on, None for the same one again."""
    return StoreError(
        errno.ENOSPC,
        f"the disk of {path} is full. Everything finished is kept: free some space, then {_again(path, command)}",
    )


@contextlib.contextmanager
def store_explained(path: object, command: str | None = "resume") -> Iterator[None]:
    """Turn errors of the operating system into errors that name the command that goes on, as `disk_full` does.

    Raises
    ------
    StoreError
        Instead of every `OSError` that is not the package's own.
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
            f"{path}: {type(error).__name__}: {error}. Every finished tile is kept: mend that, then "
            f"{_again(path, command)}",
        ) from error


@contextlib.contextmanager
def output_explained(place: object) -> Iterator[None]:
    """Turn errors of the operating system at a place that a user has named into errors with the place and the remedy.

    Raises
    ------
    StoreError
        Instead of every `OSError` that is not the package's own.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, PipelineError):
            raise
        raise StoreError(error.errno, explanation(place, error)) from error


def _again(path: object, command: str | None) -> str:
    return "the same command again" if command is None else f"`cntk {command} {shell_word(path)}`"
