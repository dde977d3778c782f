"""The interface of a place for the store, a directory or a bucket: nested names, and whole files.

Methods have the names of `pathlib` where it has a method for the same. No file is ever half there: `write_whole` and
`create_whole` make a file appear at once, with all its bytes, or not at all, and return when it is safe.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from cntk_pipeline.errors import ForeignFile

Buffer = bytes | memoryview


class Listed(NamedTuple):
    """A file in a listing.

    Attributes
    ----------
    bytes : int
        Its size.
    version : tuple
        Differs between all files that lie or lay in its place; appending changes it.
    """

    bytes: int
    version: tuple[Any, ...]


class Appender(ABC):
    """A writer of lines to a log of its own. Lines of a durable log are safe when `append` returns."""

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """Whether it is time to open another log: where files cannot grow, each append writes the whole log anew."""

    @abstractmethod
    def append(self, lines: bytes) -> None:
        """Add whole lines, newline included."""

    @abstractmethod
    def close(self) -> None:
        """Write lines that wait, and make lines of a durable log safe; nothing is appended afterwards."""


class StorePath(ABC):
    """A place in a store: a file, or a folder of files. Immutable; two objects for the same place are equal.

    `open_path` opens the text of `str` again, also in another process.

    Attributes
    ----------
    at_once : int
        Best number of threads for many queries. Threads that query a directory wait for Python's lock more than for the
        disk.
    """

    at_once: ClassVar[int] = 1

    @abstractmethod
    def __truediv__(self, name: str) -> "StorePath":
        """Return a place below this one; ``name`` may hold slashes.

        Raises
        ------
        ValueError
            If the name leads out of here.
        """

    @abstractmethod
    def joinpath(self, *names: str) -> "StorePath":
        """Return a place below this one, by one name per level."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of the name."""

    @property
    @abstractmethod
    def parent(self) -> "StorePath":
        """The folder that holds it."""

    @abstractmethod
    def absolute(self) -> "StorePath":
        """Return the same place, valid in any process on this machine."""

    # Reading.

    @abstractmethod
    def exists(self) -> bool:
        """Tell whether a file or a folder that is not empty exists; in a directory also a link or an empty folder."""

    @abstractmethod
    def is_file(self) -> bool:
        """Tell whether there is a file."""

    @abstractmethod
    def size(self) -> int | None:
        """Return the bytes of a file; None where there is no file."""

    @abstractmethod
    def version(self) -> tuple[Any, ...] | None:
        """Return a value that differs between all files that lie or lay in this place; None where there is none."""

    def age_seconds(self) -> float | None:
        """Return the time since a file was written, by the clocks of the store and of this machine, which may differ.

        None where there is no file, or the store does not know.
        """
        return None

    # These three read only files: `ForeignFile` where a link, a pipe, a device or a folder lies in the place.

    @abstractmethod
    def read_bytes(self, limit: int | None = None) -> bytes:
        """Read a file; `FileNotFoundError` where there is none.

        With a ``limit``, `ForeignFile` where it holds more bytes; they are not read.
        """

    @abstractmethod
    def read_from(self, offset: int, limit: int | None = None) -> bytes:
        """Read a file from a byte on; `FileNotFoundError` where there is none.

        With a ``limit``, at most so many bytes, and the first of them must be there.
        """

    def read_each(self, names: Sequence[str], offset: int, limit: int) -> list[bytes | None]:
        """Read the same bytes of files below a folder, as `read_from` does; None where no file lies in the place."""
        found: list[bytes | None] = []
        for name in names:
            try:
                found.append((self / name).read_from(offset, limit))
            except (FileNotFoundError, ForeignFile):
                found.append(None)
        return found

    @abstractmethod
    def mapped(
        self, known: tuple[Any, ...] | None = None, limit: int | None = None
    ) -> tuple[tuple[Any, ...], np.ndarray] | None:
        """Read a file's version and its content, ``(bytes,)`` uint8, read-only.

        A directory maps the file without a copy. None where the version is still the ``known`` one;
        `FileNotFoundError` where there is no file, `ForeignFile` as in `read_bytes`.
        """

    @abstractmethod
    def children(self) -> Iterator["StorePath"]:
        """List the files and folders in a folder, in the order of their names; none where there is no folder."""

    @abstractmethod
    def listing(self) -> dict[str, Listed]:
        """List all files below a folder, by their names relative to it ("c/0/1"), in one sweep."""

    @abstractmethod
    def sizes(self) -> Iterator[tuple[str, int]]:
        """List the names and bytes of all files below a folder, as `listing` does; there may be millions."""

    @abstractmethod
    def leads_out_of(self, root: "StorePath") -> bool:
        """Tell whether links lead from here to a place that does not lie below ``root``."""

    # Writing.

    @abstractmethod
    def write_whole(self, *parts: Buffer) -> None:
        """Write a file of one or more parts; an older file is replaced."""

    @abstractmethod
    def create_whole(self, content: bytes) -> bool:
        """Create a file with its content; of several calls at once, only the one that created it returns True."""

    @abstractmethod
    def make_whole(self, files: Iterable[tuple[str, tuple[Buffer, ...]]], last: str) -> None:
        """Write files below a new folder, each of one or more parts, by their names relative to it.

        The file named ``last`` appears only when all others exist. Of several calls at once with the same files, one
        or all write them.
        """

    @abstractmethod
    def appender(self, *, durable: bool) -> Appender:
        """Open a log that no other process adds to; a durable log must be new, otherwise `FileExistsError`."""

    @abstractmethod
    def move_to(self, target: "StorePath") -> None:
        """Move a file to another place in the same store; `FileNotFoundError` where it is gone."""

    @abstractmethod
    def share_with(self, target: "StorePath") -> None:
        """Give a file a second place, with shared bytes if the store can; `FileExistsError` if the place is taken.

        The place may be of another kind, such as a bucket: then it gets a copy.
        """

    def _copy_whole(self, target: "StorePath") -> None:
        """Copy a file to a place of any kind; `FileExistsError` if the place is taken."""
        if not target.create_whole(self.read_bytes()):
            raise FileExistsError(f"{target} exists")

    @abstractmethod
    def unlink(self, missing_ok: bool = False) -> None:
        """Delete a file."""

    @abstractmethod
    def remove_tree(self) -> None:
        """Delete everything below a folder; nothing where there is none."""

    @abstractmethod
    def sweep(self, folders: Iterable[str]) -> int:
        """Delete half-written files of killed writers, here and below folders of these names; return their number."""

    @abstractmethod
    def sync(self) -> None:
        """Make names in a folder safe that were made by `share_with`."""

    def shortcomings(self) -> tuple[str, ...]:
        """List the guarantees of a store that this place lacks, one line each, for people; none where all is well."""
        return ()

    def free_bytes(self) -> int | None:
        """Count the bytes that are free where this place is, or will be; None where no limit is known."""
        return None

    # For zarr, as a reader of this package's arrays.

    @abstractmethod
    def zarr_expression(self) -> str:
        """Return a Python expression of this folder as zarr reads it, for people who open arrays by themselves."""
