"""A bucket as a store, by obstore: every object appears whole, and only `create_whole` is exclusive.

Credentials, region and endpoint come from the environment of each process (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ...), never from a workflow or a run. Claims rest on ``If-None-Match: *`` alone: servers compare
versions in different ways, some not at all. Obstore repeats requests after transient errors, for some minutes.
"""

import contextlib
import datetime
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np

from cntk_pipeline.errors import ConfigError, ForeignFile, PipelineError, StoreError, StoreUnavailable
from cntk_pipeline.storage.base import Appender, Buffer, Listed, StorePath
from cntk_pipeline.units import python_text

SEGMENT_BYTES = 256 * 2**10
"""A log is an object that each `append` writes anew; at this size another one is begun."""

UNSAFE_SECONDS = 10.0
"""Time that lines of a log that is not durable may wait to be written."""

_METADATA_SERVICE = "/latest/api/token"
"""Path of the machine's own service for credentials; obstore asks it if the environment names none."""

_T = TypeVar("_T")


class ObjectPath(StorePath):
    """A place below ``s3://bucket/``.

    Parameters
    ----------
    bucket : str
        Its name.
    key : str
        Of the object, or the common prefix of the keys in a folder, without a slash at either end.
    """

    at_once = 16

    def __init__(self, bucket: str, key: str) -> None:
        self.bucket, self.key = bucket, key

    @classmethod
    def parse(cls, url: str) -> "ObjectPath":
        """Read ``s3://bucket/key``.

        Raises
        ------
        ConfigError
            If it has no bucket or no key, or further parts.
        """
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([A-Za-z0-9!_.*'()/=+-]+?)/*", url)
        parts = match[2].split("/") if match else []
        if match is None or any(part in ("", ".", "..") for part in parts):
            shown = re.sub(r"//[^/@]*@", "//...@", url)
            raise ConfigError(
                f"{shown} is no place in a bucket: expected s3://bucket/some/name; credentials and endpoint belong "
                "into the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
            )
        return cls(match[1], match[2])

    def __truediv__(self, name: str) -> "ObjectPath":
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise ValueError(f"{name!r} leads out of {self}")
        return ObjectPath(self.bucket, f"{self.key}/{name}")

    def joinpath(self, *names: str) -> "ObjectPath":
        return self / "/".join(names) if names else self

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: "ObjectPath") -> bool:
        return str(self) < str(other)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> "ObjectPath":
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    def absolute(self) -> "ObjectPath":
        return self

    def exists(self) -> bool:
        return self.is_file() or next(self.children(), None) is not None

    def is_file(self) -> bool:
        return self._head() is not None

    def is_dir(self) -> bool:
        """Tell whether there is an object below."""
        return next(self.children(), None) is not None

    def size(self) -> int | None:
        head = self._head()
        return None if head is None else int(head["size"])

    def version(self) -> tuple[Any, ...] | None:
        head = self._head()
        return None if head is None else _version(head)

    def age_seconds(self) -> float | None:
        head = self._head()
        if head is None:
            return None
        return (datetime.datetime.now(datetime.UTC) - head["last_modified"]).total_seconds()

    def read_bytes(self, limit: int | None = None) -> bytes:
        return self._ask(lambda obstore, store: bytes(self._bounded(obstore.get(store, self.key), limit).bytes()))

    def read_from(self, offset: int, limit: int | None = None) -> bytes:
        if limit is None:  # servers refuse a range that begins at the end
            size = self.size()
            if size is None:
                raise FileNotFoundError(f"{self} does not exist")
            limit = max(size - offset, 0)
        if limit == 0:
            return b""
        return self._ask(lambda obstore, store: bytes(obstore.get_range(store, self.key, start=offset, length=limit)))

    def mapped(
        self, known: tuple[Any, ...] | None = None, limit: int | None = None
    ) -> tuple[tuple[Any, ...], np.ndarray] | None:
        options = {} if known is None else {"if_none_match": known[0]}

        def get(obstore: Any, store: Any) -> tuple[tuple[Any, ...], np.ndarray] | None:
            try:
                found = obstore.get(store, self.key, options=options)
            except obstore.exceptions.NotModifiedError:
                return None
            return _version(found.meta), np.frombuffer(self._bounded(found, limit).bytes(), np.uint8)

        return self._ask(get)

    def children(self) -> Iterator["ObjectPath"]:
        prefix = f"{self.key}/"
        found = self._ask(lambda obstore, store: obstore.list_with_delimiter(store, prefix))
        keys = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        return (ObjectPath(self.bucket, key.rstrip("/")) for key in sorted(keys))

    def listing(self) -> dict[str, Listed]:
        prefix = f"{self.key}/"
        pages = self._ask(lambda obstore, store: list(obstore.list(store, prefix, chunk_size=1000)))
        return {
            entry["path"].removeprefix(prefix): Listed(int(entry["size"]), _version(entry))
            for page in pages
            for entry in page
        }

    def sizes(self) -> Iterator[tuple[str, int]]:
        begin = len(self.key) + 1

        def ask(obstore: Any, store: Any) -> list[tuple[str, int]]:
            pages = obstore.list(store, f"{self.key}/", chunk_size=1000)
            return [(entry["path"][begin:], int(entry["size"])) for page in pages for entry in page]

        return iter(self._ask(ask))

    def leads_out_of(self, root: StorePath) -> bool:
        return False

    def write_whole(self, *parts: Buffer) -> None:
        content = b"".join(parts)
        self._ask(lambda obstore, store: obstore.put(store, self.key, content, use_multipart=False))

    def create_whole(self, content: bytes) -> bool:
        # The answer to a first attempt may have been lost: then the object there is this one.
        return self.create_new(content) or self.read_bytes() == content

    def create_new(self, content: bytes) -> bool:
        """Create as `create_whole` does, but count an object with the same content as foreign."""

        def create(obstore: Any, store: Any) -> bool:
            try:
                obstore.put(store, self.key, content, mode="create", use_multipart=False)
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError, FileExistsError):
                return False
            return True

        return self._ask(create)

    def make_whole(self, files: Iterable[tuple[str, tuple[Buffer, ...]]], last: str) -> None:
        kept: tuple[Buffer, ...] = ()
        for name, parts in files:
            if name == last:
                kept = parts
            else:
                (self / name).write_whole(*parts)
        (self / last).write_whole(*kept)

    def appender(self, *, durable: bool) -> Appender:
        return _ObjectAppender(self, durable)

    def move_to(self, target: StorePath) -> None:
        self._copy_to(target, overwrite=True)
        self.unlink()

    def share_with(self, target: StorePath) -> None:
        self._copy_to(target, overwrite=False)

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(f"{self} does not exist")
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda obstore, store: obstore.delete(store, self.key))

    def remove_tree(self) -> None:
        keys = [f"{self.key}/{name}" for name in self.listing()]
        for begin in range(0, len(keys), 1000):
            chosen = keys[begin : begin + 1000]
            with contextlib.suppress(FileNotFoundError):
                self._ask(partial(_delete, chosen))

    def sweep(self, folders: Iterable[str]) -> int:
        return 0  # bytes of a killed writer never became an object

    def sync(self) -> None:
        pass

    def zarr_expression(self) -> str:
        store = f"obstore.store.S3Store({python_text(self.bucket)}, prefix={python_text(self.key)})"
        return f"zarr.storage.ObjectStore({store}, read_only=True)"

    def _copy_to(self, target: StorePath, *, overwrite: bool) -> None:
        if isinstance(target, ObjectPath) and self.bucket == target.bucket:
            # Servers differ in copies that must not overwrite; an exclusive claim of the name is not needed.
            if not overwrite and target.is_file():
                raise FileExistsError(f"{target} exists")
            self._ask(lambda obstore, store: obstore.copy(store, self.key, target.key))
        elif overwrite:
            target.write_whole(self.read_bytes())
        else:
            self._copy_whole(target)

    def _bounded(self, found: Any, limit: int | None) -> Any:
        """Return an answer whose bytes are not read yet, if they are not too many."""
        if limit is not None and int(found.meta["size"]) > limit:
            raise ForeignFile(f"{self} has more than the {limit} bytes that belong there: move it away")
        return found

    def _head(self) -> Any:
        try:
            return self._ask(lambda obstore, store: obstore.head(store, self.key))
        except FileNotFoundError:
            return None

    def _ask(self, question: Callable[[Any, Any], _T]) -> _T:
        """Query the bucket; errors become errors that the driver knows: `StoreUnavailable` is tried again."""
        obstore, store = _obstore(), _open_bucket(self.bucket, "")
        final = obstore.exceptions
        try:
            return question(obstore, store)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise StoreError(
                    f"there is no bucket {self.bucket!r}: make it, or name another in store.path"
                ) from None
            raise FileNotFoundError(f"{self} does not exist") from None
        except (final.PermissionDeniedError, final.UnauthenticatedError, PermissionError) as error:
            raise StoreError(
                f"{self} may not be read or written with the credentials of this process ({_reason(error)}): "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for the driver and the workers"
            ) from None
        except final.BaseError as error:
            if _METADATA_SERVICE in str(error):
                raise StoreError(
                    f"no credentials for {self}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL "
                    "where it is not Amazon's, for the driver and the workers"
                ) from None
            raise StoreUnavailable(f"{self}: {_reason(error)}") from None


