"""The time that the driver waits for a tile before it asks another worker for the same one.

A worker that is frozen, or cut off from its driver, sends nothing; Dask notices after minutes, and never if only the
receipt was lost. A tile may be computed twice without harm: both write the same bytes, each at once.
"""

from collections import deque
from collections.abc import Callable

from cntk_pipeline.tasks import Task

FLOOR_SECONDS, UNKNOWN_SECONDS = 60.0, 3600.0
"""The shortest wait, and the wait while no tile of a stage has come back yet from workers that live."""

FACTOR = 3.0
"""The wait as a multiple of the longest recent time of the stage from sending a tile to its receipt, with its queue."""

REMEMBERED = 100


class Patience:
    """The time that a tile may take, learned from earlier tiles of its stage."""

    def __init__(self) -> None:
        self._took: dict[str, deque[float]] = {}

    def learn(self, task: Task, seconds: float) -> None:
        """Record the time from sending a tile to its receipt; only of tiles that came back at their first try."""
        self._took.setdefault(task.stage.kind, deque(maxlen=REMEMBERED)).append(seconds)

    def seconds(self, task: Task, copies: int, *, unheard: bool = False) -> float:
        """Return the seconds to wait for the last of some copies of a tile; each further copy doubles them.

        A worker sends a sign of life several times a minute. Where it is ``unheard`` of, the wait does not depend on
        the time that the tile may take.
        """
        took = self._took.get(task.stage.kind)
        usual = max(FLOOR_SECONDS, FACTOR * max(took)) if took else UNKNOWN_SECONDS
        once = FLOOR_SECONDS if unheard else usual
        return once * 2 ** (copies - 1)


Clock = Callable[[], float]
"""Seconds that never go back, even if the time of day is set anew."""
