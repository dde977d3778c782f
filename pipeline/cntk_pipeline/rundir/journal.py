"""Receipts of finished tiles, and the journal that keeps them.

A receipt is written after its data, so a line in the journal means that the tile was on disk. Each driver
writes a segment of its own; lines carry a checksum, and one that was torn by a crash is dropped. Where there are many
lines, a driver packs them when it begins.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c

from cntk_pipeline.errors import StoreError
from cntk_pipeline.rundir.packed import REMEDY, pack, unpack
from cntk_pipeline.rundir.receipts import Receipts
from cntk_pipeline.storage import Appender, Listed, StorePath
from cntk_pipeline.storage.records import RECORD_BYTES, Record, numbers
from cntk_pipeline.tasks import Receipt

BLOCK_BYTES = 2**20
"""Bytes of a segment that are read at a time."""

PACKED_BYTES, PACKED_SEGMENTS = 16 * 2**20, 100
"""Lines and segments from which on a driver packs them: some 60,000 receipts, or a bucket's segments of 250 KB."""

_LISTINGS = 5
"""How often a journal is listed anew where its files go while it is read."""

_NUMBER = re.compile(r"[0-9]{6,15}")

_RECEIPT: Record[Receipt] = Record(Receipt, REMEDY)


def to_line(receipt: Receipt) -> bytes:
    """Write a receipt as a line: JSON, a tab, the crc32c of the JSON."""
    text = _RECEIPT.dump(receipt)
    return text + b"\t%08x\n" % google_crc32c.value(text)


def from_line(line: bytes, where: object = "a receipt") -> Receipt | None:
    """Read a line back; None where it is torn or damaged.

    Raises
    ------
    StoreError
        If its checksum is right and yet it is no receipt: then another version has written it.
    """
    text, _, checksum = line.rstrip(b"\n").rpartition(b"\t")
    if not line.endswith(b"\n") or checksum != b"%08x" % google_crc32c.value(text):
        return None
    return _RECEIPT.parse(text, where)


@dataclass
class _Segment:
    """The part of a segment that was read: its whole lines up to a position. The first line identifies the segment."""

    version: tuple[Any, ...] = ()
    first_line: bytes = b""
    bytes_read: int = 0


class Journal:
    """The receipts of a run directory.

    Parameters
    ----------
    folder : StorePath
        Where the segments lie; made by the first `append`.
    """

    def __init__(self, folder: StorePath) -> None:
        self.folder = folder
        self._segment: Appender | None = None
        self._known: dict[str, _Segment] = {}
        self._receipts = Receipts()

    def receipts(self) -> Receipts:
        """Read all whole lines of all segments; a tile may occur more than once.

        Lines that were read before are remembered: a solver that iterates asks once an iteration. What was returned
        before grows with it.
        """
        for _ in range(_LISTINGS):
            if self._read_listed():
                break
            self._forget()
        return self._receipts

    def compact(self) -> None:
        """Pack all receipts into one file, where there are many lines, and delete what it stands for.

        Called by a driver that holds the lease, before it appends. The packed file counts from the moment when it is
        there, whole; it is read again before anything is deleted.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        count = len(self.receipts())
        read = [known.bytes_read for name, known in self._known.items() if name.endswith(_SUFFIX)]
        if not count or (sum(read) < PACKED_BYTES and len(read) < PACKED_SEGMENTS):
            return
        number = self._last_number() + 1
        path = self.folder / f"{number:06d}{_PACKED}"
        path.write_whole(*pack(self._receipts))
        self._forget()
        if len(self.receipts()) != count:
            path.unlink(missing_ok=True)
            self._forget()
            return
        for name in self.folder.listing():
            if 0 <= _number_of(name) < number:
                (self.folder / name).unlink(missing_ok=True)

    def _read_listed(self) -> bool:
        """Read the files that are listed now; False where others must be read instead of files read before."""
        listing = self.folder.listing()
        packed = max((name for name in listing if _number_of(name, _PACKED) >= 0), key=_number_of, default="")
        segments = (name for name in listing if name.endswith(_SUFFIX))
        if packed:  # it stands for all files of smaller numbers
            segments = (name for name in segments if _number_of(name) > _number_of(packed))
        names = [packed] * bool(packed) + sorted(segments)
        if not self._known.keys() <= set(names) or (packed and self._known and packed not in self._known):
            return False
        for name in names:
            known = self._known.setdefault(name, _Segment())
            if listing[name].version != known.version and not self._read_on(name, listing[name], known):
                return False
        return True

    def _forget(self) -> None:
        self._known, self._receipts = {}, Receipts()

    def _read_on(self, name: str, listed: Listed, known: _Segment) -> bool:
        """Read the lines that were added to a file; False where what was listed or read before is gone."""
        path = self.folder / name
        try:
            if listed.bytes < known.bytes_read or path.read_from(0, len(known.first_line)) != known.first_line:
                return False
            if name.endswith(_PACKED):
                if known.bytes_read:
                    return False
                unpack(path, listed.bytes, self._receipts)
                known.bytes_read = listed.bytes
            else:
                self._read_lines(path, listed.bytes, known)
        except FileNotFoundError:
            return False
        known.version = listed.version
        return True

    def _read_lines(self, path: StorePath, end: int, known: _Segment) -> None:
        for line in _whole_lines(path, known.bytes_read, end):
            receipt = from_line(line, f"{path}, the line at byte {known.bytes_read},")
            known.first_line = known.first_line or line
            known.bytes_read += len(line)
            if receipt is not None:
                self._receipts.add(receipt)

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
            self._segment.append(b"".join(to_line(receipt) for receipt in receipts))
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
        number = self._last_number()
        while True:  # two drivers can never share a segment: a durable log is new
            number += 1
            try:
                return (self.folder / f"{number:06d}{_SUFFIX}").appender(durable=True)
            except FileExistsError:
                continue

    def _last_number(self) -> int:
        return max([*numbers(self.folder, _SUFFIX), *numbers(self.folder, _PACKED)], default=0)


_SUFFIX, _PACKED = ".jsonl", ".packed"


def _number_of(name: str, *suffixes: str) -> int:
    """Return the number of a file of a journal, of some suffixes or of both; -1 where its name is another."""
    stem, _, suffix = name.rpartition(".")
    is_ours = f".{suffix}" in (suffixes or (_SUFFIX, _PACKED)) and _NUMBER.fullmatch(stem)
    return int(stem) if is_ours else -1


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
            raise StoreError(f"{path} has a line of more than {RECORD_BYTES} bytes, as no receipt is long: {REMEDY}")
