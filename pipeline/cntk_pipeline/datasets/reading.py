"""The opening of files: errors name a missing or broken file, with the remedy."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from cntk_pipeline.errors import ConfigError, DataError, DataNotFound, PipelineError
from cntk_pipeline.resources import memory_bytes


def expanded(path: str | Path) -> Path:
    """Expand ``~``, the home folder.

    Raises
    ------
    ConfigError
        If that is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"the home folder that ~ stands for is not known, got {str(path)!r}: write the whole path"
        ) from None


def existing_path(path: str | None, source: str, wanted: str) -> Path:
    """Resolve the path a loader needs.

    Parameters
    ----------
    path : str or None
        As given by the user; ``~`` is expanded.
    source, wanted : str
        Name of the data source, and the required kind of path; for the message.

    Raises
    ------
    ConfigError
        If no path was given, or its home folder is not known.
    DataNotFound
        If the path does not exist.
    """
    if path is None:
        raise ConfigError(f"data source {source!r}: expected a path, got none; set data.path to {wanted}")
    resolved = expanded(path)
    with reading(resolved, wanted):
        exists = resolved.exists()
    if not exists:
        raise DataNotFound(
            f"data source {source!r}: expected {wanted} at {resolved.absolute()}, got nothing there; correct data.path"
        )
    return resolved


def open_file(path: Path) -> BufferedReader:
    """Open a file for reading; refuse other objects, such as a pipe without a writer.

    Raises
    ------
    DataError
        If something else lies there.
    OSError
        If it cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        kind = "a folder" if path.is_dir() else "a pipe, a socket or a device"
        raise DataError(f"{path}: expected a file, got {kind}; correct data.path, or data.source")
    return path.open("rb")


def require_memory(needed: int, where: object) -> None:
    """Refuse arrays that this process cannot hold, before they are read.

    Parameters
    ----------
    needed : int
        Bytes.
    where : object
        The file, as named in the message.

    Raises
    ------
    DataError
        With the sizes.
    """
    memory = memory_bytes()
    if needed > memory:
        raise DataError(
            f"{where}: its arrays take {needed / 2**30:,.1f} GiB, and this process may use "
            f"{memory / 2**30:,.1f} GiB; take fewer images or features, or a machine with more memory"
        )


@contextmanager
def reading(where: object, expected: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the failures of a file format into a `DataError` that names the file.

    Parameters
    ----------
    where : object
        The file, as named in the message.
    expected : str
        The expected kind of file.
    *errors : subclass of Exception
        Errors of the format's reader on broken input, besides OSError.

    Raises
    ------
    DataError
        If the body raised OSError or one of `errors`; a `PipelineError` passes unchanged.
    """
    caught: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except PipelineError:
        raise
    except caught as error:
        raise DataError(
            f"{where}: expected {expected}, got {type(error).__name__} ({error}); "
            "check its permissions, or fetch or make it again"
        ) from error


@contextmanager
def optional_import(where: object) -> Iterator[None]:
    """Turn the failed import of an optional package into an error that says how to install it.

    Parameters
    ----------
    where : object
        The file that needs it.

    Raises
    ------
    ConfigError
        If the body imported a package that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{where}: needs the package {error.name}, which is not installed; pip install 'cntk-pipeline[images]'"
        ) from error
