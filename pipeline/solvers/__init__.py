"""How the regression is solved. ``SOLVERS`` is the door of this room: the jobs of a solver by name."""

from collections.abc import Callable

from pipeline.driver import Job
from pipeline.solvers.cholesky import factor_jobs
from pipeline.solvers.systems import (
    System,
    make_system,
    open_system,
    planned_system,
    requested_selections,
    requested_solves,
    solve_name,
)
from pipeline.solvers.work import forget_tiles
from pipeline.store import RunDirectory

SOLVERS: dict[str, Callable[[RunDirectory, System, int, int], list[Job]]] = {"cholesky": factor_jobs}

__all__ = [
    "SOLVERS",
    "System",
    "forget_tiles",
    "make_system",
    "open_system",
    "planned_system",
    "requested_selections",
    "requested_solves",
    "solve_name",
]
