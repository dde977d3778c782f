"""A directory as a store: files are written aside, fsynced and renamed, and names in directories are fsynced too."""

import contextlib
import errno
import itertools
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PosixPath
from typing import Any, BinaryIO

import numpy as np

from cntk_pipeline.errors import ForeignFile, StoreError
from cntk_pipeline.storage.base import Appender, Buffer, Listed, StorePath
from cntk_pipeline.storage.lacking import NO_LINK, give_name, keep_names, map_file
from cntk_pipeline.storage.retries import explained, patient, patiently
from cntk_pipeline.units import python_text

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""Kinds of objects that may lie in the place of a file."""

_PIECE_BYTES = 2**16

_PARTIAL = ".partial"

_ASIDE = re.compile(r".+\.[0-9a-f]{32}\.partial", re.DOTALL)
"""Names of files being written; only `LocalPath.sweep` looks at them. Foreign files may have similar names."""


class LocalPath(PosixPath, StorePath):  # type: ignore[misc]
    """A `pathlib.Path` that writes as a store needs it."""

    def exists(self, **options: Any) -> bool:
        return self.version() is not None

    def is_file(self) -> bool:
        status = self._status()
        return status is not None and stat.S_ISREG(status.st_mode)

    def size(self) -> int | None:
        status = self._status()
        return None if status is None or not stat.S_ISREG(status.st_mode) else status.st_size

    def version(self) -> tuple[Any, ...] | None:
        status = self._status()
        return None if status is None else _version(status)

    def age_seconds(self) -> float | None:
        status = self._status()
        return None if status is None else time.time() - status.st_mtime

    @patient
    def read_bytes(self, limit: int | None = None) -> bytes:
        with self._opened(limit) as file:
            return _whole(file, self, limit)

    @patient
    def read_from(self, offset: int, limit: int | None = None) -> bytes:
        with self._opened() as file:
            file.seek(offset)
            return file.read() if limit is None else file.read(limit)

    @patient
    def read_each(self, names: Sequence[str], offset: int, limit: int) -> list[bytes | None]:
        # A resume reads every chunk so: a path and a file of Python for each would take longer than the rest of it.
        found: list[bytes | None] = []
        for name in names:
            try:
                descriptor = _open(f"{self}/{name}")
            except (FileNotFoundError, ForeignFile):
                found.append(None)
                continue
            try:
                found.append(os.pread(descriptor, limit, offset))
            finally:
                os.close(descriptor)
        return found

    @patient
    def mapped(
        self, known: tuple[Any, ...] | None = None, limit: int | None = None
    ) -> tuple[tuple[Any, ...], np.ndarray] | None:
        if known is not None and _version(self.lstat()) == known:
            return None
        with self._opened(limit) as file:  # another file may take its name meanwhile
            status = os.fstat(file.fileno())
            if status.st_size == 0:  # an empty file cannot be mapped
                return _version(status), np.empty(0, np.uint8)
            return _version(status), map_file(file)

    @patient
    def children(self) -> Iterator["LocalPath"]:
        try:
            names = sorted(os.listdir(self))
        except FileNotFoundError:
            return iter(())
        return (self / name for name in names if not _ASIDE.fullmatch(name))

    def listing(self) -> dict[str, Listed]:
        return {name: Listed(status.st_size, _version(status)) for name, status in self._files()}

    def sizes(self) -> Iterator[tuple[str, int]]:
        return ((name, status.st_size) for name, status in self._files())

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """List all files below, a folder at a time."""
        folders = [""]
        while folders:
            below = folders.pop()
            names, found = self._folder(below)
            folders += names
            yield from found

    @patient
    def _folder(self, below: str) -> tuple[list[str], list[tuple[str, os.stat_result]]]:
        """List the folders and the files in a folder, by their names relative to this one."""
        folders, files = [], []
        with contextlib.suppress(FileNotFoundError), os.scandir(self / below) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{below}{entry.name}/")
                elif not entry.name.endswith(_PARTIAL) or not _ASIDE.fullmatch(entry.name):
                    try:  # contextlib.suppress would take as long as the look
                        files.append((below + entry.name, entry.stat(follow_symlinks=False)))
                    except FileNotFoundError:
                        continue
        return folders, files

    def leads_out_of(self, root: StorePath) -> bool:
        return not Path(os.path.realpath(self)).is_relative_to(os.path.realpath(str(root)))

    @patient
    def write_whole(self, *parts: Buffer) -> None:
        _make_folder(self.parent)
        aside = self._aside()
        try:
            _write_synced(aside, parts)
            os.replace(aside, self)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        keep_names(self.parent)  # where this fails for the moment, all of it is done again

    def create_whole(self, content: bytes) -> bool:
        attempts = itertools.count()

        def attempt() -> bool:
            is_first = next(attempts) == 0
            if self._create(content):
                return True
            if is_first or self.read_bytes() != content:
                return False
            keep_names(self.parent)  # an attempt before has made the file, and failed after that
            return True

        return patiently(attempt, self)

    def _create(self, content: bytes) -> bool:
        _make_folder(self.parent)
        while True:
            aside = self._aside()
            try:
                _write_synced(aside, [content])
                give_name(aside, self)
            except FileExistsError:
                return False
            except FileNotFoundError:
                # The holder of the lease may sweep this file: drivers write some files before they hold it.
                if aside.exists():
                    raise
                continue
            finally:
                aside.unlink(missing_ok=True)
            keep_names(self.parent)
            return True

    @explained
    def make_whole(self, files: Iterable[tuple[str, tuple[Buffer, ...]]], last: str) -> None:
        aside = self._aside()
        _make_folder(aside)
        folders, written = set(), b""
        try:
            for name, parts in files:
                if name == last:
                    written = b"".join(parts)
                folders.add((aside / name).parent)
                _make_folder((aside / name).parent)
                _write_synced(aside / name, parts)
            for folder in folders:
                folder.sync()
            os.rename(aside, self)
        except BaseException as error:
            shutil.rmtree(aside, ignore_errors=True)
            if not isinstance(error, OSError) or not (self / last).exists():
                raise
            # Otherwise another driver was first, with the same content.
            self.parent.sync()
            return
        self.parent.sync()
        if not (self / last).exists() or (self / last).read_bytes() != written:
            raise StoreError(
                errno.EIO,
                f"the file system of {self} loses what is in a folder when it is renamed: no run can lie there. Choose "
                "another place (--store), which may be a bucket",
            )

    @explained
    def appender(self, *, durable: bool) -> Appender:
        _make_folder(self.parent)
        return _LocalAppender(self, durable)

    @patient
    def move_to(self, target: StorePath) -> None:
        assert isinstance(target, LocalPath)
        _make_folder(target.parent)
        os.replace(self, target)

    @explained
    def share_with(self, target: StorePath) -> None:
        if not isinstance(target, LocalPath):
            self._copy_whole(target)
            return
        _make_folder(target.parent)
        try:
            os.link(self, target)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            target.write_whole(self.read_bytes())

    @patient
    def unlink(self, missing_ok: bool = False) -> None:
        super().unlink(missing_ok)

    def remove_tree(self) -> None:
        shutil.rmtree(self, ignore_errors=True)

    def sweep(self, folders: Iterable[str]) -> int:
        count = 0
        here = itertools.islice(os.walk(self), 1)  # os.walk allows names to vanish meanwhile
        for folder, below, files in itertools.chain(here, *(os.walk(self / name) for name in folders)):
            swept = list(filter(_ASIDE.fullmatch, below))
            below[:] = [name for name in below if name not in swept]
            for name in swept:
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
            for name in filter(_ASIDE.fullmatch, files):
                swept.append(name)
                (LocalPath(folder) / name).unlink(missing_ok=True)
            count += len(swept)
        return count

    @explained
    def sync(self) -> None:
        keep_names(self)

    @explained
    def shortcomings(self) -> tuple[str, ...]:
        if keep_names(self):
            return ()
        return (
            f"the file system of {self} does not make names safe on demand (fsync of folders): where its machine loses "
            "its power, more than the tiles in flight may be computed again",
        )

    def free_bytes(self) -> int | None:
        place = next((each for each in (Path(self.absolute()), *Path(self.absolute()).parents) if each.exists()), None)
        return None if place is None else shutil.disk_usage(place).free

    def zarr_expression(self) -> str:
        return python_text(self)

    @patient
    def _status(self) -> os.stat_result | None:
        try:
            return self.lstat()  # a link in a run directory is not this package's
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _opened(self, limit: int | None = None) -> BinaryIO:
        """Open a file for reading, as a file of Python."""
        return os.fdopen(_open(str(self), limit), "rb")

    def _aside(self) -> "LocalPath":
        return self.with_name(f"{self.name}.{uuid.uuid4().hex}.partial")


class _LocalAppender(Appender):
    """An appender to the end of a file; a durable one creates the file, so that two can never share it."""

    def __init__(self, path: LocalPath, durable: bool) -> None:
        self._path, self._durable = path, durable
        exclusive = os.O_EXCL if durable else 0
        self._file = os.open(path, os.O_CREAT | exclusive | os.O_APPEND | os.O_WRONLY, 0o666)
        if durable:
            path.parent.sync()

    @property
    def is_full(self) -> bool:
        return False

    def append(self, lines: bytes) -> None:
        patiently(lambda: self._append(lines), self._path, ())

    def _append(self, lines: bytes) -> None:
        before = os.fstat(self._file).st_size
        left = memoryview(lines)
        try:
            while left:  # a disk that gets full takes a part first, and fails only at the rest
                left = left[os.write(self._file, left) :]
        except OSError:
            os.ftruncate(self._file, before)
            raise
        if self._durable:
            os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def _make_folder(path: Path) -> None:
    """Make a folder and its parents, and make their names safe."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file where the folder should be", str(path)) from None
        # Otherwise another process was first, and may not have reached the next line.
    except FileNotFoundError:
        raise _takes_no_names(path.parent) from None
    LocalPath(path.parent).sync()


