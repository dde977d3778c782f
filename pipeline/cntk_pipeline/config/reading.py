"""Reading of TOML files and values as people write them: bounded in size; errors name the place."""

import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cntk_pipeline.config.section import expand_place
from cntk_pipeline.errors import ConfigError

LARGEST_BYTES = 2**20
"""Largest size of a workflow file: a file with 20,000 layers takes as much."""

DEEPEST = 100
"""Largest depth of tables and lists within one another; a branch of a network takes two. Python's limit is some 300."""

WHOLE_NUMBERS = range(-(2**63), 2**63)
"""Integers that every reader of TOML supports."""


def read_toml(path: str | Path, what: str) -> dict[str, Any]:
    """Read a TOML file.

    Parameters
    ----------
    path : str or Path
        Of a regular file.
    what : str
        The kind of file, for messages.

    Raises
    ------
    ConfigError
        If it cannot be read, is no regular file, no text in UTF-8 or no TOML, or is larger or deeper than the bounds.
    """
    try:
        place = Path(expand_place(str(path)))
    except ValueError as error:
        raise ConfigError(f"cannot read the {what} {str(path)!r}: {error}") from None
    content = _read_bounded(place, what)
    try:
        text = content.decode("utf-8-sig")  # editors on Windows begin a file with a byte-order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise ConfigError(
            f"{path} is no text in UTF-8 (byte {content[error.start]:#04x}, line {line}, column {column}): "
            "save it in this encoding"
        ) from None
    return parse_toml(text, f"{path} is not valid TOML")


def parse_toml(text: str, otherwise: str) -> dict[str, Any]:
    """Parse TOML; ``otherwise`` begins the message of an error.

    Raises
    ------
    ConfigError
        If it is not TOML, or has numbers or a depth beyond the bounds.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{otherwise}: {error}") from error
    except RecursionError:
        raise ConfigError(f"{otherwise}: {_too_deep()}") from None
    except ValueError as error:  # Python's own limit of digits
        raise ConfigError(f"{otherwise}: a number is too long ({error})") from error
    for place, value, depth in _walk(table):
        if depth > DEEPEST:
            raise ConfigError(f"{otherwise}: {place}: {_too_deep()}")
        if isinstance(value, int) and value not in WHOLE_NUMBERS:
            raise ConfigError(f"{otherwise}: {place}: a whole number has at most 64 bits")
    return table


def _too_deep() -> str:
    return f"lists and tables lie more than {DEEPEST} deep within one another"


def _walk(table: dict[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """List all values in a table with their places and depths; without recursion, which has its own limit."""
    waiting: list[tuple[str, Any, int]] = [(key, value, 1) for key, value in table.items()]
    while waiting:
        place, value, depth = waiting.pop()
        yield place, value, depth
        top = place.partition(".")[0].partition("[")[0]
        if isinstance(value, dict):
            waiting += [(f"{place}.{key}" if depth < 10 else top, inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{place}[{k}]" if depth < 10 else top, inner, depth + 1) for k, inner in enumerate(value)]


def _read_bounded(path: Path, what: str) -> bytes:
    try:
        # Reading a FIFO would wait, and reading a device might never end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise ConfigError(f"cannot read the {what} {path}: it is a folder; name the file in it")
            if not stat.S_ISREG(mode):
                raise ConfigError(f"cannot read the {what} {path}: it is a device or a pipe; name a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(LARGEST_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from error
    if len(content) > LARGEST_BYTES:
        raise ConfigError(f"cannot read the {what} {path}: it is larger than {LARGEST_BYTES} bytes, which none needs")
    return content
