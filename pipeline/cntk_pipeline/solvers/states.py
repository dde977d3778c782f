"""The states of conjugate gradients on disk, in ``work.zarr`` of a solve."""

from dataclasses import replace

import numpy as np

from cntk_pipeline.errors import CorruptTile
from cntk_pipeline.rundir.directory import Iterations, RunDirectory
from cntk_pipeline.solvers.iteration import State
from cntk_pipeline.solvers.systems import System, factor_cut
from cntk_pipeline.storage.tiled_array import Array, ArraySpec
from cntk_pipeline.tasks import Task

NUMBERS = 10**6
"""Length of the axis that counts states: a number in the metadata, only the last two states lie on disk."""


def work_arrays(run: RunDirectory, system: System) -> list[ArraySpec]:
    """List the arrays of states and of the products that lead from one to the next."""
    cut, classes = factor_cut(run, system), len(run.specification["data"]["classes"])
    blocks, double, count = cut.pieces * (cut.pieces + 1) // 2, 2 * cut.size, cut.count

    def numbered(name: str, shape: tuple[int, ...], tile: tuple[int, ...], axes: tuple[str, ...]) -> ArraySpec:
        return ArraySpec(name, (NUMBERS, *shape), (1, *tile), "float64", ("state", *axes))

    products = ((blocks, double, classes), (1, double, classes), ("block", "row", "class"))
    arrays = [numbered("products", *products)]
    for name, shape, axes in (
        ("vectors", (3, count, classes), ("vector", "train", "class")),
        ("direction", (count, classes), ("train", "class")),
        ("residuals", (4, classes), ("measure", "class")),
    ):
        arrays.append(numbered(name, shape, shape, axes))
    return arrays


def state_chunks(state: State) -> list[Array]:
    """Lay a state out as the chunks of its arrays: vectors, direction, residuals."""
    checked = np.full_like(state.relative, state.checked)
    return [
        np.stack([state.solution, state.residual, state.preconditioned])[None],
        state.direction[None],
        np.stack([state.relative, state.true, state.true_before, checked])[None],
    ]


def read_state(run: RunDirectory, system: System, number: int) -> State:
    """Read a state; raise `CorruptTile` where it is damaged or gone."""
    vectors = run.work(system.fingerprint, "vectors").read(number, 0, 0, 0)[0]
    direction = run.work(system.fingerprint, "direction").read(number, 0, 0)[0]
    relative, true, true_before, checked = read_measures(run, system, number)
    solution, residual, preconditioned = vectors
    return State(solution, residual, preconditioned, direction, relative, true, true_before, checked=bool(checked[0]))


def read_measures(run: RunDirectory, system: System, number: int) -> Array:
    """Read what the rounds are decided by: relative, true, true_before and checked of a `State`, a row each."""
    return run.work(system.fingerprint, "residuals").read(number, 0, 0)[0]


def record_state(run: RunDirectory, system: System, iterations: Iterations) -> Iterations:
    """Note a new last state and its residual, and let go of what no later one reads."""
    worst = float(read_measures(run, system, iterations.last)[0].max())
    noted = replace(iterations, residuals=(*iterations.residuals, worst))
    run.record_iterations(system.fingerprint, noted)
    return noted


def resume_point(run: RunDirectory, system: System) -> Iterations:
    """Find the last whole state, of the two that are kept; where there is none, begin under a new number."""
    iterations = run.iterations(system.fingerprint) or Iterations(0, -1, False, ())
    kept = [] if iterations.finished else [iterations.last, iterations.last - 1]
    for last in kept:
        if last < iterations.first:
            continue
        try:
            read_state(run, system, last)
        except CorruptTile:
            run.quarantine(Task(f"step:{system.fingerprint}", last, 0))
            continue
        residuals = iterations.residuals[: last - iterations.first + 1]
        point = replace(iterations, last=last, residuals=residuals)
        break
    else:
        point = Iterations(iterations.last + 1, iterations.last, False, ())
    run.record_iterations(system.fingerprint, point)
    return point
