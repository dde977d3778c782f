"""The forecast of a run's costs: pairs, tiles, bytes, seconds and memory."""

import math
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from cntk_pipeline.clusters.memory import PROCESS_BYTES
from cntk_pipeline.config import SolveConfig
from cntk_pipeline.datasets import Contents
from cntk_pipeline.gram.engines import kernel_task_bytes
from cntk_pipeline.gram.forecast import KernelSize, forecast_kernel
from cntk_pipeline.gram.pivots import forecast_pivots
from cntk_pipeline.inference import RESULTS, asked_of, forecast_choice, forecast_results, needs_test_kernel
from cntk_pipeline.rundir.specification import EngineRecord
from cntk_pipeline.solvers import (
    SystemSize,
    centres_of,
    forecast_predictions,
    kernel_bytes_of,
    method_of,
    options_of,
    solver_of,
    tile_of_solve,
    with_factor_tile,
)
from cntk_pipeline.solvers.forecast import IterationForecast
from cntk_pipeline.tasks import StageForecast
from cntk_pipeline.tiling import Cut, total_pairs
from cntk_pipeline.workflow.load import Loaded, allows, slots_of
from cntk_pipeline.workflow.wanted import OWNERS
from cntk_pipeline.workflow.ways import FACTOR_PASSES, PASSES, Way, compare_ways, is_telling

TASK_SECONDS = 0.012
"""Cost of a task beside its arithmetic: scheduling, opening arrays, fsync. Measured on tasks without arithmetic."""

DRIVER_SECONDS = 0.0015
"""Cost of a task in the driver and its scheduler, one after the other. Measured: benchmarks/measurements.md, of
`benchmarks/overhead.py`, has 1.5 to 2.7 ms on shared machines."""


@dataclass(frozen=True)
class StagePlan:
    """One row of a plan: all tasks of a kind of stage, the bytes that they write, and their time on all slots."""

    stage: str
    tasks: int
    written_bytes: int
    seconds: float


