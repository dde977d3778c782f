"""The activity of a run by its logs: workers and their tiles in flight, counts of events, and the latest of them."""

import heapq
from collections import Counter
from collections.abc import Iterable

from cntk_pipeline.telemetry.log_tail import Line

SILENT_SECONDS = 60.0
"""Time after which a worker without a tile in flight counts as gone."""

TILE_EVENTS = ("began", "finished", "failed")
"""Events of workers; those of failures are told by the driver as retries, too."""

LATEST = 5
"""Latest events that are kept."""

LAST_MOMENT = 2.0**33
"""Seconds since 1970 that no log reaches; a calendar does not know all later times."""

_Tile = tuple[str, int, int]


class Activity:
    """What the logs of a run tell, however their lines are ordered.

    Times are those of the hosts: where their clocks differ by minutes, a worker may be missing here.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._latest: list[tuple[float, int, Line]] = []
        self._taken = 0
        self._started = self._ended = self._newest = 0.0
        self._began: dict[str, dict[_Tile, float]] = {}
        self._finished: dict[_Tile, float] = {}
        self._heard: dict[str, float] = {}

    def take(self, lines: Iterable[Line]) -> None:
        """Take new lines in; lines without a valid time, an event and a process are left out."""
        for line in lines:
            moment, event, process = line.get("time"), line.get("event"), line.get("worker")
            if not isinstance(moment, float | int) or not 0 <= moment < LAST_MOMENT:  # NaN is none either
                continue
            if isinstance(event, str) and isinstance(process, str):
                self._take(float(moment), event, process, line)

    def _take(self, moment: float, event: str, process: str, line: Line) -> None:
        self._newest = max(self._newest, moment)
        self._counts[event] += 1
        if event == "driver_started":
            self._started = max(self._started, moment)
        elif event == "driver_ended":
            self._ended = max(self._ended, moment)
        if event in TILE_EVENTS:
            self._take_tile(moment, event, process, line)
        else:
            self._taken += 1
            heapq.heappush(self._latest, (moment, self._taken, line))
            if len(self._latest) > LATEST:
                heapq.heappop(self._latest)

    def _take_tile(self, moment: float, event: str, process: str, line: Line) -> None:
        self._heard[process] = max(self._heard.get(process, 0.0), moment)
        tile = (str(line.get("stage")), _number(line.get("row")), _number(line.get("col")))
        mine = self._began.setdefault(process, {})
        if event == "began":
            mine[tile] = moment
        else:
            mine.pop(tile, None)
        if event == "finished":
            self._finished[tile] = max(self._finished.get(tile, 0.0), moment)

    def count(self, event: str) -> int:
        """Return how often an event occurred, for all drivers of the run."""
        return self._counts[event]

    @property
    def latest(self) -> list[Line]:
        """The latest events in the order of time, but for those of tiles on workers."""
        return [line for _, _, line in sorted(self._latest)]

    @property
    def in_flight(self) -> dict[str, int]:
        """The number of tiles in flight of each worker, by the name of its process: "HOST-PID".

        A tile is in flight if the last driver's worker began it and nobody has finished it since. Where two workers
        began it, the later one has it: the first one may be dead.
        """
        if self._ended > self._started:
            return {}
        owners: dict[_Tile, tuple[float, str]] = {}
        for process, mine in self._began.items():
            for tile, moment in mine.items():
                if moment > max(self._started, self._finished.get(tile, 0.0)):
                    owners[tile] = max(owners.get(tile, (0.0, "")), (moment, process))
        counts = Counter(process for _, process in owners.values())
        since = max(self._started, self._newest - SILENT_SECONDS)
        present = {process for process, moment in self._heard.items() if moment >= since}
        return {process: counts[process] for process in sorted(present | counts.keys())}


def _number(value: object) -> int:
    return value if isinstance(value, int) else -1
