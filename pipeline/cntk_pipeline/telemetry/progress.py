"""The progress of a run, for people who look at it from the outside."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageProgress:
    """The progress of a stage.

    Attributes
    ----------
    stage : str
        Its kind.
    done, total : int
        Tiles; tiles that were done before this driver began count too.
    written_bytes : int
        Of tiles that this driver was given.
    """

    stage: str
    done: int = 0
    total: int = 0
    written_bytes: int = 0

    def plus(self, done: int, total: int, written_bytes: int) -> "StageProgress":
        """Return the progress with more tiles."""
        return StageProgress(self.stage, self.done + done, self.total + total, self.written_bytes + written_bytes)


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run, as its driver knows it.

    Attributes
    ----------
    run : str
        The path of the run directory.
    phase : str
        The phase at work.
    done, total : int
        Its tiles.
    stages : tuple of StageProgress
        Of this phase and of those before it.
    rate, left : str
        Of the phase, in words; "" where they are not known.
    """

    run: str
    phase: str
    done: int
    total: int
    stages: tuple[StageProgress, ...]
    rate: str = ""
    left: str = ""


def merged(*parts: tuple[StageProgress, ...]) -> tuple[StageProgress, ...]:
    """Add up the progress of equal stages, in the order in which they first appear."""
    found: dict[str, StageProgress] = {}
    for part in parts:
        for each in part:
            before = found.get(each.stage, StageProgress(each.stage))
            found[each.stage] = before.plus(each.done, each.total, each.written_bytes)
    return tuple(found.values())