@dataclass(frozen=True)
class IterationPlan:
    """One iteration of conjugate gradients on all systems; the number of iterations is not known beforehand.

    Attributes
    ----------
    tasks : int
        Of all systems.
    read_bytes : int
        Of the kernel, streamed from the store.
    seconds : float
        On all slots.
    """

    tasks: int
    read_bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The forecast of a run.

    Attributes
    ----------
    contents : Contents
        The images by class.
    warnings : tuple of str
        Oddities of the data.
    train, test : int
        Images.
    readouts : tuple of str
        Names of the kernels.
    tile, factor_tile : int
        Samples along a tile's edge.
    pairs : int
        Of images, each computed once for all read-outs.
    plane_entries : int or None
        Per pair, what the time of a pair is proportional to; None where the engine counts none.
    pair_seconds : float
        Of one pair on one core, measured on a sample; the rest is derived.
    measured_share : float
        Of a pair's work, which was computed to find out; 0 where its seconds are counted.
    product_rate : float
        Float64 matrix product, floating-point operations a second and core, measured.
    slots : int
        Tiles at once.
    stages : tuple of StagePlan
        What happens, in order, iterations aside.
    memory_bytes : int
        The largest need of one worker.
    iteration : IterationPlan or None
        Of conjugate gradients; None where none run.
    engine, numerics_version
        What computes the values.
    centres : int, optional
        Columns of the kernel; None where they are all training images.
    are_pivots : bool
        Whether the kernel itself draws these centres.
    ways : tuple of Way
        To the systems, with their costs: where conjugate gradients solve them, and where it `is_telling`.
    """

    contents: Contents
    warnings: tuple[str, ...]
    train: int
    test: int
    readouts: tuple[str, ...]
    tile: int
    factor_tile: int
    pairs: int
    plane_entries: int | None
    pair_seconds: float
    measured_share: float
    product_rate: float
    slots: int
    stages: tuple[StagePlan, ...]
    memory_bytes: int
    iteration: IterationPlan | None
    engine: EngineRecord
    numerics_version: int
    centres: int | None = None
    are_pivots: bool = False
    ways: tuple[Way, ...] = ()

    @property
    def pilot(self) -> str:
        """Why no loss by the centres is forecast, and what says it; empty without centres."""
        if self.centres is None:
            return ""
        if not self.are_pivots:
            return (
                f"what is lost by {self.centres} centres is not forecast: with a few hundred images a pilot is as "
                "uncertain as most losses are large. Two runs with fewer images say it: one with the same share of "
                f"centres, {100 * self.centres / self.train:.3g} %, and one with the whole kernel. "
                "inference.learning_curve = true says whether more centres still help"
            )
        return (
            f"a pilot cannot estimate what is lost by {self.centres} centres: among a few hundred images so many are "
            "nearly all, and of fewer nothing follows for more. The run says its trace error behind each block of "
            "columns; solve.centres_tolerance ends it there, and inference.learning_curve = true shows the loss"
        )

    @property
    def all_pairs(self) -> int:
        """The pairs of images of the whole kernel, which a run without centres computes."""
        return total_pairs(self.train, self.test)

    @property
    def seconds(self) -> float:
        """Predicted time of all stages, iterations not included."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def written_bytes(self) -> int:
        """Bytes that all stages leave on disk; the stored data set is not among them."""
        return sum(stage.written_bytes for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values, with the totals."""
        return asdict(self) | {"seconds": self.seconds, "written_bytes": self.written_bytes}


def make_plan(loaded: Loaded, tile: int, kept: Collection[int], free_bytes: int | None) -> Plan:
    """Measure what a pair and a matrix product cost here, and add up what all owners forecast.

    Parameters
    ----------
    loaded : Loaded
        The workflow with its data.
    tile : int
        Edge of the kernel's tiles.
    kept : collection of int
        Tiles of the factors that the run has, where it is begun.
    free_bytes : int or None
        Of the disk of the run; None where no limit is known, and for a run that has a part of its bytes.
    """
    config, engine, nodes, contents = loaded.config, loaded.engine, loaded.nodes, loaded.contents
    cost, rate, slots = loaded.cost, measure_product_rate(), slots_of(config)
    train, test = contents.train, contents.test
    centres = centres_of(config.solve)
    columns = None if centres is None else centres.count
    has_pivots = centres is not None and centres.are_pivots
    run = _forecast(loaded, with_factor_tile(config.solve, Cut(train, tile), slots, kept), tile, rate)
    size = run.size
    needs = [
        *solver_of(method_of(config.solve)).needs(size, options_of(config.solve)),
        *(need for result in asked_of(config.inference) for need in RESULTS[result].needs(size)),
    ]

    def cost_of(solve: SolveConfig) -> tuple[float, int]:
        other = _forecast(loaded, with_factor_tile(solve, Cut(train, tile), slots, kept), tile, rate)
        stages, one = other.stage_plans(slots), other.iteration
        count = FACTOR_PASSES if solve.solver == "cholesky" else PASSES
        passes = 0.0 if one is None else count * _plan_iteration(one, other.systems, slots).seconds
        return sum(each.seconds for each in stages) + passes, sum(each.written_bytes for each in stages)

    ways = compare_ways(config.solve, train, partial(allows, loaded), cost_of, free_bytes)
    return Plan(
        contents,
        loaded.warnings,
        train,
        test,
        tuple(readout.name for readout in loaded.readouts),
        tile,
        size.tile,
        total_pairs(train, test, columns, symmetric=not has_pivots),
        engine.plane_entries,
        cost.seconds,
        cost.share,
        rate,
        slots,
        run.stage_plans(slots),
        PROCESS_BYTES + max([kernel_task_bytes(engine, tile, nodes), *(need.bytes for need in needs)]),
        None if run.iteration is None else _plan_iteration(run.iteration, run.systems, slots),
        loaded.engine_record,
        engine.version_for(engine.question),
        columns,
        has_pivots,
        ways if config.solve.solver == "cg" or is_telling(ways) else (),
    )


@dataclass(frozen=True)
class _Forecast:
    """The stages of a run, the size of its systems and their number, and an iteration where there are any."""

    stages: tuple[StageForecast, ...]
    size: SystemSize
    systems: int
    iteration: IterationForecast | None

    def stage_plans(self, slots: int) -> tuple[StagePlan, ...]:
        """Spread the stages over the slots, in the order in which they are shown."""
        order = list(OWNERS)
        return tuple(plan_stage(row, slots) for row in sorted(self.stages, key=lambda row: order.index(row.kind)))


def _forecast(loaded: Loaded, solve: SolveConfig, tile: int, rate: float) -> _Forecast:
    """Add up what the owners of all stages forecast for a ``[solve]``, which need not be that of the workflow."""
    config, contents, nodes, count = loaded.config, loaded.contents, loaded.nodes, len(loaded.readouts)
    train, test, dtype, pair_seconds = contents.train, contents.test, config.kernel.dtype, loaded.cost.seconds
    solver, options, centres = solver_of(method_of(solve)), options_of(solve), centres_of(solve)
    columns, has_pivots = None if centres is None else centres.count, centres is not None and centres.are_pivots
    kernel = KernelSize(
        *(train, test, tile, dtype, count, columns, 1.0 if nodes is None else nodes.test_weight),
        symmetric=not has_pivots,
        kernel_bytes=kernel_bytes_of(solve),
    )
    size = SystemSize(
        *(train, test, contents.columns, tile, tile_of_solve(solve, train, tile), dtype, rate, columns),
        kept=kernel.kept,
        pair_seconds=pair_seconds,
    )
    systems = count * (1 if solve.ridges == "auto" else len(solve.ridges))
    stages = (
        *forecast_kernel(kernel, pair_seconds, test_kernel=needs_test_kernel(config.inference)),
        *(forecast_pivots(kernel, pair_seconds, rate) if has_pivots else []),
        *([forecast_choice(size, contents.task) * count] if solve.ridges == "auto" else []),
        *(row * systems for row in (*solver.forecast(size, options), *forecast_predictions(size))),
        *forecast_results(config.inference, size, systems, count),
    )
    return _Forecast(stages, size, systems, solver.forecast_iteration(size, options))


def plan_stage(row: StageForecast, slots: int) -> StagePlan:
    """Bound a stage by the work of all slots, by its longest chain of tasks, and by the driver."""
    seconds = max(
        (row.core_seconds + row.tasks * TASK_SECONDS) / slots,
        row.longest_seconds + min(row.chain, row.tasks) * TASK_SECONDS,
        row.tasks * DRIVER_SECONDS,
    )
    return StagePlan(row.kind, row.tasks, row.written_bytes, seconds)


def _plan_iteration(one: IterationForecast, systems: int, slots: int) -> IterationPlan:
    """Spread the products of all systems over the slots; their steps follow, each on a slot of its own."""
    tasks = systems * one.tasks
    products = plan_stage(StageForecast("product", tasks, 0, systems * one.product_seconds), slots).seconds
    steps = math.ceil(systems / slots) * (one.step_seconds + TASK_SECONDS)
    return IterationPlan(tasks, systems * one.read_bytes, products + steps)


def measure_product_rate(side: int = 512) -> float:
    """Measure the float64 product of square matrices on one thread, in floating-point operations a second."""
    a = np.ones((side, side))
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            _ = a @ a
            seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)