class _ObjectAppender(Appender):
    """An appender that keeps all lines of an object and writes it whole: at once if durable, otherwise now and then."""

    def __init__(self, path: ObjectPath, durable: bool) -> None:
        self._path, self._durable = path, durable
        self._lines: list[bytes] = []
        self._bytes = self._part = 0
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        if durable and not path.create_new(b""):
            raise FileExistsError(f"{path} exists")

    @property
    def is_full(self) -> bool:
        return self._bytes >= SEGMENT_BYTES

    def append(self, lines: bytes) -> None:
        with self._lock:
            if not self._durable and self.is_full:
                self._write()
                self._part += 1
                self._lines, self._bytes = [], 0
            self._lines.append(lines)
            self._bytes += len(lines)
            if self._durable:
                self._write()
            elif self._timer is None:
                self._timer = threading.Timer(UNSAFE_SECONDS, self._write_waiting)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._write()

    def _write_waiting(self) -> None:
        """Write lines that have waited long enough, even if the process appends no more."""
        with self._lock, contextlib.suppress(OSError, PipelineError):  # the next lines bring these along
            self._write()

    def _write(self) -> None:
        self._timer = None
        path = self._path
        if self._part:
            path = path.parent / f"{path.stem}.{self._part}.jsonl"
        path.write_whole(*self._lines)


def _delete(keys: list[str], obstore: Any, store: Any) -> None:
    obstore.delete(store, keys)


def _version(entry: Any) -> tuple[Any, ...]:
    return entry["e_tag"], int(entry["size"])


def _reason(error: BaseException) -> str:
    """Return the first line of obstore's message, without its details of the request."""
    return re.sub(r"\s+", " ", str(error).partition("\n")[0])[:300]


def _obstore() -> Any:
    try:
        import obstore
    except ImportError as error:
        raise ConfigError("a run directory on s3:// needs obstore: pip install 'cntk-pipeline[s3]'") from error
    return obstore


def _open_bucket(bucket: str, prefix: str) -> Any:
    """Open a bucket; the environment has its endpoint and the credentials."""
    _obstore()
    return _open(bucket, prefix, tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))


@cache
def _open(bucket: str, prefix: str, environment: tuple[tuple[str, str], ...]) -> Any:
    """Open a bucket once per process, prefix and environment, which a program may set anew: tokens end after hours."""
    from obstore.store import S3Store

    return S3Store(bucket, prefix=prefix or None)
