"""The ways to large systems by conjugate gradients: the kernel stored, computed again in each pass, or of centres."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cntk_pipeline.config import SolveConfig
from cntk_pipeline.solvers import kernel_bytes_of

PASSES = 40
"""Passes over the kernel that ways are compared with: on 1,500 digits a preconditioner of rank 256 takes 27 to 40."""

CENTRES = 2000
"""Centres that ways are compared with; docs/solving.md has the same number."""

Name = Literal["stored", "recomputed", "centres"]


@dataclass(frozen=True)
class Way:
    """The cost of all systems of a workflow in one way.

    Attributes
    ----------
    name : "stored" keeps the whole kernel; "recomputed" keeps ``kernel_bytes`` of it, or its diagonal tiles, and
        computes the rest in each of `PASSES` passes; "centres" is another regression, on `CENTRES` training images.
    seconds : on all slots, the kernel included.
    written_bytes : that stay on disk.
    fits : whether the disk has so much room; True where that is not known.
    """

    name: Name
    seconds: float
    written_bytes: int
    fits: bool

    @property
    def is_exact(self) -> bool:
        """Whether it solves the system that the workflow asks for."""
        return self.name != "centres"


def compare_ways(
    solve: SolveConfig,
    train: int,
    allows: Callable[[SolveConfig], bool],
    cost: Callable[[SolveConfig], tuple[float, int]],
    free_bytes: int | None,
) -> tuple[Way, ...]:
    """Compare the ways to the systems of a workflow; none where its solver is another than conjugate gradients.

    Parameters
    ----------
    train : number of training images.
    allows : tells whether the rest of the workflow allows another ``[solve]``; ways that it refuses are left out.
    cost : evaluates seconds and bytes of a run with another ``[solve]``.
    free_bytes : of the disk; None where no limit is known.
    """
    if solve.solver != "cg":
        return ()
    shared = solve.model_dump(exclude=set(solve.options))
    part = kernel_bytes_of(solve) or 0
    of_stored = {key: value for key, value in solve.options.items() if key != "kernel_bytes"}
    of_recomputed = {key: value for key, value in of_stored.items() if key != "sketch"} | {"kernel_bytes": part}
    tables: dict[Name, dict[str, object]] = {
        "stored": of_stored,
        "recomputed": of_recomputed,
        "centres": {"solver": "centres", "centres": min(CENTRES, train)},
    }
    found = []
    for name, table in tables.items():
        other = SolveConfig.model_validate(shared | table)
        if not allows(other):
            continue
        seconds, written = cost(other)
        found.append(Way(name, seconds, written, free_bytes is None or written <= free_bytes))
    return tuple(found)


def cheapest(ways: tuple[Way, ...], *, exact: bool) -> Way | None:
    """Choose the quickest way that fits the disk, of all or of the exact ones; None where none fits."""
    fitting = [way for way in ways if way.fits and (way.is_exact or not exact)]
    return min(fitting, key=lambda way: way.seconds, default=None)
