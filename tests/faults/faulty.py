"""A store whose operations can be counted, and that ends the process, or fails, at the one that a test names."""

import errno
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cntk_pipeline.storage.base import Appender, Buffer, Listed, StorePath
from cntk_pipeline.storage.local import LocalPath
from cntk_pipeline.storage.retries import patiently


class Crash(BaseException):
    """The process ends here: nothing may catch it, and nothing touches the store afterwards."""


@dataclass
class Plan:
    """What is to happen to the store.

    Attributes
    ----------
    crash_at : int
        Number of the operation at which the process ends, in the middle of it where it writes; 0 for none.
    failing : float
        Share of the operations on chunks that go on failing, as a worker's may.
    flickering : float
        Share of all operations, and of the tries of those that are tried again, that fail once.
    outage_at : int
        Number of the operation that goes on failing; 0 for none.
    """

    crash_at: int = 0
    failing: float = 0.0
    flickering: float = 0.0
    outage_at: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    count: int = 0
    failed: int = 0

    def meet(self, path: Path, operation: str, aside: Callable[[], None] = lambda: None) -> None:
        """Count an operation, and let happen what is planned for it."""
        self.count += 1
        if self.crash_at and self.count >= self.crash_at:
            if self.count == self.crash_at:
                aside()
            raise Crash(f"at operation {self.count}: {operation} {path}")
        if self.failing and "c" in path.parts and self.rng.random() < self.failing:
            self.failed += 1
            raise OSError(errno.EIO, "Input/output error", str(path))
        if operation in ("appender", "append"):
            self._stumble(path)
        elif self.flickering or self.outage_at:
            once = operation in ("create_whole", "make_whole", "share_with")
            patiently(lambda: self._stumble(path), path, () if once else None)

    def _stumble(self, path: Path) -> None:
        if self.count == self.outage_at or self.rng.random() < self.flickering:
            self.failed += 1
            raise OSError(errno.EIO, "Input/output error", str(path))


plan = Plan()
"""Of the store at work."""


def follow(new: Plan) -> Plan:
    """Let a plan hold from here on."""
    global plan
    plan = new
    return plan


class FaultyPath(LocalPath):
    """A `LocalPath` of which every operation meets the plan first."""

    def exists(self, **options: Any) -> bool:
        plan.meet(self, "exists")
        return super().exists(**options)

    def is_file(self) -> bool:
        plan.meet(self, "is_file")
        return super().is_file()

    def size(self) -> int | None:
        plan.meet(self, "size")
        return super().size()

    def version(self) -> tuple[Any, ...] | None:
        plan.meet(self, "version")
        return super().version()

    def read_bytes(self, limit: int | None = None) -> bytes:
        plan.meet(self, "read_bytes")
        return super().read_bytes(limit)

    def read_from(self, offset: int, limit: int | None = None) -> bytes:
        plan.meet(self, "read_from")
        return super().read_from(offset, limit)

    def read_each(self, names: Sequence[str], offset: int, limit: int) -> list[bytes | None]:
        for name in names:
            plan.meet(self / name, "read_from")
        return super().read_each(names, offset, limit)

    def mapped(
        self, known: tuple[Any, ...] | None = None, limit: int | None = None
    ) -> tuple[tuple[Any, ...], np.ndarray] | None:
        plan.meet(self, "mapped")
        return super().mapped(known, limit)

    def children(self) -> Iterator[LocalPath]:
        plan.meet(self, "children")
        return super().children()

    def listing(self) -> dict[str, Listed]:
        plan.meet(self, "listing")
        return super().listing()

    def sizes(self) -> Iterator[tuple[str, int]]:
        plan.meet(self, "sizes")
        return super().sizes()

    def write_whole(self, *parts: Buffer) -> None:
        plan.meet(self, "write_whole", lambda: self._leave_half(b"".join(map(bytes, parts))))
        super().write_whole(*parts)

    def create_whole(self, content: bytes) -> bool:
        plan.meet(self, "create_whole", lambda: self._leave_half(content))
        return super().create_whole(content)

    def make_whole(self, files: Iterable[tuple[str, tuple[Buffer, ...]]], last: str) -> None:
        kept = [(name, tuple(bytes(part) for part in parts)) for name, parts in files]

        def leave_some() -> None:
            folder = Path(self._aside())
            for name, parts in kept[: len(kept) // 2]:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(b"".join(parts))

        plan.meet(self, "make_whole", leave_some)
        super().make_whole(kept, last)

    def appender(self, *, durable: bool) -> Appender:
        plan.meet(self, "appender")
        whole = super().appender(durable=durable)
        # Logs count what was done twice: those of the test's own process are kept whole.
        return _FaultyAppender(self, whole) if durable else whole

    def move_to(self, target: StorePath) -> None:
        plan.meet(self, "move_to")
        super().move_to(target)

    def share_with(self, target: StorePath) -> None:
        plan.meet(self, "share_with")
        super().share_with(target)

    def unlink(self, missing_ok: bool = False) -> None:
        plan.meet(self, "unlink")
        super().unlink(missing_ok)

    def remove_tree(self) -> None:
        plan.meet(self, "remove_tree")
        super().remove_tree()

    def sweep(self, folders: Iterable[str]) -> int:
        plan.meet(self, "sweep")
        return super().sweep(folders)

    def _leave_half(self, content: bytes) -> None:
        os.makedirs(self.parent, exist_ok=True)
        Path(self._aside()).write_bytes(content[: len(content) // 2])


class _FaultyAppender(Appender):
    """An appender that may end the process within a line."""

    def __init__(self, path: LocalPath, whole: Appender) -> None:
        self._path, self._whole = path, whole

    @property
    def is_full(self) -> bool:
        return self._whole.is_full

    def append(self, lines: bytes) -> None:
        plan.meet(self._path, "append", lambda: self._whole.append(lines[: len(lines) // 2]))
        self._whole.append(lines)

    def close(self) -> None:
        self._whole.close()
