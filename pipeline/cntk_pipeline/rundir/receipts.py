"""The receipts of a run in columns, some 80 bytes each: as objects, those of a million tiles would take a gigabyte."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cntk_pipeline.rundir.sets import TaskSet
from cntk_pipeline.tasks import Chunk, Receipt, Stage, Task

_DIGEST_BYTES = 16


RECEIPT = np.dtype(
    [("row", "<i4"), ("col", "<i4"), ("host", "<i4"), ("chunks", "<i4"), ("adopted", "|u1"), ("seconds", "<f8", 3)]
)
CHUNK = np.dtype([("array", "<i4"), ("bytes", "<i8"), ("crc32c", "<u4"), ("digest", "|u1", _DIGEST_BYTES)])
"""What a block holds of a receipt and of a chunk; ``host`` and ``array`` are places in the names of the block."""


@dataclass(frozen=True)
class Block:
    """Some receipts of a stage, oldest first.

    Attributes
    ----------
    stage : Stage
        Of all.
    names : tuple of str
        Of arrays and hosts.
    receipts : array, (n,)
        Of `RECEIPT`.
    chunks : array, (m,)
        Of `CHUNK`, those of the first receipt first.
    other_digests : mapping of int to str
        Texts of digests that are no 32 hexadecimal digits, by the place of their chunk.
    """

    stage: Stage
    names: tuple[str, ...]
    receipts: np.ndarray
    chunks: np.ndarray
    other_digests: dict[int, str]


class Receipts:
    """Receipts by their stage. A task may have several; the newest counts."""

    def __init__(self) -> None:
        self.tasks = TaskSet()
        self._stages: dict[Stage, _Columns] = {}
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}

    def add(self, receipt: Receipt) -> None:
        """Add a receipt, newer than those before."""
        self.tasks.add(receipt.task)
        stage = receipt.task.stage
        if stage not in self._stages:
            self._stages[stage] = _Columns(self._names, self._numbers)
        self._stages[stage].add(receipt)

    def add_block(self, block: Block) -> None:
        """Add the receipts of a block, newer than those before."""
        if block.stage not in self._stages:
            self._stages[block.stage] = _Columns(self._names, self._numbers)
        self._stages[block.stage].add_block(block)
        order = np.argsort(block.receipts["row"], kind="stable")
        rows, begins = np.unique(block.receipts["row"][order], return_index=True)
        # An empty block has no row, of which NumPy makes one empty part.
        for row, cols in zip(rows.tolist(), np.split(block.receipts["col"][order], begins[1:]), strict=False):
            self.tasks.add_row(block.stage, row, cols)

    def blocks(self, most: int) -> Iterator[Block]:
        """Cut the receipts into blocks of at most so many, each of one stage."""
        for stage, columns in self._stages.items():
            for begin in range(0, len(columns), most):
                yield columns.block(stage, begin, min(begin + most, len(columns)))

    def stages(self) -> set[Stage]:
        """Return the stages that have a receipt."""
        return set(self._stages)

    def __len__(self) -> int:
        return sum(map(len, self._stages.values()))

    def __iter__(self) -> Iterator[Receipt]:
        """Make all receipts, stage by stage, older ones of a stage before newer ones."""
        for stage, columns in list(self._stages.items()):
            for k in range(len(columns)):
                yield columns.receipt(stage, k)

    def get(self, task: Task) -> Receipt | None:
        """Make the newest receipt of a task; None where it has none. Tasks are best asked about row by row."""
        if task not in self.tasks:
            return None
        columns = self._stages[task.stage]
        return columns.receipt(task.stage, columns.newest_of_row(task.row)[task.col])

    def claims_of(self, task: Task) -> list[tuple[int, int]] | None:
        """Return bytes and checksum of each chunk of a task's newest receipt; None where it has none."""
        if task not in self.tasks:
            return None
        columns = self._stages[task.stage]
        return columns.claims(columns.newest_of_row(task.row)[task.col])

    def all_of(self, task: Task) -> list[Receipt]:
        """Make all receipts of a task, the newest last."""
        if task not in self.tasks:
            return []
        columns = self._stages[task.stage]
        return [
            columns.receipt(task.stage, k)
            for k in range(len(columns))
            if (columns.rows[k], columns.cols[k]) == (task.row, task.col)
        ]


