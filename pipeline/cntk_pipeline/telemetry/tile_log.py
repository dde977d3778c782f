"""When each tile was computed, and by which worker: read from the logs of a run."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cntk_pipeline.storage import StorePath
from cntk_pipeline.tasks import Stage
from cntk_pipeline.telemetry.log_tail import FILES_AT_ONCE, Line, LogTail


@dataclass(frozen=True, slots=True)
class TileSpan:
    """A tile at work.

    Attributes
    ----------
    worker : str
        "host-pid", as the log names it.
    stage : str
        Kind of the stage.
    begin : float
        Time of its beginning, in seconds since 1970, by the worker's clock.
    seconds : float
        Inside the task.
    bytes : int
        Written.
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
    spans : tuple of TileSpan
        Of finished tiles, by their beginnings.
    counts : mapping of str to int
        Of all events, by name.
    """

    spans: tuple[TileSpan, ...]
    counts: dict[str, int]


def read_tile_log(folder: StorePath) -> TileLog:
    """Read all logs of a run; lines that are damaged, or cut short by a crash, are left out."""
    spans, counts = [], Counter[str]()
    begun: dict[tuple[Any, ...], float] = {}
    for line in _all_lines(folder):
        event, tile = line.get("event"), tuple(line.get(key) for key in ("worker", "stage", "row", "col"))
        counts[str(event)] += 1
        match event, line:
            case "began", {"time": float() | int() as begin}:
                begun[tile] = begin
            case "finished", {"time": float() | int() as end, "seconds": float() | int() as seconds}:
                try:
                    kind = Stage.parse(str(line.get("stage"))).kind
                except ValueError:
                    continue
                begin, size = begun.pop(tile, end - seconds), line.get("bytes")
                spans.append(TileSpan(str(tile[0]), kind, begin, seconds, size if isinstance(size, int) else 0))
    return TileLog(tuple(sorted(spans, key=lambda span: span.begin)), dict(counts))


def _all_lines(folder: StorePath) -> Iterator[Line]:
    tail = LogTail(folder)
    for _ in range(1 + len(folder.listing()) // FILES_AT_ONCE):  # a run at work goes on adding lines
        yield from tail.lines()
