"""Receipts of finished tiles, and the journal that keeps them.

A receipt is written after its data, so a line in the journal means that the tile was on disk. Each driver
writes a segment of its own; lines carry a checksum, and one that was torn by a crash is dropped.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import google_crc32c
from pydantic import AfterValidator, Field, with_config

from pipeline.errors import StoreError
from pipeline.storage import Appender, Listed, StorePath
from pipeline.storage.records import RECORD_BYTES, STRICT, Count, Record, Seconds, numbers

BLOCK_BYTES = 8 * 2**20
"""A segment is read so much at a time."""

Name = Annotated[str, AfterValidator(sys.intern)]
"""A run has few arrays, stages and hosts and many receipts: each name is kept once."""


@with_config(STRICT)
@dataclass(frozen=True, order=True, slots=True)
class Task:
    """One unit of work and of resume: a tile of a stage."""

    stage: Name
    row: Count
    col: Count

    def __str__(self) -> str:
        return f"{self.stage} tile ({self.row}, {self.col})"


@with_config(STRICT)
@dataclass(frozen=True, slots=True)
class Chunk:
    """What a task wrote into one array: bytes on disk, their crc32c, and a digest of the values, 128 bits of XXH3."""

    array: Name
    bytes: Annotated[int, Field(ge=0, lt=2**63)]
    crc32c: Annotated[int, Field(ge=0, lt=2**32)]
    xxh3: str


@with_config(STRICT)
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
    read_seconds: Seconds = 0.0
    compute_seconds: Seconds = 0.0
    write_seconds: Seconds = 0.0
    host: Name = ""
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
    def from_line(cls, line: bytes, where: object = "a receipt") -> "Receipt | None":
        """Read a line back; None where it is torn or damaged.

        Raises
        ------
        StoreError
            If it is whole, by its checksum, and yet no receipt: then it was not this version that wrote it.
        """
        text, _, checksum = line.rstrip(b"\n").rpartition(b"\t")
        if not line.endswith(b"\n") or checksum != b"%08x" % google_crc32c.value(text):
            return None
        return _RECEIPT.parse(text, where)


_REMEDY = "move that file away: tiles without a receipt are read, and taken for done where they are whole"

_RECEIPT: Record[Receipt] = Record(Receipt, _REMEDY)


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
        number = max(numbers(self.folder, _SUFFIX), default=0)
        while True:  # two drivers can never share a segment: a durable log is new
            number += 1
            try:
                return (self.folder / f"{number:06d}{_SUFFIX}").appender(durable=True)
            except FileExistsError:
                continue


_SUFFIX = ".jsonl"


def _read_on(path: StorePath, listed: Listed, known: _Segment) -> _Segment:
    """Read the lines that were added to a segment, or all of one that stands in the place of another."""
    try:
        if listed.bytes < known.bytes_read or path.read_from(0, len(known.first_line)) != known.first_line:
            known = _Segment()
        for line in _whole_lines(path, known.bytes_read, listed.bytes):
            receipt = Receipt.from_line(line, f"{path}, the line at byte {known.bytes_read},")
            known.first_line = known.first_line or line
            known.bytes_read += len(line)
            if receipt is not None:
                known.receipts.append(receipt)
    except FileNotFoundError:  # deleted since it was listed
        return _Segment()
    known.version = listed.version
    return known


def _whole_lines(path: StorePath, position: int, end: int) -> Iterator[bytes]:
    """Read the lines between two bytes; the last one is left out where it was torn, or is being written right now."""
    rest = b""
    while position < end:
        block = path.read_from(position, min(BLOCK_BYTES, end - position))
        if not block:
            return  # cut since it was listed
        position += len(block)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line + b"\n"
        if len(rest) > RECORD_BYTES:
            raise StoreError(f"{path} has a line of more than {RECORD_BYTES} bytes, as no receipt is long: {_REMEDY}")


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Run an action; return its result and the seconds it took."""
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start