class _Columns:
    """The receipts of a stage, oldest first, without the stage.

    Parameters
    ----------
    names, numbers
        Names of arrays and hosts, and their places in that list; shared by all stages.
    """

    def __init__(self, names: list[str], numbers: dict[str, int]) -> None:
        self._names, self._numbers = names, numbers
        self.rows, self.cols = array("i"), array("i")
        self._seconds = array("d")  # three a receipt
        self._hosts, self._adopted = array("i"), bytearray()
        self._ends = array("q")  # of a receipt's chunks
        self._arrays, self._bytes, self._crc32c = array("i"), array("q"), array("I")
        self._digests = bytearray()
        self._other_digests: dict[int, str] = {}  # a digest that is none, as a line may say it
        # The receipts sorted by row and column, as of the last search, and the row that was searched for.
        self._keys, self._order = np.zeros(0, np.int64), np.zeros(0, np.int32)
        self._row, self._newest = -1, dict[int, int]()

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, receipt: Receipt) -> None:
        self.rows.append(receipt.task.row)
        self.cols.append(receipt.task.col)
        self._seconds.extend((receipt.read_seconds, receipt.compute_seconds, receipt.write_seconds))
        self._hosts.append(self._number(receipt.host))
        self._adopted.append(receipt.adopted)
        for chunk in receipt.chunks:
            self._arrays.append(self._number(chunk.array))
            self._bytes.append(chunk.bytes)
            self._crc32c.append(chunk.crc32c)
            self._add_digest(chunk.xxh3)
        self._ends.append(len(self._arrays))

    def _add_digest(self, text: str) -> None:
        try:
            content = bytes.fromhex(text)
        except ValueError:
            content = b""
        if len(content) != _DIGEST_BYTES or content.hex() != text:
            self._other_digests[len(self._arrays) - 1] = text
            content = bytes(_DIGEST_BYTES)
        self._digests += content

    def _number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self._names)
            self._names.append(name)
        return number

    def add_block(self, block: Block) -> None:
        numbers = np.array([self._number(name) for name in block.names] or [0], np.int32)
        receipts, chunks, before = block.receipts, block.chunks, len(self._arrays)
        self.rows.frombytes(receipts["row"].tobytes())
        self.cols.frombytes(receipts["col"].tobytes())
        self._seconds.frombytes(receipts["seconds"].tobytes())
        self._hosts.frombytes(numbers[receipts["host"]].tobytes())
        self._adopted += receipts["adopted"].tobytes()
        self._ends.frombytes((before + np.cumsum(receipts["chunks"], dtype=np.int64)).tobytes())
        self._arrays.frombytes(numbers[chunks["array"]].tobytes())
        self._bytes.frombytes(chunks["bytes"].tobytes())
        self._crc32c.frombytes(chunks["crc32c"].tobytes())
        self._digests += chunks["digest"].tobytes()
        self._other_digests.update({before + k: text for k, text in block.other_digests.items()})

    def block(self, stage: Stage, begin: int, end: int) -> Block:
        first, behind = self._ends[begin - 1] if begin else 0, self._ends[end - 1]
        receipts, chunks = np.zeros(end - begin, RECEIPT), np.zeros(behind - first, CHUNK)
        receipts["row"], receipts["col"] = self.rows[begin:end], self.cols[begin:end]
        receipts["chunks"] = np.diff(self._ends[begin:end], prepend=first)
        receipts["adopted"] = np.frombuffer(bytes(self._adopted[begin:end]), np.uint8)
        receipts["seconds"] = np.reshape(self._seconds[3 * begin : 3 * end], (-1, 3))
        chunks["bytes"], chunks["crc32c"] = self._bytes[first:behind], self._crc32c[first:behind]
        digests = bytes(self._digests[_DIGEST_BYTES * first : _DIGEST_BYTES * behind])
        chunks["digest"] = np.frombuffer(digests, np.uint8).reshape(-1, _DIGEST_BYTES)
        used, places = np.unique([*self._hosts[begin:end], *self._arrays[first:behind]], return_inverse=True)
        receipts["host"], chunks["array"] = places[: end - begin], places[end - begin :]
        others = {k - first: text for k, text in self._other_digests.items() if first <= k < behind}
        return Block(stage, tuple(self._names[k] for k in used.tolist()), receipts, chunks, others)

    def receipt(self, stage: Stage, k: int) -> Receipt:
        read, compute, write = self._seconds[3 * k : 3 * k + 3]
        host, adopted = self._names[self._hosts[k]], bool(self._adopted[k])
        return Receipt(Task(stage, self.rows[k], self.cols[k]), self.chunks(k), read, compute, write, host, adopted)

    def chunks(self, k: int) -> tuple[Chunk, ...]:
        return tuple(map(self._chunk, range(self._ends[k - 1] if k else 0, self._ends[k])))

    def claims(self, k: int) -> list[tuple[int, int]]:
        begin, end = self._ends[k - 1] if k else 0, self._ends[k]
        return list(zip(self._bytes[begin:end], self._crc32c[begin:end], strict=True))

    def _chunk(self, k: int) -> Chunk:
        digest = self._other_digests.get(k) if self._other_digests else None
        if digest is None:
            digest = self._digests[_DIGEST_BYTES * k : _DIGEST_BYTES * (k + 1)].hex()
        return Chunk(self._names[self._arrays[k]], self._bytes[k], self._crc32c[k], digest)

    def newest_of_row(self, row: int) -> dict[int, int]:
        """Return the places of the newest receipts of a row, by their columns."""
        is_sorted = len(self._keys) == len(self)
        if not is_sorted:
            keys = (np.array(self.rows, np.int64) << 32) + np.array(self.cols, np.int64)
            order = np.argsort(keys, kind="stable")
            self._order, self._keys = order.astype(np.int32), keys[order]
        if not is_sorted or row != self._row:
            begin, end = np.searchsorted(self._keys, (row << 32, (row + 1) << 32)).tolist()
            cols = (self._keys[begin:end] & (2**32 - 1)).tolist()
            self._row, self._newest = row, dict(zip(cols, self._order[begin:end].tolist(), strict=True))
        return self._newest
