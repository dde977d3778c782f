"""Sets of tasks and of chunks, a bit for each: a run may have ten million of them."""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, MutableSet, Set
from typing import cast

import numpy as np
import numpy.typing as npt

from cntk_pipeline.tasks import Stage, Task

PAGE = 2**12
"""Numbers of a page. A matrix fills the pages of its rows; a number far out costs a page, not all those before it."""


class NumberSets:
    """Sets of numbers that are not negative, each with a name of its own: a tile's column in the set of its row.

    A number costs a bit, and each name with a number of its own some 200 bytes.
    """

    def __init__(self) -> None:
        self._pages: dict[tuple[Hashable, int], bytearray] = {}
        self._count = 0

    def add(self, name: Hashable, number: int) -> None:
        """Add a number to a set."""
        page, place = divmod(number, PAGE)
        byte, bit = place >> 3, 1 << (place & 7)
        bits = self._pages.get((name, page))
        if bits is None:
            bits = self._pages[name, page] = bytearray()
        if byte >= len(bits):
            bits.extend(bytes(byte + 1 - len(bits)))
        if not bits[byte] & bit:
            bits[byte] |= bit
            self._count += 1

    def add_all(self, name: Hashable, numbers: npt.ArrayLike) -> None:
        """Add some numbers to a set: of many, a tenth of the time of one after the other."""
        numbers = np.asarray(numbers, np.int64)
        for page in np.unique(numbers // PAGE).tolist():
            has = np.zeros(PAGE, bool)
            has[numbers[numbers // PAGE == page] - page * PAGE] = True
            self._merge((name, page), np.packbits(has, bitorder="little").tobytes().rstrip(b"\0"))

    def discard(self, name: Hashable, number: int) -> None:
        """Take a number out of a set."""
        if self.has(name, number):
            page, place = divmod(number, PAGE)
            self._pages[name, page][place >> 3] &= ~(1 << (place & 7))
            self._count -= 1

    def has(self, name: Hashable, number: int) -> bool:
        """Tell whether a set has a number."""
        page, place = divmod(number, PAGE)
        bits = self._pages.get((name, page))
        return bits is not None and place >> 3 < len(bits) and bool(bits[place >> 3] & 1 << (place & 7))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Hashable, int]]:
        for (name, page), bits in list(self._pages.items()):
            for place in np.flatnonzero(_unpacked(bits)).tolist():
                yield name, page * PAGE + place

    def mask(self, name: Hashable, length: int) -> np.ndarray:
        """Return which of the first numbers a set has, (length,) bool."""
        found = np.zeros(length, bool)
        for begin in range(0, length, PAGE):
            bits = self._pages.get((name, begin // PAGE))
            if bits:
                values = _unpacked(bits)[: length - begin]
                found[begin : begin + len(values)] = values
        return found

    def named(self, choose: Callable[[Hashable], bool]) -> "NumberSets":
        """Return copies of the sets whose names are chosen."""
        found = NumberSets()
        found._pages = {key: bytearray(bits) for key, bits in self._pages.items() if choose(key[0])}
        found._count = sum(int.from_bytes(bits, "little").bit_count() for bits in found._pages.values())
        return found

    def update(self, others: "NumberSets") -> None:
        """Add all numbers of other sets to the sets of the same names."""
        for key, bits in others._pages.items():
            self._merge(key, bits)

    def _merge(self, key: tuple[Hashable, int], bits: bytes | bytearray) -> None:
        mine = self._pages.get(key, bytearray())
        length = max(len(mine), len(bits))
        before, more = (int.from_bytes(part, "little") for part in (mine, bits))
        self._pages[key] = bytearray((before | more).to_bytes(length, "little"))
        self._count += (before | more).bit_count() - before.bit_count()


class TaskSet(MutableSet[Task]):
    """A set of tasks that costs a bit for each tile of a matrix.

    Parameters
    ----------
    tasks : iterable of Task
        To begin with.
    """

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        self._columns = NumberSets()
        self.update(tasks)

    def add(self, task: Task) -> None:
        """Add a task."""
        self._columns.add((task.stage, task.row), task.col)

    def add_row(self, stage: Stage, row: int, cols: npt.ArrayLike) -> None:
        """Add some tasks of a row."""
        self._columns.add_all((stage, row), cols)

    def discard(self, task: Task) -> None:
        """Take a task out, if it is there."""
        self._columns.discard((task.stage, task.row), task.col)

    def __contains__(self, task: object) -> bool:
        return isinstance(task, Task) and self._columns.has((task.stage, task.row), task.col)

    def __len__(self) -> int:
        return len(self._columns)

    def __iter__(self) -> Iterator[Task]:
        for name, col in self._columns:
            stage, row = cast(tuple[Stage, int], name)
            yield Task(stage, row, col)

    def update(self, tasks: Iterable[Task]) -> None:
        """Add some tasks."""
        if isinstance(tasks, TaskSet):
            self._columns.update(tasks._columns)
        else:
            for task in tasks:
                self.add(task)

    def __ior__(self, tasks: Set[Task]) -> "TaskSet":  # type: ignore[override, misc]
        self.update(tasks)
        return self

    def __repr__(self) -> str:
        return f"TaskSet of {len(self)} tasks"

    def of_stages(self, stages: Collection[Stage]) -> "TaskSet":
        """Return the tasks of some stages."""
        found = TaskSet()
        found._columns = self._columns.named(lambda name: cast(tuple[Stage, int], name)[0] in stages)
        return found

    def mask(self, stage: Stage, row: int, length: int) -> np.ndarray:
        """Return which of the first tiles of a row are in the set, (length,) bool."""
        return self._columns.mask((stage, row), length)


def _unpacked(bits: bytearray) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little").astype(bool)
