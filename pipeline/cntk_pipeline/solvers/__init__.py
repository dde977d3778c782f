"""Solvers of the regression. ``SOLVERS`` is the interface of this package: solvers by their name in a workflow."""

from cntk_pipeline.solvers.blas import reserve_buffers
from cntk_pipeline.solvers.forecast import SystemSize
from cntk_pipeline.solvers.prediction import MEAN, METRICS, RESIDUAL, forecast_predictions, metrics, prediction_jobs
from cntk_pipeline.solvers.requested import (
    SOLVERS,
    centres_of,
    computes_tiles,
    factor_tiles,
    has_exact_factor,
    kept_tiles_of,
    kernel_bytes_of,
    make_system,
    method_of,
    options_of,
    requested_selections,
    requested_solves,
    solver_of,
    system_group,
    tile_of_solve,
    with_factor_tile,
    with_older_tile,
)
from cntk_pipeline.solvers.scores import score_columns, score_texts
from cntk_pipeline.solvers.systems import (
    Method,
    RidgeChoice,
    System,
    open_system,
    planned_system,
    read_choice,
    solve_name,
)
from cntk_pipeline.solvers.work import forget_tiles

__all__ = [
    "MEAN",
    "METRICS",
    "RESIDUAL",
    "SOLVERS",
    "Method",
    "RidgeChoice",
    "System",
    "SystemSize",
    "centres_of",
    "computes_tiles",
    "factor_tiles",
    "forecast_predictions",
    "forget_tiles",
    "has_exact_factor",
    "kept_tiles_of",
    "kernel_bytes_of",
    "make_system",
    "method_of",
    "metrics",
    "open_system",
    "options_of",
    "planned_system",
    "prediction_jobs",
    "read_choice",
    "requested_selections",
    "requested_solves",
    "reserve_buffers",
    "score_columns",
    "score_texts",
    "solve_name",
    "solver_of",
    "system_group",
    "tile_of_solve",
    "with_factor_tile",
    "with_older_tile",
]
