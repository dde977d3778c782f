"""New lines of the logs of a run, read again and again at little cost."""

from collections.abc import Iterator
from typing import Any

from cntk_pipeline.errors import StoreError
from cntk_pipeline.storage import StorePath
from cntk_pipeline.telemetry.driver_log import LINE

PIECE_BYTES = 2**20
"""Bytes that are read at once; a longer line is left out."""

FILES_AT_ONCE = 200
"""Files that a call reads at most: each is a request where the run lies in a bucket. Later calls read the others."""

Line = dict[str, Any]


class LogTail:
    """Reads the logs in a folder: each call returns what was added since the call before.

    Parameters
    ----------
    folder : StorePath
        Of the logs of a run.
    """

    def __init__(self, folder: StorePath) -> None:
        self._folder = folder
        self._ends: dict[str, int] = {}
        self._turn = 0

    def lines(self) -> Iterator[Line]:
        """Yield the new lines, file by file; damaged lines are left out."""
        grown = []
        for name, found in self._folder.listing().items():
            if found.bytes < self._ends.get(name, 0):
                self._ends[name] = 0  # another file has the name now
            if name.endswith(".jsonl") and found.bytes > self._ends.get(name, 0):
                grown.append((name, found.bytes))
        # The files take turns where there are too many, the first ones included.
        first = self._turn % len(grown) if len(grown) > FILES_AT_ONCE else 0
        self._turn = first + FILES_AT_ONCE
        for name, size in (grown[first:] + grown[:first])[:FILES_AT_ONCE]:
            yield from self._lines_of(name, size)

    def _lines_of(self, name: str, size: int) -> Iterator[Line]:
        while (begin := self._ends.get(name, 0)) < size:
            try:
                piece = (self._folder / name).read_from(begin, min(PIECE_BYTES, size - begin))
            except (FileNotFoundError, StoreError):
                return
            whole, newline, _ = piece.rpartition(b"\n")
            if not newline and len(piece) < PIECE_BYTES:
                return  # its writer is at this line
            self._ends[name] = begin + (len(whole) + 1 if newline else len(piece))
            for line in whole.split(b"\n"):
                try:
                    yield LINE.parse(line, name)
                except StoreError:
                    continue
