"""The packed part of a journal: receipts in blocks of numbers, a quarter of the bytes of their lines.

A block is a line and numbers behind it. The line is JSON with its own crc32c, like the line of a receipt, and has the
crc32c of the numbers, which are little endian. A damaged block is left out, as a damaged line is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import google_crc32c
import numpy as np
from pydantic import Field, with_config

from cntk_pipeline.errors import StoreError
from cntk_pipeline.models import STRICT, Count
from cntk_pipeline.rundir.receipts import CHUNK, RECEIPT, Block, Receipts
from cntk_pipeline.storage import StorePath
from cntk_pipeline.storage.records import RECORD_BYTES, Record
from cntk_pipeline.tasks import StageText

RECEIPTS_A_BLOCK = 2**16
"""Receipts of a block: some five megabytes with one read-out."""

_LINE_BYTES = 2**14
"""Bytes in which the end of a block's line is looked for first; it is longer where there are many hosts."""


@with_config(STRICT)
@dataclass(frozen=True)
class _Head:
    """The line of a block; see `Block` for its fields.

    Attributes
    ----------
    receipts, chunks : int
        Their numbers.
    crc32c : int
        Of their bytes.
    """

    format_version: Literal[1]
    stage: StageText
    names: tuple[str, ...]
    receipts: Annotated[int, Field(ge=1, le=RECEIPTS_A_BLOCK)]
    chunks: Count
    other_digests: dict[Count, str]
    crc32c: Annotated[int, Field(ge=0, lt=2**32)]


REMEDY = "move that file away: tiles without a receipt are read, and taken for done where they are whole"
"""What to do with a damaged file of a journal."""

_HEAD: Record[_Head] = Record(_Head, REMEDY)


def pack(receipts: Receipts) -> Iterator[bytes]:
    """Write receipts as blocks."""
    for block in receipts.blocks(RECEIPTS_A_BLOCK):
        content = block.receipts.tobytes() + block.chunks.tobytes()
        counts, checksum = (len(block.receipts), len(block.chunks)), google_crc32c.value(content)
        head = _HEAD.dump(_Head(1, block.stage, block.names, *counts, block.other_digests, checksum))
        yield head + b"\t%08x\n" % google_crc32c.value(head) + content


def unpack(path: StorePath, size: int, receipts: Receipts) -> None:
    """Read the blocks of a file of some bytes; behind a damaged line nothing can be read any more.

    Raises
    ------
    StoreError
        If a block with the right checksums is none: then another version has written it.
    """
    position = 0
    while position < size:
        line = _line(path, position)
        text, _, checksum = line.rstrip(b"\n").rpartition(b"\t")
        if not line.endswith(b"\n") or checksum != b"%08x" % google_crc32c.value(text):
            return
        head = _HEAD.parse(text, where := f"{path}, the block at byte {position},")
        length = head.receipts * RECEIPT.itemsize + head.chunks * CHUNK.itemsize
        if position + len(line) + length > size:
            return
        content = path.read_from(position + len(line), length)
        if len(content) == length and google_crc32c.value(content) == head.crc32c:
            receipts.add_block(_block(head, content, where))
        position += len(line) + length


def _line(path: StorePath, position: int) -> bytes:
    length = _LINE_BYTES
    while True:
        found = path.read_from(position, length)
        line, newline, _ = found.partition(b"\n")
        if newline or len(found) < length or length > RECORD_BYTES:
            return line + newline
        length *= 4


def _block(head: _Head, content: bytes, where: str) -> Block:
    """Cut a block out of its bytes."""
    receipts = np.frombuffer(content, RECEIPT, head.receipts)
    chunks = np.frombuffer(content, CHUNK, head.chunks, receipts.nbytes)
    counts = [*(receipts[name] for name in ("row", "col", "host", "chunks")), chunks["array"], chunks["bytes"]]
    names, seconds = [*receipts["host"].tolist(), *chunks["array"].tolist()], receipts["seconds"]
    is_sound = (
        all(values.min(initial=0) >= 0 for values in counts)
        and max(names) < len(head.names)
        and int(receipts["chunks"].sum(dtype=np.int64)) == head.chunks
        and bool(np.all((seconds >= -1) & (seconds <= 1e12)))
    )
    if not is_sound:
        raise StoreError(f"{where} has values that no receipt has: {REMEDY}")
    return Block(head.stage, head.names, receipts, chunks, head.other_digests)
