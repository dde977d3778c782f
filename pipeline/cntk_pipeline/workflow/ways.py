"""The ways to large systems: the kernel stored with a factor, or alone, or computed again in each pass; of centres."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cntk_pipeline.config import SolveConfig
from cntk_pipeline.solvers import kernel_bytes_of

PASSES = 40
"""Passes over the kernel that ways are compared with: on 1,500 digits a preconditioner of rank 256 takes 27 to 40."""

FACTOR_PASSES = 12
"""Passes with a factor in float32, at most; docs/solving.md says so."""

CENTRES = 2000
"""Centres that ways are compared with; docs/solving.md has the same number."""

TELLING_SECONDS, TELLING_RATIO = 600.0, 3.0
"""A workflow of so many seconds is shown other ways where one of them takes this part of them, or less."""

Name = Literal["factored", "stored", "recomputed", "centres"]


@dataclass(frozen=True)
class Way:
    """The cost of all systems of a workflow in one way.

    Attributes
    ----------
    name : {"factored", "stored", "recomputed", "centres"}
        "factored" keeps the whole kernel and its Cholesky factors, with `FACTOR_PASSES` passes where these are in
        float32; "stored" keeps the kernel, for `PASSES` passes of
        conjugate gradients; "recomputed" keeps ``kernel_bytes`` of it, or its diagonal tiles, and computes the rest in
        each pass; "centres" is another regression, on `CENTRES` training images, or those of the workflow.
    seconds : float
        On all slots, the kernel included.
    written_bytes : int
        That stay on disk.
    fits : bool
        Whether the disk has so much room; True where that is not known.
    is_asked : bool
        Whether it is the way of the workflow itself.
    """

    name: Name
    seconds: float
    written_bytes: int
    fits: bool
    is_asked: bool = False

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
    """Compare the ways to the systems of a workflow.

    Parameters
    ----------
    train : int
        Number of training images.
    allows : callable
        Tells whether the rest of the workflow allows another ``[solve]``; ways that it refuses are left out.
    cost : callable
        Evaluates seconds and bytes of a run with another ``[solve]``.
    free_bytes : int or None
        Of the disk; None where no limit is known.
    """
    shared = solve.model_dump(exclude=set(solve.options))
    iterated: dict[str, object] = solve.options if solve.solver == "cg" else {}
    of_stored = {key: value for key, value in iterated.items() if key != "kernel_bytes"}
    of_recomputed = {key: value for key, value in iterated.items() if key != "sketch"}
    tables: dict[Name, dict[str, object]] = {
        "factored": {"solver": "cholesky"},
        "stored": {"solver": "cg"} | of_stored,
        "recomputed": {"solver": "cg", "kernel_bytes": 0} | of_recomputed,
        "centres": {"solver": "centres", "centres": min(CENTRES, train)},
    }
    asked = _name_of(solve)
    found = []
    for name, table in tables.items():
        other = solve if name == asked else SolveConfig.model_validate(shared | table)
        if not allows(other):
            continue
        seconds, written = cost(other)
        found.append(Way(name, seconds, written, free_bytes is None or written <= free_bytes, name == asked))
    return tuple(found)


def _name_of(solve: SolveConfig) -> Name | None:
    """Name the way of a workflow; a solver that is not compared has none."""
    if solve.solver == "cg":
        return "stored" if kernel_bytes_of(solve) is None else "recomputed"
    names: dict[str, Name] = {"cholesky": "factored", "centres": "centres"}
    return names.get(solve.solver)


def is_telling(ways: tuple[Way, ...]) -> bool:
    """Tell whether a comparison says what a user can act on: the disk is short, or another way is far cheaper."""
    asked = next((way for way in ways if way.is_asked), None)
    if asked is None:
        return False
    best = cheapest(ways, exact=False)
    is_far_cheaper = best is not None and TELLING_RATIO * best.seconds <= asked.seconds
    return not asked.fits or (asked.seconds >= TELLING_SECONDS and is_far_cheaper)


def cheapest(ways: tuple[Way, ...], *, exact: bool) -> Way | None:
    """Choose the quickest way that fits the disk, of all or of the exact ones; None where none fits."""
    fitting = [way for way in ways if way.fits and (way.is_exact or not exact)]
    return min(fitting, key=lambda way: way.seconds, default=None)
