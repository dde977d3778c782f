"""Receipts of finished tiles, and the journal that keeps them.

A receipt is written after its data, so a line in the journal means that the tile was on disk. Each driver
writes a segment of its own; lines carry a checksum, and one that was torn by a crash is dropped.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c

from pipeline.errors import StoreError


@dataclass(frozen=True, order=True)
class Task:
    """One unit of work and of resume: a tile of a stage."""

    stage: str
    row: int
    col: int

    def __str__(self) -> str:
        return f"{self.stage} tile ({self.row}, {self.col})"


@dataclass(frozen=True)
class Chunk:
    """What a task wrote into one array: bytes on disk, their crc32c, and a digest of the values, 128 bits of XXH3."""

    array: str
    bytes: int
    crc32c: int
    xxh3: str


@dataclass(frozen=True)
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
        chunks = tuple(Chunk(**chunk) for chunk in fields.pop("chunks"))
        return cls(task=Task(**fields.pop("task")), chunks=chunks, **fields)


@dataclass
class _Segment:
    """What has been read of a segment: its whole lines up to a position, by the first of which it is known again."""

    first_line: bytes = b""
    bytes_read: int = 0
    receipts: list[Receipt] = field(default_factory=list)


class Journal:
    """The receipts of a run directory.

    Parameters
    ----------
    folder : where the segments lie; made by the first `append`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segment: int | None = None
        self._known: dict[Path, _Segment] = {}

    def receipts(self) -> Iterator[Receipt]:
        """Read all whole lines of all segments, oldest first; a tile may occur more than once.

        Lines that were read before are remembered: a solver that iterates asks once an iteration.
        """
        for path in sorted(self.folder.glob("*.jsonl")):
            known = self._known.setdefault(path, _Segment())
            with open(path, "rb") as file:
                if file.readline() != known.first_line or path.stat().st_size < known.bytes_read:
                    known = self._known[path] = _Segment()  # new, or another in the place of one that was deleted
                file.seek(known.bytes_read)
                for line in file.read().splitlines(keepends=True):
                    if not line.endswith(b"\n"):
                        break  # torn by a crash, or being written right now
                    known.first_line = known.first_line or line
                    known.bytes_read += len(line)
                    receipt = Receipt.from_line(line)
                    if receipt is not None:
                        known.receipts.append(receipt)
            yield from list(known.receipts)

    def append(self, receipts: Sequence[Receipt]) -> None:
        """Write receipts to this driver's segment and wait until they are on disk.

        Raises
        ------
        StoreError
            If they cannot be written.
        """
        try:
            if self._segment is None:
                self._segment = self._open_segment()
            os.write(self._segment, b"".join(receipt.to_line() for receipt in receipts))
            os.fsync(self._segment)
        except OSError as error:
            raise StoreError(
                error.errno, f"cannot write the journal in {self.folder} ({error.strerror}); finished tiles are kept"
            ) from error

    def close(self) -> None:
        """Close this driver's segment."""
        if self._segment is not None:
            os.close(self._segment)
            self._segment = None

    def _open_segment(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        number = max((int(path.stem) for path in self.folder.glob("*.jsonl")), default=0)
        while True:  # two drivers can never share a segment: creation is exclusive
            number += 1
            try:
                return os.open(self.folder / f"{number:06d}.jsonl", os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY)
            except FileExistsError:
                continue


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Run an action; return its result and the seconds it took."""
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start
