"""What a run will cost, before it runs: pairs, tiles, bytes, seconds and memory."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from cntk_pipeline.clusters.memory import PROCESS_BYTES, kernel_task_bytes
from cntk_pipeline.config import InferenceConfig, SolveConfig
from cntk_pipeline.datasets import Contents
from cntk_pipeline.gram.tiles import Readout
from cntk_pipeline.inference.forecast import forecast_readout, forecast_system
from cntk_pipeline.kernels import Engine
from cntk_pipeline.rundir.specification import EngineRecord
from cntk_pipeline.solvers import Method
from cntk_pipeline.solvers.forecast import IterationForecast, SystemSize, forecast_solve
from cntk_pipeline.storage.tiled_array import CRC_BYTES, Array
from cntk_pipeline.tiling import Cut, choose_tile, clip_tile, total_pairs

TASK_SECONDS = 0.012
"""What a task costs beside its arithmetic: scheduling, opening arrays, fsync. Measured on tasks of no arithmetic."""


@dataclass(frozen=True)
class StagePlan:
    """One row of a plan: how many tasks, how many bytes they write, and how long they take on all slots."""

    stage: str
    tasks: int
    written_bytes: int
    seconds: float


@dataclass(frozen=True)
class IterationPlan:
    """One iteration of conjugate gradients on all systems, whose number is not known beforehand.

    Attributes
    ----------
    tasks : of all systems.
    read_bytes : of the kernel, streamed from the store.
    seconds : on all slots.
    """

    tasks: int
    read_bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The forecast of a run.

    Attributes
    ----------
    contents : the images by class.
    warnings : what is odd about the data.
    train, test : images.
    readouts : names of the kernels.
    tile, factor_tile : samples along a tile's edge.
    pairs : of images, each computed once for all read-outs.
    plane_entries : per pair, what the time of a pair is proportional to; None where the engine counts none.
    pair_seconds : of one pair on one core, measured on a sample; the rest is derived.
    measured_share : of a pair's work, which was computed to find out.
    product_rate : float64 matrix product, floating-point operations a second and core, measured.
    slots : tiles at once.
    stages : what happens, in order, iterations aside.
    memory_bytes : the largest need of one worker.
    iteration : of conjugate gradients; None where none run.
    engine, numerics_version : what computes the values.
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

    @property
    def seconds(self) -> float:
        """Predicted time of all stages, iterations not included."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def written_bytes(self) -> int:
        """Bytes that the run leaves on disk, inputs included."""
        return sum(stage.written_bytes for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values, with the totals."""
        return asdict(self) | {"seconds": self.seconds, "written_bytes": self.written_bytes}


@dataclass(frozen=True)
class PlanInputs:
    """What a plan is made from.

    ``tile`` is None where it is to be chosen; ``sample`` holds a few standardised images.
    """

    readouts: tuple[Readout, ...]
    engine: Engine
    engine_record: EngineRecord
    dtype: str
    contents: Contents
    warnings: tuple[str, ...]
    solve: SolveConfig
    inference: InferenceConfig
    tile: int | None
    slots: int
    sample: Array


def make_plan(inputs: PlanInputs) -> Plan:
    """Measure what a pair and a matrix product cost here, choose the tiles, and add everything up."""
    engine = inputs.engine
    cost = engine.measure(inputs.sample)
    pair_seconds = cost.seconds
    rate = measure_product_rate()
    train, test, slots = inputs.contents.train, inputs.contents.test, inputs.slots
    classes = len(inputs.contents.classes)
    lanes = engine.lane_width
    if inputs.tile is None:
        tile = choose_tile(train, test, pair_seconds, slots, lanes)
    else:
        tile = clip_tile(inputs.tile, train, test, lanes)
    method = Method.of(inputs.solve)
    factor_tile = method.choose_tile(train, tile, inputs.solve.tile)
    size = SystemSize(train, classes, tile, factor_tile, inputs.dtype, rate)
    solving = forecast_solve(size, method)
    item = np.dtype(inputs.dtype).itemsize
    count = len(inputs.readouts)
    systems = count * (1 if inputs.solve.ridges == "auto" else len(inputs.solve.ridges))
    inferred = forecast_readout(inputs.inference, inputs.solve, train, test, classes) * count
    inferred += (
        forecast_system(inputs.inference, Cut(train, factor_tile), Cut(test, min(factor_tile, test)), classes) * systems
    )
    rows, columns = Cut(train, tile), Cut(test, tile)
    test_count = rows.pieces * columns.pieces
    lower_count = rows.pieces * (rows.pieces + 1) // 2
    chunk = tile * tile * item + CRC_BYTES

    def stage(name: str, tasks: int, written_bytes: int, core_seconds: float) -> StagePlan:
        return StagePlan(name, tasks, written_bytes, (core_seconds + tasks * TASK_SECONDS) / slots)

    stages: tuple[StagePlan, ...] = (
        stage("train x train", lower_count, lower_count * chunk * count, train * (train + 1) / 2 * pair_seconds),
        stage("test x train", test_count, test_count * chunk * count, test * train * pair_seconds),
        stage("test variances", columns.pieces, columns.pieces * tile * item * count, test * pair_seconds),
        stage(
            "factor and solve" if method.factors else "precondition",
            systems * solving.tasks,
            systems * solving.written_bytes,
            systems * solving.core_seconds,
        ),
        stage(
            "predict",
            systems * (columns.pieces + rows.pieces),
            systems * (test + train) * classes * 8,
            systems * 2 * (train + test) * train * classes / rate,
        ),
    )
    if inputs.inference.covariance:
        lower_tests = columns.pieces * (columns.pieces + 1) // 2
        seconds = test * (test + 1) / 2 * pair_seconds
        stages = (*stages[:3], stage("test x test", lower_tests, lower_tests * chunk * count, seconds), *stages[3:])
    if inferred.tasks:
        stages += (stage("infer", inferred.tasks, inferred.written_bytes, inferred.operations / rate),)
    return Plan(
        inputs.contents,
        inputs.warnings,
        train,
        test,
        tuple(readout.name for readout in inputs.readouts),
        tile,
        factor_tile,
        total_pairs(train, test),
        engine.plane_entries,
        pair_seconds,
        cost.share,
        rate,
        slots,
        stages,
        PROCESS_BYTES + max(kernel_task_bytes(engine, tile), solving.memory_bytes),
        None if solving.iteration is None else _plan_iteration(solving.iteration, systems, slots),
        inputs.engine_record,
        engine.numerics_version,
    )


def _plan_iteration(one: IterationForecast, systems: int, slots: int) -> IterationPlan:
    """Spread the products of all systems over the slots; their steps follow, each on a slot of its own."""
    products = systems * (one.product_seconds + one.tasks * TASK_SECONDS) / slots
    steps = math.ceil(systems / slots) * (one.step_seconds + TASK_SECONDS)
    return IterationPlan(systems * one.tasks, systems * one.read_bytes, products + steps)


def measure_product_rate(side: int = 512) -> float:
    """Measure the float64 matrix product on one thread, in floating-point operations a second."""
    a = np.ones((side, side))
    with threadpool_limits(1):
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            _ = a @ a
            seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)