def _open(path: str, limit: int | None = None) -> int:
    """Open a file for reading. A pipe is not waited for; other objects are not even opened."""
    _require_file(path, os.lstat(path), limit)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_file(path, os.fstat(descriptor), limit)  # another object may lie there by now
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_file(path: str, status: os.stat_result, limit: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise ForeignFile(f"{path} is {kind} where a file belongs: move it away")
    if limit is not None and status.st_size > limit:
        raise _too_large(path, limit)


def _version(status: os.stat_result) -> tuple[Any, ...]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _whole(file: BinaryIO, path: Path, limit: int | None) -> bytes:
    """Read a file that may grow meanwhile."""
    if limit is None:
        return file.read()
    content = bytearray()
    # Piece by piece: one read of the limit would take its memory for a file of some bytes.
    while len(content) <= limit and (piece := file.read(min(limit + 1 - len(content), _PIECE_BYTES))):
        content += piece
    if len(content) > limit:
        raise _too_large(path, limit)
    return bytes(content)


def _too_large(path: Path | str, limit: int) -> ForeignFile:
    return ForeignFile(f"{path} has more than the {limit} bytes that belong there: move it away")


def _takes_no_names(folder: Path) -> StoreError:
    """Make the error for a new name that a folder does not know: for readers, a `FileNotFoundError` is an answer."""
    return StoreError(
        errno.ENOENT,
        f"{folder} takes no new files: it was deleted at this moment, or its file system has none but its own. Bring "
        "it back or name another place, then the same command again",
    )


def _write_synced(path: Path, parts: Iterable[Buffer]) -> None:
    try:
        file = open(path, "wb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        raise _takes_no_names(path.parent) from None
    with file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
