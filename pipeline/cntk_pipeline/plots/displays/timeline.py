"""Where the time went: each tile by its worker, with gaps and stragglers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import numpy as np

from cntk_pipeline.errors import ConfigError, NotComputed
from cntk_pipeline.inference import Shown
from cntk_pipeline.models import Json
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import AskedReadout
from cntk_pipeline.plots.base import Display, counted, shortened
from cntk_pipeline.plots.drawing import legend_inches
from cntk_pipeline.plots.style import COLOURS, MUTED
from cntk_pipeline.storage.tiled_array import Array
from cntk_pipeline.telemetry.tile_log import TileSpan, read_tile_log
from cntk_pipeline.units import bytes_text, seconds_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEGEND_COLUMNS = 3
"""Number of columns of the legend: more names of stages are wider than the figure."""

NAMED_WORKERS = 24
"""Number of workers up to which each row bears a name."""

DENSE_SPANS = 3000
"""Number of tiles beyond which they are drawn as pixels."""

PAUSE_SECONDS, PAUSE_SHARE = 60.0, 0.1
"""A gap without any work counts as a pause if it is longer than both: seconds, and a share of the time at work."""

STRAGGLER = 3.0
"""A tile is a straggler if it took this many times the median of its stage."""

_TROUBLES = {
    "retry": "a tile was tried again",
    "backup": "a silent tile was given to a second worker",
    "quarantined": "a damaged file was put into quarantine",
    "worker_lost": "a worker was lost",
}
"""Events of the log, in words."""


@dataclass(frozen=True)
class Timeline(Display):
    """The tiles of a run over time.

    Attributes
    ----------
    started : str
        When the first tile began, in UTC.
    stages : tuple of str
        Kinds, in the order of their first tiles.
    workers : tuple of str
        "host-pid", in the order of their first tiles.
    worker, stage : int64 array, (tiles,)
        Positions in ``workers`` and in ``stages``.
    begin, seconds : float64 array, (tiles,)
        Begins count from the start, without pauses.
    bytes : int64 array, (tiles,)
        Written.
    pauses : tuple of (float, float)
        Where time without any driver was left out: the second, and the seconds that were left out.
    events : mapping of str to int
        Counts of retries, backups, quarantined tiles and lost workers, by name.
    """

    started: str
    stages: tuple[str, ...]
    workers: tuple[str, ...]
    worker: Array
    stage: Array
    begin: Array
    seconds: Array
    bytes: Array
    pauses: tuple[tuple[float, float], ...]
    events: dict[str, int]

    key = "timeline"
    title = "Where the time went"

    @classmethod
    def from_run(cls, run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> Self:
        """Read the logs of a run; it has one timeline, whatever the read-out. See `Display.from_run`."""
        log = read_tile_log(run.path / "log")
        if not log.spans:
            if run.is_complete:
                raise ConfigError(
                    f"{run.path} has no logs of workers: they were deleted, or another run computed it all"
                )
            raise NotComputed(f"{run.path}: no tile is finished yet")
        spans = log.spans
        begin, pauses = _without_pauses(spans)
        stages = tuple(dict.fromkeys(span.stage for span in spans))
        workers = tuple(dict.fromkeys(span.worker for span in spans))
        return cls(
            f"{datetime.fromtimestamp(spans[0].begin, UTC):%Y-%m-%d %H:%M:%S} UTC",
            stages,
            workers,
            np.array([workers.index(span.worker) for span in spans]),
            np.array([stages.index(span.stage) for span in spans]),
            begin,
            np.array([span.seconds for span in spans]),
            np.array([span.bytes for span in spans]),
            pauses,
            {name: log.counts.get(name, 0) for name in _TROUBLES},
        )

    @property
    def length(self) -> float:
        """The seconds from the first begin to the last end, without pauses."""
        return float((self.begin + self.seconds).max())

    @property
    def busy_seconds(self) -> Array:
        """The time of each worker with at least one tile at work, (workers,) float64.

        A worker computes a tile while it writes the one before, so tiles of a worker overlap.
        """
        return np.array([_covered(self.begin[mine], self.seconds[mine]) for mine in self._by_worker()])

    @property
    def busy_share(self) -> float:
        """The share of the workers' time with at least one tile at work."""
        return float(self.busy_seconds.sum() / (max(self.length, 1e-9) * len(self.workers)))

    def _by_worker(self) -> list[Array]:
        return [self.worker == k for k in range(len(self.workers))]

    @property
    def stragglers(self) -> Array:
        """The positions of tiles that took `STRAGGLER` times the median of their stage."""
        medians = np.array([np.median(self.seconds[self.stage == k]) for k in range(len(self.stages))])
        return np.flatnonzero(self.seconds > np.maximum(STRAGGLER * medians[self.stage], 1.0))

    @property
    def alt(self) -> str:
        tiles, workers = counted(len(self.worker), "tile"), counted(len(self.workers), "worker")
        return (
            f"Timeline of {tiles} on {workers}: {seconds_text(self.length)} by the clock, with workers busy for "
            f"{100 * self.busy_share:.0f}% of the time; {counted(len(self.stragglers), 'straggler')}."
        )

    @property
    def height(self) -> float:
        return 1.3 + min(0.25 * len(self.workers), 5.0) + legend_inches(-(-len(self.stages) // LEGEND_COLUMNS))

    def draw(self, figure: "Figure") -> None:
        axes = figure.add_subplot()
        unit, name = (
            (3600.0, "hours") if self.length > 7200 else (60.0, "minutes") if self.length > 180 else (1.0, "seconds")
        )
        for position, stage in enumerate(self.stages):
            label = stage
            for row in np.unique(self.worker[self.stage == position]):
                mine = (self.stage == position) & (self.worker == row)
                bars = axes.broken_barh(
                    list(zip(self.begin[mine] / unit, self.seconds[mine] / unit, strict=True)), (row - 0.4, 0.8),
                    facecolor=COLOURS[position % len(COLOURS)], alpha=0.85 / 2 ** (position // len(COLOURS)),
                    label=label,
                )  # fmt: skip
                bars.set_rasterized(len(self.worker) > DENSE_SPANS)
                label = f"_{stage}"  # one entry of the legend a stage
        for place, _ in self.pauses:
            axes.axvline(place / unit, color=MUTED, linestyle=":")
        if len(self.workers) <= NAMED_WORKERS:
            axes.set_yticks(range(len(self.workers)), shortened(self.workers))
        else:
            axes.set_ylabel(f"{len(self.workers)} workers")
        axes.set_ylim(len(self.workers) - 0.5, -0.5)
        axes.set_xlim(0, max(self.length / unit, 1e-9))
        axes.set_xlabel(f"{name} since {self.started}{', without pauses' if self.pauses else ''}")
        axes.grid(False)
        figure.legend(loc="outside upper center", ncols=LEGEND_COLUMNS)

    def tables(self) -> tuple[Shown, ...]:
        found = [self._stage_table(), self._worker_table()]
        troubles = tuple((_TROUBLES[name], f"{count:,}") for name, count in self.events.items() if count)
        if troubles:
            found.append(Shown("troubles", ("times",), troubles, first="event"))
        if self.pauses:
            rows = tuple((seconds_text(place), seconds_text(seconds)) for place, seconds in self.pauses)
            found.append(Shown("pauses without any work", ("length",), rows, first="after"))
        return tuple(found)

    def _stage_table(self) -> Shown:
        rows = []
        late = np.bincount(self.stage[self.stragglers], minlength=len(self.stages))
        for position, stage in enumerate(self.stages):
            mine = self.stage == position
            seconds, written = self.seconds[mine], int(self.bytes[mine].sum())
            median, high = np.quantile(seconds, (0.5, 0.95))
            times = map(seconds_text, (seconds.sum(), median, high, seconds.max()))
            rows.append((stage, f"{mine.sum():,}", *times, f"{late[position]}", bytes_text(written)))
        columns = ("tiles", "core time", "median", "95%", "longest", "stragglers", "written")
        return Shown("tiles by stage", columns, tuple(rows), first="stage")

    def _worker_table(self) -> Shown:
        rows = []
        for name, mine, busy in zip(self.workers, self._by_worker(), self.busy_seconds, strict=True):
            seconds = self.seconds[mine].sum()
            share = f"{100 * busy / max(self.length, 1e-9):.0f}%"
            rows.append((name, f"{mine.sum():,}", seconds_text(seconds), share, f"{seconds / max(busy, 1e-9):.2f}"))
        columns = ("tiles", "core time", "busy", "tiles at once")
        return Shown("tiles by worker", columns, tuple(rows), first="worker")

    def to_json(self) -> Json:
        """Return the numbers as plain values, with the tables' own: stragglers and the busy share."""
        return super().to_json() | {"busy_share": self.busy_share, "stragglers": self.stragglers.tolist()}


def _without_pauses(spans: Sequence[TileSpan]) -> tuple[Array, tuple[tuple[float, float], ...]]:
    """Return the begins of tiles in seconds since the first, with long gaps taken out, and these gaps."""
    begin, end = np.array([span.begin for span in spans]), np.array([span.end for span in spans])
    reached = np.maximum.accumulate(end)
    gaps = np.zeros(len(spans))
    gaps[1:] = np.maximum(begin[1:] - reached[:-1], 0)
    at_work = end.max() - begin[0] - gaps.sum()
    gaps[gaps <= max(PAUSE_SECONDS, PAUSE_SHARE * at_work)] = 0
    shifted = begin - begin[0] - np.cumsum(gaps)
    return shifted, tuple((float(shifted[k]), float(gaps[k])) for k in np.flatnonzero(gaps))


def _covered(begin: Array, seconds: Array) -> float:
    """Return the length of the union of intervals, whose begins do not fall."""
    end = np.maximum.accumulate(begin + seconds)
    return float((end - np.maximum(begin, np.concatenate([[-np.inf], end[:-1]]))).clip(0).sum())
