"""How the regression is solved. ``SOLVERS`` is the door of this room: solvers by their name in a workflow."""

from cntk_pipeline.solvers.base import Solver
from cntk_pipeline.solvers.blas import reserve_buffers
from cntk_pipeline.solvers.conjugate_gradient import ConjugateGradient, work_group
from cntk_pipeline.solvers.direct import Cholesky
from cntk_pipeline.solvers.systems import (
    RIDGE_CHOICE,
    Method,
    RidgeChoice,
    System,
    make_system,
    open_system,
    planned_system,
    read_choice,
    requested_selections,
    requested_solves,
    solve_name,
    system_group,
    write_selection,
)
from cntk_pipeline.solvers.work import forget_tiles

SOLVERS: dict[str, Solver] = {"cholesky": Cholesky(), "cg": ConjugateGradient()}

__all__ = [
    "RIDGE_CHOICE",
    "SOLVERS",
    "Method",
    "RidgeChoice",
    "Solver",
    "System",
    "forget_tiles",
    "make_system",
    "open_system",
    "planned_system",
    "read_choice",
    "requested_selections",
    "requested_solves",
    "reserve_buffers",
    "solve_name",
    "system_group",
    "work_group",
    "write_selection",
]
