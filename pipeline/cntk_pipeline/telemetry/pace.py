"""The pace of a stage: how fast its tiles are finished, and the time until it is done, as a range."""

from collections import deque
from dataclasses import dataclass

import numpy as np

WINDOW_SECONDS, WINDOW_CHANGES = 120.0, 20
"""The pace is that of the last two minutes, or of the last 20 changes where tiles take longer."""

STEP_SECONDS = 0.5
"""Changes within half a second count as one, so that a fast stage takes neither memory nor time."""

FEWEST_CHANGES = 3
"""Changes before anything is said: the first piece of time begins anywhere within a tile."""

MOST_PARTS = 8
"""Parts of the window that are compared with each other; each has two changes or more on average."""

LARGEST_ERROR = 2 / 3
"""Bound of the relative error of a rate, so that the longest time is three times the expected one at most."""


@dataclass(frozen=True)
class Range:
    """A time that is left, in seconds, from its shortest to its longest value."""

    low: float
    high: float

    def __str__(self) -> str:
        for longest, size, unit, digits in ((100, 1, "s", 0), (5400, 60, "min", 0), (172800, 3600, "h", 1)):
            if self.high < longest:
                return self._written(size, unit, digits)
        return self._written(86400, "days", 1)

    def _written(self, size: int, unit: str, digits: int) -> str:
        low, high = (f"{max(seconds / size, 1):.{digits}f}" for seconds in (self.low, self.high))
        return f"{low} to {high} {unit}" if low != high else f"about {high} {unit}"


def rate_text(tiles_per_second: float | None) -> str:
    """Write a rate in words, "" where it is not known."""
    if not tiles_per_second:
        return ""
    for unit, seconds in (("s", 1), ("min", 60)):
        if tiles_per_second * seconds >= 1:
            return f"{tiles_per_second * seconds:.3g} tiles/{unit}"
    return f"{tiles_per_second * 3600:.3g} tiles/h"


class Pace:
    """The pace of an amount that grows: tiles, or matrix entries."""

    def __init__(self) -> None:
        self._changes: deque[tuple[float, float]] = deque()
        self._now = 0.0

    def observe(self, moment: float, amount: float) -> None:
        """Note the amount at a moment, in seconds of a clock that never goes back.

        An amount that falls begins a new count: a damaged tile was taken out.
        """
        self._now = moment
        if self._changes and amount < self._changes[-1][1]:
            self._changes.clear()
        if not self._changes or amount > self._changes[-1][1]:
            if len(self._changes) > 1 and moment - self._changes[-2][0] < STEP_SECONDS:
                self._changes.pop()
            self._changes.append((moment, amount))
        while len(self._changes) > WINDOW_CHANGES + 1 and moment - self._changes[0][0] > WINDOW_SECONDS:
            self._changes.popleft()

    @property
    def rate(self) -> float | None:
        """The amount a second; None before the third change."""
        span = self._span()
        return None if span is None else (self._changes[-1][1] - self._changes[0][1]) / span

    def seconds_left(self, amount: float) -> Range | None:
        """Return the time until ``amount`` more is done; None before the third change.

        The window is cut into up to eight parts of equal time, and the growth between two changes counts as even. The
        parts differ by the standard deviation s. The growth in all k parts then has the error s sqrt(k). What is left
        varies as well, with the same deviation in parts of the same growth. Both errors together are taken twice, up
        and down.
        """
        rate, span = self.rate, self._span()
        if rate is None or span is None:
            return None
        grown = self._changes[-1][1] - self._changes[0][1]
        ahead = np.sqrt(1 + grown / amount) if amount > 0 else 1.0
        error = min(2 * self._relative_error(span) * ahead, LARGEST_ERROR)
        return Range(amount / (rate * (1 + error)), amount / (rate * (1 - error)))

    def _span(self) -> float | None:
        """Return the seconds of the window: to the last change, or to now if nothing has changed for unusually long."""
        if len(self._changes) <= FEWEST_CHANGES:
            return None
        moments = [moment for moment, _ in self._changes]
        longest = max(np.diff(moments))
        end = self._now if self._now - moments[-1] > longest else moments[-1]
        span = float(end - moments[0])
        return span if span > 0 else None

    def _relative_error(self, span: float) -> float:
        moments, amounts = np.array(self._changes).T
        parts = int(np.clip((len(self._changes) - 1) // 2, 2, MOST_PARTS))
        growth = np.diff(np.interp(np.linspace(moments[0], moments[0] + span, parts + 1), moments, amounts))
        return float(np.std(growth, ddof=1) * np.sqrt(parts) / growth.sum())
