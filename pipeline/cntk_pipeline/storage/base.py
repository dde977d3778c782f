"""What the store asks of the place that it lies in, a directory or a bucket: names below one another, and whole files.

The names are those of `pathlib` where it has one for the same. Nothing here is ever half there: `write_whole` and
`create_whole` make a file appear at once, with all its bytes, or not at all, and return when it is safe.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np

Buffer = bytes | memoryview


class Listed(NamedTuple):
    """A file in a listing.

    Attributes
    ----------
    bytes : its size.
    version : tells it from any other that lies or lay in its place; what was appended to is another.
    """

    bytes: int
    version: tuple[Any, ...]


class Appender(ABC):
    """Adds lines to a log of its own. Lines of a durable one are safe when `append` returns."""

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """Whether it is time to open another log: where a file cannot grow, it is written anew each time."""

    @abstractmethod
    def append(self, lines: bytes) -> None:
        """Add whole lines, newline included."""

    @abstractmethod
    def close(self) -> None:
        """Make what was added safe, as far as that was promised; nothing is appended afterwards."""


class StorePath(ABC):
    """A place in a store: a file, or a folder of such. Immutable; two that name the same are equal.

    `str` writes it so that `open_path` finds it again in another process.

    Attributes
    ----------
    at_once : questions that are best asked at once, where there are many. Threads that ask a directory wait for
        Python's lock more than for the disk.
    """

    at_once: ClassVar[int] = 1

    @abstractmethod
    def __truediv__(self, name: str) -> "StorePath":
        """Name what lies below; ``name`` may hold slashes.

        Raises
        ------
        ValueError
            If the name leads out of here.
        """

    @abstractmethod
    def joinpath(self, *names: str) -> "StorePath":
        """Name what lies below, a folder at a time."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part."""

    @property
    @abstractmethod
    def parent(self) -> "StorePath":
        """The folder that holds it."""

    @abstractmethod
    def absolute(self) -> "StorePath":
        """The same place, as any process on this machine understands it."""

    # Reading.

    @abstractmethod
    def exists(self) -> bool:
        """Tell whether there is a file, or a folder with something in it; in a directory anything, also a link."""

    @abstractmethod
    def is_file(self) -> bool:
        """Tell whether there is a file."""

    @abstractmethod
    def size(self) -> int | None:
        """Bytes of a file; None where there is none, or something else."""

    @abstractmethod
    def version(self) -> tuple[Any, ...] | None:
        """Tell a file from any other that lies or lay in its place; None where there is none."""

    # These three read nothing but files: `ForeignFile` where a link, a pipe, a device or a folder lies in the place.

    @abstractmethod
    def read_bytes(self, limit: int | None = None) -> bytes:
        """Read a file; `FileNotFoundError` where there is none.

        With a ``limit``, `ForeignFile` where it holds more bytes, which are not read.
        """

    @abstractmethod
    def read_from(self, offset: int, limit: int | None = None) -> bytes:
        """Read a file from a byte on; `FileNotFoundError` where there is none.

        With a ``limit``, at most so many bytes, and the first of them must be there.
        """

    @abstractmethod
    def mapped(
        self, known: tuple[Any, ...] | None = None, limit: int | None = None
    ) -> tuple[tuple[Any, ...], np.ndarray] | None:
        """Read a file's version and its content as ``(bytes,)`` uint8 that is not written to.

        A directory maps it, and nothing is copied. None where the version is still the ``known`` one;
        `FileNotFoundError` where there is no file, `ForeignFile` as in `read_bytes`.
        """

    @abstractmethod
    def children(self) -> Iterator["StorePath"]:
        """List the files and folders in a folder, in the order of their names; nothing where there is none."""

    @abstractmethod
    def listing(self) -> dict[str, Listed]:
        """List all files below a folder, by their names from there on ("c/0/1"), in one sweep."""

    @abstractmethod
    def leads_out_of(self, root: "StorePath") -> bool:
        """Tell whether links lead from here to a place that does not lie below ``root``."""

    # Writing.

    @abstractmethod
    def write_whole(self, *parts: Buffer) -> None:
        """Write a file of one or more parts, in the place of the one that is there."""

    @abstractmethod
    def create_whole(self, content: bytes) -> bool:
        """Create a file with its content, and tell whether it was this call: of several at once one returns True."""

    @abstractmethod
    def make_whole(self, files: Iterable[tuple[str, tuple[Buffer, ...]]], last: str) -> None:
        """Write files below a new folder, each of one or more parts, by their names from there on.

        ``last`` names one of them that is there only when all are. Of several at once, with the same files, one or all
        write them.
        """

    @abstractmethod
    def appender(self, *, durable: bool) -> Appender:
        """Open a log that no other process adds to; a durable one is new, `FileExistsError` where it is not."""

    @abstractmethod
    def move_to(self, target: "StorePath") -> None:
        """Move a file to another place in the same store; `FileNotFoundError` where it is gone."""

    @abstractmethod
    def share_with(self, target: "StorePath") -> None:
        """Give a file a second place, sharing its bytes where the store can; `FileExistsError` where one is there."""

    @abstractmethod
    def unlink(self, missing_ok: bool = False) -> None:
        """Delete a file."""

    @abstractmethod
    def remove_tree(self) -> None:
        """Delete everything below a folder; nothing where there is none."""

    @abstractmethod
    def sweep(self, folders: Iterable[str]) -> int:
        """Delete what killed writers left half-written here, and below folders of these names; return how many."""

    @abstractmethod
    def sync(self) -> None:
        """Make the names in a folder safe that `share_with` made."""

    def shortcomings(self) -> tuple[str, ...]:
        """Say in a line each what the place does not promise that stores do, for people; nothing where all is well."""
        return ()

    # For zarr, which reads what this package wrote.

    @abstractmethod
    def zarr_store(self) -> Any:
        """Open a folder for zarr, to be read."""

    @abstractmethod
    def zarr_expression(self) -> str:
        """Write in Python what `zarr_store` returns, for people who open arrays by themselves."""
