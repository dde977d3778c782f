"""When each tile was computed, and by which worker: read from the logs of a run."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cntk_pipeline.storage import StorePath

PIECE_BYTES = 2**22
"""Bytes of a log that are read at once."""


@dataclass(frozen=True, slots=True)
class TileSpan:
    """A tile at work.

    Attributes
    ----------
    worker : "host-pid", as the log names it.
    stage : kind of the stage.
    begin : time of its beginning, in seconds since 1970, by the worker's clock.
    seconds : inside the task.
    bytes : written.
    """

    worker: str
    stage: str
    begin: float
    seconds: float
    bytes: int

    @property
    def end(self) -> float:
        """The time of its end."""
        return self.begin + self.seconds


@dataclass(frozen=True)
class TileLog:
    """The logs of a run.

    Attributes
    ----------
    spans : of finished tiles, by their beginnings.
    counts : of all events, by name.
    """

    spans: tuple[TileSpan, ...]
    counts: dict[str, int]


def read_tile_log(folder: StorePath) -> TileLog:
    """Read all logs of a run; lines that are damaged, or cut short by a crash, are left out."""
    spans, counts = [], Counter[str]()
    for path in folder.children():
        if not path.name.endswith(".jsonl"):
            continue
        begun: dict[tuple[Any, ...], float] = {}
        for line in _lines(path):
            event, tile = str(line.get("event")), (line.get("stage"), line.get("row"), line.get("col"))
            counts[event] += 1
            match event, line:
                case "began", {"time": float() | int() as begin}:
                    begun[tile] = begin
                case "finished", {
                    "time": float() | int() as end,
                    "seconds": float() | int() as seconds,
                    "stage": str(),
                }:
                    kind = line["stage"].partition(":")[0].partition("-")[0]
                    begin = begun.pop(tile, end - seconds)
                    spans.append(TileSpan(str(line.get("worker", "")), kind, begin, seconds, int(line.get("bytes", 0))))
    return TileLog(tuple(sorted(spans, key=lambda span: span.begin)), dict(counts))


def _lines(path: StorePath) -> Iterator[dict[str, Any]]:
    rest, offset = b"", 0
    while True:
        try:
            piece = path.read_from(offset, PIECE_BYTES)
        except FileNotFoundError:
            return
        if not piece:
            return
        offset += len(piece)
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found
