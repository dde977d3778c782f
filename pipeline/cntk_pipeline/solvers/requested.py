"""The systems that a workflow asks for, and the table of the solvers that solve them."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from cntk_pipeline.config import RunConfig, SolveConfig, read_options
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.growth import Growth
from cntk_pipeline.rundir.specification import BESIDE_THE_RESULT, CentreSpecification
from cntk_pipeline.solvers.base import Solver
from cntk_pipeline.solvers.centres import CentresSolver
from cntk_pipeline.solvers.cholesky import Cholesky
from cntk_pipeline.solvers.conjugate_gradient import ConjugateGradient
from cntk_pipeline.solvers.prediction import residual_array
from cntk_pipeline.solvers.systems import (
    Method,
    System,
    SystemKernel,
    kept_tiles,
    planned_system,
    read_choice,
    ridge_candidates,
    targets_of,
    with_ridge,
)
from cntk_pipeline.storage.tiled_array import ArraySpec, Group
from cntk_pipeline.tiling import Cut, KeptTiles, choose_factor_tile

MANY_SLOTS = 10**6
"""So many that the smallest tile is chosen."""

SMALLEST_SHARE = 1 / 4
"""Smallest tile of an older run that is kept, as a share of the tile that would be chosen anew.

With smaller tiles tasks are small, and the older factor saves little of the work.
"""

SOLVERS: dict[str, Solver] = {
    "cholesky": Cholesky(),
    "cg": ConjugateGradient(),
    "centres": CentresSolver(),
}
"""Solvers by their name in a workflow."""


def solver_of(method: Method) -> Solver:
    """Return the solver of a method.

    Raises
    ------
    ConfigError
        If this installation has no solver of that name.
    """
    if method.solver not in SOLVERS:
        raise ConfigError(f"unknown solve.solver {method.solver!r}: known are {', '.join(SOLVERS)}")
    return SOLVERS[method.solver]


def _solver(solve: SolveConfig) -> Solver:
    return solver_of(Method(solve.solver))


def options_of(solve: SolveConfig) -> Any:
    """Read the keys of ``[solve]`` that belong to its solver.

    Raises
    ------
    ConfigError
        If the solver is unknown, or a key is unknown, of another solver, or of a wrong value.
    """
    solver = _solver(solve)
    for name, other in SOLVERS.items():
        for key in solve.options:
            if key in other.options.model_fields and key not in solver.options.model_fields:
                raise ConfigError(f'solve.{key} belongs to solver = "{name}", not to "{solve.solver}": leave it out')
    return read_options(solver.options, solve, "solve")


def has_exact_factor(solve: SolveConfig) -> bool:
    """Tell whether a factor is stored with no more rounding than that of float64 arithmetic."""
    return _solver(solve).has_exact_factor(options_of(solve))


def centres_of(solve: SolveConfig) -> CentreSpecification | None:
    """Read the training images whose columns of the kernel a workflow has computed; None for all."""
    return _solver(solve).centres(options_of(solve))


def kernel_bytes_of(solve: SolveConfig) -> int | None:
    """Read the bytes of K(train, train) that a workflow has stored, while its solves compute the rest; None for all."""
    return _solver(solve).kernel_bytes(options_of(solve))


def computes_tiles(solve: SolveConfig) -> bool:
    """Tell whether the solves of a workflow compute tiles of K(train, train) that are not stored."""
    return kernel_bytes_of(solve) is not None


def kept_tiles_of(run: RunDirectory, solve: SolveConfig) -> KeptTiles | None:
    """Choose the tiles of K(train, train) that a workflow has stored; None for all."""
    return kept_tiles(run.specification, kernel_bytes_of(solve))


def tile_of_solve(solve: SolveConfig, train: int, kernel_tile: int) -> int:
    """Choose the edge of the tiles or blocks that a workflow's solver works on.

    Where tiles are computed again in each pass, a task computes one of them: the kernel's tile has the time of a task
    that leaves no slot idle, and a larger block would have the time of many.
    """
    if solve.tile == "auto" and computes_tiles(solve):
        return kernel_tile
    return _solver(solve).choose_tile(train, kernel_tile, solve.tile)


def method_of(solve: SolveConfig) -> Method:
    """Read the method by which a workflow wants its systems solved."""
    return Method(solve.solver, options_of(solve).model_dump(mode="json", exclude_none=True))


def with_factor_tile(solve: SolveConfig, cut: Cut, slots: int, kept: Collection[int]) -> SolveConfig:
    """Set a tile "auto" of factors to what suits the slots; for the other solvers it does not depend on them.

    Parameters
    ----------
    solve : SolveConfig
        Of a workflow.
    cut : Cut
        Of the training samples, by the kernel's tile.
    slots : int
        Tiles computed at once.
    kept : collection of int
        Tiles of factors that the run has. A tile that "auto" has meant once stays, also on other slots, and runs of
        earlier versions keep that of one slot.
    """
    if solve.solver != "cholesky" or solve.tile != "auto":
        return solve
    smallest, chosen, largest = (choose_factor_tile(cut.count, cut.size, slots=k) for k in (MANY_SLOTS, slots, 1))
    tile = max((each for each in kept if smallest <= each <= largest), default=chosen)
    return solve if tile == largest else solve.model_copy(update={"tile": tile})


def factor_tiles(run: RunDirectory) -> set[int]:
    """List the tiles of the factors that a run has begun."""
    records = run.solves().values()
    return {record["tile"] for record in records if record.get("method", {}).get("solver", "cholesky") == "cholesky"}


def requested_solves(run: RunDirectory, config: RunConfig) -> list[Json]:
    """List the specifications of the systems that a workflow asks for: every ridge of every read-out.

    With ridges = "auto", the list has the chosen ridge only; it is empty where none is chosen yet.

    Raises
    ------
    ConfigError
        If the solver reads other columns of the kernel than the run has.
    """
    wanted = centres_of(config.solve)
    if wanted != run.specification.centres:
        raise ConfigError(
            f'solve.solver = "{config.solve.solver}" reads {_columns_text(wanted)}, and {run.path} has '
            f"{_columns_text(run.specification.centres)}: bring back its [solve], or give another --store"
        )
    if config.solve.ridges == "auto":
        selections = requested_selections(run, config)
        choices = [read_choice(run, selection) for selection in selections]
        return [with_ridge(s, choice.chosen) for s, choice in zip(selections, choices, strict=True) if choice]
    return [
        _solve_specification(run, readout.name, ridge, config.solve)
        for readout in run.specification.readouts
        for ridge in config.solve.ridges
    ]


def requested_selections(run: RunDirectory, config: RunConfig) -> list[Json]:
    """List the specifications of the choices of a ridge that a workflow asks for, one a read-out."""
    if config.solve.ridges != "auto":
        return []
    # Leave-one-out is not named, so that choices of earlier versions keep their names.
    measure = {"choose_by": "evidence"} if config.solve.choose_by == "evidence" else {}
    return [
        _solve_specification(run, readout.name, 0.0, config.solve)
        | {"ridge": "auto", "candidates": list(ridge_candidates(run.specification.data.task))}
        | measure
        for readout in run.specification.readouts
    ]


def _columns_text(centres: CentreSpecification | None) -> str:
    if centres is None:
        return "the kernel of all training images"
    seed = "" if centres.seed is None else f", seed {centres.seed}"
    tolerance = "" if centres.tolerance is None else f", tolerance {centres.tolerance:g}"
    return f"the columns of {centres.count} centres ({centres.choice}{seed}{tolerance})"


def _solve_specification(run: RunDirectory, readout: str, ridge: float, solve: SolveConfig) -> Json:
    """Make the specification of a solve, everything it depends on; its fingerprint names the solve."""
    solver, options = _solver(solve), options_of(solve)
    specification = {
        "kernel": run.fingerprint,
        "readout": readout,
        "ridge": ridge,
        "ridge_mode": solve.ridge_mode,
        "tile": tile_of_solve(solve, run.train_cut.count, run.train_cut.size),
        "targets": targets_of(run.specification.data),
    }
    # Only options that differ from a plain factor, so that solves of earlier versions keep their names.
    said = solver.specification(options)
    method = {"method": {"solver": solve.solver} | said} if said or solve.solver != "cholesky" else {}
    return specification | method | ({"unit_diagonal": True} if solve.unit_diagonal else {})


def with_older_tile(solve: SolveConfig, run: RunDirectory) -> SolveConfig:
    """Set a tile "auto" to that of the older run of a grown one, where this keeps some of its factors."""
    growth = Growth.of(run)
    if growth is None or growth.factor_tile is None or solve.tile != "auto":
        return solve
    solver = _solver(solve)
    a_ridge_stays = solve.ridge_mode == "absolute" or (solve.ridges != "auto" and 0.0 in solve.ridges)
    if not a_ridge_stays or not any(owner.is_nested for owner in solver.owners):
        return solve
    if growth.factor_tile < SMALLEST_SHARE * solver.choose_tile(run.train_cut.count, run.train_cut.size, "auto"):
        return solve
    return solve.model_copy(update={"tile": growth.factor_tile})


def make_system(run: RunDirectory, specification: Json, method: Method) -> System:
    """Create the empty arrays of a system; its read-out's variances must be done."""
    relative = planned_system(specification, method)
    mean_variance = SystemKernel(run, relative).mean_diagonal()
    unit = mean_variance if relative.ridge_mode == "relative" else 1.0
    system = replace(relative, absolute_ridge=relative.ridge * unit)
    record = specification | {"absolute_ridge": system.absolute_ridge, "mean_diagonal": mean_variance}
    system_group(run, system, record).create()
    beside = {key: value for key, value in method.options.items() if key in BESIDE_THE_RESULT}
    run.write_record(f"solve/{system.fingerprint}/solve.json", record | beside)
    return system


def system_group(run: RunDirectory, system: System, record: Json) -> Group:
    """Describe the empty arrays of a system; ``record`` is its solve.json."""
    data, kernel_tile = run.specification.data, run.specification.tile
    columns, test, classes, axis = run.column_cut.count, data.test, len(data.classes), data.column_axis
    column_axis = run.specification.column_axis
    arrays = [
        ArraySpec("coefficients", (columns, classes), (columns, classes), "float64", (column_axis, axis)),
        ArraySpec("mean", (test, classes), (kernel_tile, classes), "float64", ("test", axis)),
        residual_array(run),
        *solver_of(system.method).arrays(run, system),
    ]
    attributes = {key: value for key, value in record.items() if key not in BESIDE_THE_RESULT}
    return Group(run.solve_path(system.fingerprint) / "factor.zarr", tuple(arrays), attributes)
