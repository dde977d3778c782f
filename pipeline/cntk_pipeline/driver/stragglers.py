"""How long the driver waits for a tile before it asks another worker for the same one.

A worker that is frozen, or cut off from its driver, says nothing; Dask misses it after minutes, and never where only
its receipt was lost. A tile may be computed twice at no harm: both write the same bytes, each at once.
"""

from collections import deque
from collections.abc import Callable

from cntk_pipeline.tasks import Task

FLOOR_SECONDS, UNKNOWN_SECONDS = 60.0, 3600.0
"""The least that is waited, and what is waited while no tile of a stage has ever come back from workers that live."""

FACTOR = 3.0
"""Of the longest that the last tiles of the stage took from being handed out to their receipt, queueing included."""

REMEMBERED = 100


class Patience:
    """Learns from the tiles of each stage how long one may take."""

    def __init__(self) -> None:
        self._took: dict[str, deque[float]] = {}

    def learn(self, task: Task, seconds: float) -> None:
        """Take note of how long a tile was away that came back at its first try."""
        self._took.setdefault(task.stage.kind, deque(maxlen=REMEMBERED)).append(seconds)

    def seconds(self, task: Task, copies: int, *, unheard: bool = False) -> float:
        """Return how long to wait for the last of some copies of a tile: twice as long for each one more.

        Where its worker is ``unheard`` of, which otherwise says several times a minute that it lives, that is what
        matters, and not how long the tile may take.
        """
        took = self._took.get(task.stage.kind)
        usual = max(FLOOR_SECONDS, FACTOR * max(took)) if took else UNKNOWN_SECONDS
        once = FLOOR_SECONDS if unheard else usual
        return once * 2 ** (copies - 1)


Clock = Callable[[], float]
"""Seconds that never go back, whatever happens to the time of day."""
