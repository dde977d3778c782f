"""Output streams of a command that never end its work, even if their reader goes away."""

import errno
import io
import os
import select
import sys
from typing import TextIO


class Outlet(io.FileIO):
    """The end of a stream that may lose its reader or fill its disk: then the rest is dropped.

    Attributes
    ----------
    gone : bool
        Whether everything is dropped from now on.
    problem : OSError or None
        The error; None without one, and where a reader has left: it has all the lines it wanted.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.problem: OSError | None = None
        self.gone = False

    def write(self, data: object, /) -> int:
        content = memoryview(data).cast("B")  # type: ignore[arg-type]
        while not self.gone:
            try:
                count = super().write(content)
            except OSError as error:
                self.gone = True
                if error.errno != errno.EPIPE:
                    self.problem = error
                break
            if count is not None:
                return count
            select.select([], [self], [])  # the stream does not block, and its reader is slow
        return len(content)


def guard_streams() -> None:
    """Replace this process's standard streams by streams with an `Outlet`.

    Characters that their encoding lacks are escaped. A closed descriptor is opened to /dev/null, so that no file of the
    store gets its number.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the smallest number that is free
    sys.stdout = _guarded(1, sys.stdout)
    sys.stderr = _guarded(2, sys.stderr)


def lost_output() -> OSError | None:
    """Return why printed text was lost; None where all arrived, or a reader has left."""
    outlet = _outlet()
    return None if outlet is None else outlet.problem


def nobody_reads() -> bool:
    """Tell whether printed text goes nowhere."""
    outlet = _outlet()
    return outlet is not None and outlet.gone


def _outlet() -> Outlet | None:
    sys.stdout.flush()
    outlet = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return outlet if isinstance(outlet, Outlet) else None


def _guarded(descriptor: int, before: TextIO | None) -> io.TextIOWrapper:
    if before is not None:
        before.flush()
    encoding = getattr(before, "encoding", None) or "utf-8"
    outlet = Outlet(descriptor)
    by_line = descriptor == 2 or outlet.isatty()
    return io.TextIOWrapper(io.BufferedWriter(outlet), encoding, errors="backslashreplace", line_buffering=by_line)
