"""Receipts of finished tiles, and the journal that keeps them.

A receipt is written after its data, so a line in the journal means that the tile was on disk. Each driver
writes a segment of its own; lines carry a checksum, and one that was torn by a crash is dropped.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import google_crc32c

from pipeline.errors import StoreError
from pipeline.storage import Appender, Listed, StorePath


@dataclass(frozen=True, order=True, slots=True)
class Task:
    """One unit of work and of resume: a tile of a stage."""

    stage: str
    row: int
    col: int

    def __str__(self) -> str:
        return f"{self.stage} tile ({self.row}, {self.col})"


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a task wrote into one array: bytes on disk, their crc32c, and a digest of the values, 128 bits of XXH3."""

    array: str
    bytes: int
    crc32c: int
    xxh3: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a worker says of a tile it has written.

    Attributes
    ----------
    task : which tile.
    chunks : what lies on disk, an entry an array.
    read_seconds, compute_seconds, write_seconds : measured inside the task.
    host : where.
    adopted : True where the tile was not computed for this receipt: found complete on disk, its own lost in a crash, or
        taken over from another run.
    """

    task: Task
    chunks: tuple[Chunk, ...]
    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    write_seconds: float = 0.0
    host: str = ""
    adopted: bool = False

    @property
    def seconds(self) -> float:
        """Time inside the task."""
        return self.read_seconds + self.compute_seconds + self.write_seconds

    @property
    def written_bytes(self) -> int:
        """Bytes on disk."""
        return sum(chunk.bytes for chunk in self.chunks)

    def to_line(self) -> bytes:
        """Write the receipt as a line: JSON, a tab, the crc32c of the JSON."""
        text = json.dumps(asdict(self), separators=(",", ":"), sort_keys=True).encode()
        return text + b"\t%08x\n" % google_crc32c.value(text)

    @classmethod
    def from_line(cls, line: bytes) -> "Receipt | None":
        """Read a line back; None where it is torn or damaged."""
        text, _, checksum = line.rstrip(b"\n").rpartition(b"\t")
        if not line.endswith(b"\n") or checksum != b"%08x" % google_crc32c.value(text):
            return None
        fields: dict[str, Any] = json.loads(text)
        # A run has few arrays, stages and hosts and many receipts: each name is kept once.
        chunks = tuple(Chunk(**chunk | {"array": sys.intern(chunk["array"])}) for chunk in fields.pop("chunks"))
        task = fields.pop("task")
        task["stage"], fields["host"] = sys.intern(task["stage"]), sys.intern(fields["host"])
        return cls(task=Task(**task), chunks=chunks, **fields)


@dataclass
class _Segment:
    """What has been read of a segment: its whole lines up to a position, by the first of which it is known again."""

    version: tuple[Any, ...] = ()
    first_line: bytes = b""
    bytes_read: int = 0
    receipts: list[Receipt] = field(default_factory=list)


class Journal:
    """The receipts of a run directory.

    Parameters
    ----------
    folder : where the segments lie; made by the first `append`.
    """

    def __init__(self, folder: StorePath) -> None:
        self.folder = folder
        self._segment: Appender | None = None
        self._known: dict[str, _Segment] = {}

    def receipts(self) -> Iterator[Receipt]:
        """Read all whole lines of all segments, oldest first; a tile may occur more than once.

        Lines that were read before are remembered: a solver that iterates asks once an iteration.
        """
        listing = self.folder.listing()
        for name in sorted(name for name in listing if name.endswith(_SUFFIX)):
            known = self._known.setdefault(name, _Segment())
            if listing[name].version != known.version:
                known = self._known[name] = _read_on(self.folder / name, listing[name], known)
            yield from list(known.receipts)

    def append(self, receipts: Sequence[Receipt]) -> None:
        """Write receipts to this driver's segment and wait until they are safe.

        Raises
        ------
        StoreError
            If they cannot be written.
        """
        try:
            if self._segment is not None and self._segment.is_full:
                self.close()
            if self._segment is None:
                self._segment = self._open_segment()
            self._segment.append(b"".join(receipt.to_line() for receipt in receipts))
        except StoreError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(
                error.errno, f"cannot write the journal in {self.folder} ({reason}); finished tiles are kept"
            ) from error

    def close(self) -> None:
        """Close this driver's segment."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _open_segment(self) -> Appender:
        numbers = [int(path.name.removesuffix(_SUFFIX)) for path in self.folder.children() if _is_segment(path.name)]
        number = max(numbers, default=0)
        while True:  # two drivers can never share a segment: a durable log is new
            number += 1
            try:
                return (self.folder / f"{number:06d}{_SUFFIX}").appender(durable=True)
            except FileExistsError:
                continue


_SUFFIX = ".jsonl"


def _is_segment(name: str) -> bool:
    return name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX).isdigit()


def _read_on(path: StorePath, listed: Listed, known: _Segment) -> _Segment:
    """Read the lines that were added to a segment, or all of one that stands in the place of another."""
    try:
        if listed.bytes < known.bytes_read or path.read_from(0, len(known.first_line)) != known.first_line:
            known = _Segment()
        content = path.read_from(known.bytes_read)
    except FileNotFoundError:  # deleted since it was listed
        return _Segment()
    known.version = listed.version
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break  # torn by a crash, or being written right now
        known.first_line = known.first_line or line
        known.bytes_read += len(line)
        receipt = Receipt.from_line(line)
        if receipt is not None:
            known.receipts.append(receipt)
    return known


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Run an action; return its result and the seconds it took."""
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start
