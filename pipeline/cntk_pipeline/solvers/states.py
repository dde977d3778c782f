"""The states of conjugate gradients on disk, in ``work.zarr`` of a solve, and the record of their progress."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field, with_config

from cntk_pipeline.errors import CorruptTile
from cntk_pipeline.models import STRICT, Count
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Chunks, Place
from cntk_pipeline.solvers.iteration import State
from cntk_pipeline.solvers.systems import System, SystemKernel, factor_cut
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import Array, ArraySpec
from cntk_pipeline.tasks import Task

STATE = ("vectors", "direction", "residuals")
"""The arrays that hold a state."""

NUMBERS = 10**6
"""Length of the axis of states in the metadata; only the last two states lie on disk."""


@with_config(STRICT)
@dataclass(frozen=True)
class Iterations:
    """The progress of a solve's iterations: the record iterations.json.

    Attributes
    ----------
    first, last : int
        Numbers of the first state and of the last finished one, ``first - 1`` where there is none yet. A solve that
        begins anew counts on, so that no receipt of an earlier attempt is taken for a new one.
    finished : bool
        Whether the coefficients are written and everything else is deleted.
    residuals : tuple of float
        The worst class's relative residual after each iteration, the start included.
    """

    first: Count
    last: Annotated[int, Field(ge=-1, lt=2**31)]
    finished: bool
    residuals: tuple[float, ...]

    @property
    def count(self) -> int:
        """The number of passes over the kernel so far."""
        return max(self.last - self.first, 0)


_ITERATIONS: Record[Iterations] = Record(Iterations, "delete it, then `cntk resume`: its iterations begin anew")


def read_iterations(run: RunDirectory, solve: str) -> Iterations | None:
    """Read the progress of a solve's iterations; None where none was finished."""
    return run.read_record(f"solve/{solve}/iterations.json", _ITERATIONS)


def record_iterations(run: RunDirectory, solve: str, iterations: Iterations) -> None:
    """Record the progress of a solve's iterations, and delete the chunks that no later iteration reads."""
    run.write_record(f"solve/{solve}/iterations.json", asdict(iterations))
    if iterations.finished:
        run.scratch_path(solve).remove_tree()
        return
    passed = (("products", iterations.last), ("sums", iterations.last))
    for part, kept in (*passed, *((part, iterations.last - 1) for part in STATE)):
        for path in (run.scratch_path(solve) / part / "c").children():
            if re.fullmatch(r"[0-9]{1,10}", path.name) and int(path.name) < kept:
                path.remove_tree()


def spent_by_iterations(run: RunDirectory, tasks: Sequence[Task], _chunks: Chunks) -> set[Task]:
    """Pick the tasks whose chunks are used up: by past iterations, or all of them once the solve is finished."""
    found = set()
    for stage, mine in itertools.groupby(tasks, key=lambda task: task.stage):
        iterations = read_iterations(run, stage.solve)
        if iterations is not None:
            first = iterations.first
            last = max(iterations.last, first)
            kept = {"product": last, "sum": last, "step": max(iterations.last - 1, first)}.get(stage.kind, 0)
            found |= {task for task in mine if iterations.finished or task.row < kept}
    return found


def state_places(run: RunDirectory, solve: str, number: int) -> list[Place]:
    """List the chunks of a state."""
    states = [run.scratch(solve, part) for part in STATE]
    return [(state, (number, *(0,) * (len(state.shape) - 1))) for state in states]


def state_arrays(run: RunDirectory, system: System) -> list[ArraySpec]:
    """List the arrays of states and of the products that lead from one to the next."""
    cut, classes = factor_cut(run, system), len(run.specification.data.classes)
    blocks, double, count = cut.pieces * (cut.pieces + 1) // 2, 2 * cut.size, cut.count

    def numbered(name: str, shape: tuple[int, ...], tile: tuple[int, ...], axes: tuple[str, ...]) -> ArraySpec:
        return ArraySpec(name, (NUMBERS, *shape), (1, *tile), "float64", ("state", *axes))

    products = ((blocks, double, classes), (1, double, classes), ("block", "row", "class"))
    arrays = [numbered("products", *products)]
    if SystemKernel(run, system).kept is not None:
        arrays.append(numbered("sums", (count, classes), (cut.size, classes), ("train", "class")))
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
    vectors = run.scratch(system.fingerprint, "vectors").read(number, 0, 0, 0)[0]
    direction = run.scratch(system.fingerprint, "direction").read(number, 0, 0)[0]
    relative, true, true_before, checked = read_measures(run, system, number)
    solution, residual, preconditioned = vectors
    return State(solution, residual, preconditioned, direction, relative, true, true_before, checked=bool(checked[0]))


def read_measures(run: RunDirectory, system: System, number: int) -> Array:
    """Read the values that decide on the rounds: relative, true, true_before and checked of a `State`, a row each."""
    return run.scratch(system.fingerprint, "residuals").read(number, 0, 0)[0]


def record_state(run: RunDirectory, system: System, iterations: Iterations) -> Iterations:
    """Record a new last state and its residual, and delete the chunks that no later state reads."""
    worst = float(read_measures(run, system, iterations.last)[0].max())
    noted = replace(iterations, residuals=(*iterations.residuals, worst))
    record_iterations(run, system.fingerprint, noted)
    return noted


def resume_point(run: RunDirectory, system: System) -> Iterations:
    """Find the last whole state of the two that are kept; where there is none, begin with a new number."""
    iterations = read_iterations(run, system.fingerprint) or Iterations(0, -1, False, ())
    kept = [] if iterations.finished else [iterations.last, iterations.last - 1]
    for last in kept:
        if last < iterations.first:
            continue
        try:
            read_state(run, system, last)
        except CorruptTile:
            places = state_places(run, system.fingerprint, last)
            run.set_aside(array.chunk_path(*index) for array, index in places)
            continue
        residuals = iterations.residuals[: last - iterations.first + 1]
        point = replace(iterations, last=last, residuals=residuals)
        break
    else:
        point = Iterations(iterations.last + 1, iterations.last, False, ())
    record_iterations(run, system.fingerprint, point)
    return point
