"""A summary of a run directory, at any time: its workflow, its progress, its results.

Reads the directory only and changes nothing, so it works beside a running driver.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cntk_pipeline.datasets import Contents
from cntk_pipeline.driver.timing import read_timings
from cntk_pipeline.errors import CorruptTile, StoreError
from cntk_pipeline.gram.pivots import trace_errors
from cntk_pipeline.inference import RIDGE_PATH, RIDGE_PHASE
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import Provenance, RunDirectory
from cntk_pipeline.rundir.growth import Growth
from cntk_pipeline.rundir.owners import Chunks
from cntk_pipeline.rundir.receipts import Receipts
from cntk_pipeline.rundir.specification import DataSpecification, EngineRecord
from cntk_pipeline.rundir.verification import spent, with_arrays
from cntk_pipeline.solvers import METRICS, RidgeChoice, kept_tiles_of, read_choice, solve_name, solver_of
from cntk_pipeline.solvers.scores import main_score
from cntk_pipeline.solvers.systems import label_of
from cntk_pipeline.tasks import Receipt, Stage, Task
from cntk_pipeline.telemetry.driver_log import find_executor
from cntk_pipeline.units import python_text
from cntk_pipeline.workflow.predictions import PredictionReport, report_predictions
from cntk_pipeline.workflow.wanted import KERNEL, Wanted, WantedSolve, WantedStage, find_wanted


@dataclass(frozen=True)
class StageReport:
    """The progress of a stage.

    Attributes
    ----------
    phase : str
        "kernel", "ridge path", "solve" or "inference".
    stage : str
        Its kind.
    done, total : int
        Tiles; of "ridge_path" read-outs, of which each has one choice.
    seconds : float
        Core-seconds spent in its tasks, the sum of the three that follow.
    read_seconds, compute_seconds, write_seconds : float
        The parts of ``seconds``; reading counts only while a task waits.
    bytes : int
        Written.
    """

    phase: str
    stage: str
    done: int
    total: int
    seconds: float
    read_seconds: float
    compute_seconds: float
    write_seconds: float
    bytes: int


@dataclass(frozen=True)
class TimingReport:
    """The use of the slots by a stage; drivers that were killed are not counted.

    Attributes
    ----------
    stage : str
        As the progress of a run names it: "kernel" is all matrices together.
    wall_seconds : float
        Time by the clock.
    slot_seconds : float
        Time by the clock, times the number of slots.
    core_seconds : float
        Time spent in tasks.
    efficiency : float or None
        Core seconds divided by slot seconds; None where no time passed.
    """

    stage: str
    wall_seconds: float
    slot_seconds: float
    core_seconds: float
    efficiency: float | None


@dataclass(frozen=True)
class InferredReport:
    """A product of ``[inference]`` for one solve: its name, and its record as on disk; None until it is done."""

    product: str
    record: Any


@dataclass(frozen=True)
class RidgePathReport:
    """The choice of a ridge for one read-out: its record as on disk, None until it is made."""

    readout: str
    record: RidgeChoice | None


@dataclass(frozen=True)
class TrainedReport:
    """A result for a network, which belongs to no ridge: its key, and its record as on disk; None until it is done."""

    network: str
    product: str
    record: Any


@dataclass(frozen=True)
class SolveReport:
    """The results of one ridge of one read-out; the fields of its numbers are None until it is solved.

    ``iterations`` counts the iterations of conjugate gradients so far, ``iteration_residual`` is their last residual;
    both are None where none run. The scores are as in `MetricsRecord`; the pivots stay None where no factor is stored.
    ``inferred`` holds the products of ``[inference]``. The scores of probabilities on the test images are there with
    ``inference.calibration``, and ``log_evidence``, with the best factor of the kernel, with ``inference.evidence``.
    """

    readout: str
    ridge: float
    ridge_mode: str
    name: str
    absolute_ridge: float | None = None
    iterations: int | None = None
    iteration_residual: float | None = None
    accuracy: float | None = None
    relative_residual: float | None = None
    smallest_pivot: float | None = None
    largest_pivot: float | None = None
    squared_error: float | None = None
    exact_match: float | None = None
    r2: float | None = None
    r2_of_targets: tuple[float, ...] | None = None
    negative_log_likelihood: float | None = None
    brier_score: float | None = None
    calibration_error: float | None = None
    log_evidence: float | None = None
    inferred: tuple[InferredReport, ...] = ()

    @property
    def label(self) -> str:
        """Name the system for people."""
        return label_of(self.readout, self.ridge, self.ridge_mode)


@dataclass(frozen=True)
class CentresReport:
    """The centres that the kernel itself draws, as far as they are drawn.

    Attributes
    ----------
    count, most : int
        Centres so far, and at most.
    tolerance : float or None
        Relative trace error at which the draw ends; None where there is no such limit.
    trace_errors : tuple of float
        The relative trace error before the first block of columns, which is 1, and behind each block.
    is_over : bool
        Whether no more are drawn.
    """

    count: int
    most: int
    tolerance: float | None
    trace_errors: tuple[float, ...]
    is_over: bool


@dataclass(frozen=True)
class RunReport:
    """A run directory, summarised.

    Attributes
    ----------
    path : str
        Of the run directory.
    fingerprint : str
        Of its specification.
    data, dtype, tile, engine, numerics_version
        Of the specification.
    readouts : tuple of str
        Names of the kernels.
    provenance : Provenance
        Versions, host and time of its creation.
    grown_from : str or None
        The older run that it took tiles over from, or None.
    driver : str or None
        "host:pid" of the driver at work, or None.
    executor : str or None
        Where that driver computes, with the address of a dashboard; None until it says so.
    quarantined : int
        Chunks and records in quarantine.
    lost_inputs : tuple of str
        Chunks of the data set that are gone.
    stages : tuple of StageReport
        How far each is.
    timings : tuple of TimingReport
        How busy the slots were.
    ridge_paths : tuple of RidgePathReport
        Choices of a ridge, where the workflow leaves it to leave-one-out.
    solves : tuple of SolveReport
        Results.
    trained : tuple of TrainedReport
        Ensembles of networks in training, where times were asked for.
    predictions : tuple of PredictionReport
        Of new images, by `cntk predict`; they are no part of the run, and ``complete`` does not ask for them.
    openers : tuple of str
        Lines of Python that open the arrays with zarr and with xarray.
    centres : CentresReport, optional
        The centres that the kernel itself draws; None where it draws none.
    choose_by : str, optional
        What the training images choose a system by, where the workflow says it.
    lost_driver : str, optional
        A driver that did not give the run back and is silent, "host:pid"; None where there is none.
    silent_seconds : float, optional
        Since it was last heard of, by the clocks of the store and of this machine.
    """

    path: str
    fingerprint: str
    data: DataSpecification
    dtype: str
    tile: int
    engine: EngineRecord
    numerics_version: int
    readouts: tuple[str, ...]
    provenance: Provenance
    grown_from: str | None
    driver: str | None
    executor: str | None
    quarantined: int
    lost_inputs: tuple[str, ...]
    stages: tuple[StageReport, ...]
    timings: tuple[TimingReport, ...]
    ridge_paths: tuple[RidgePathReport, ...]
    solves: tuple[SolveReport, ...]
    trained: tuple[TrainedReport, ...]
    predictions: tuple[PredictionReport, ...]
    openers: tuple[str, ...]
    centres: CentresReport | None = None
    choose_by: str | None = None
    lost_driver: str | None = None
    silent_seconds: float | None = None

    @property
    def best(self) -> SolveReport | None:
        """The solved system that the training images choose, or the test images where none of its measures is there.

        By `choose_by`; without it by leave-one-out where all systems have it, otherwise by the test images. Of equals
        the first; None where no system is solved, or the measure asked for is not computed yet.
        """
        solved = [each for each in self.solves if each.relative_residual is not None]
        if self.choose_by is not None and None in [_record_of(each, self.choose_by) for each in solved]:
            return None
        left_out = [_left_out_score(each) for each in solved]
        if self.choose_by == "evidence":
            scores = [_record_of(each, "evidence").chosen_by for each in solved]
        elif self.choose_by == "leave_one_out" or None not in left_out:
            scores = left_out
        else:
            scores = [main_score(each) for each in solved]
        ranked = [-math.inf if score is None else score for score in scores]
        return solved[ranked.index(max(ranked))] if solved else None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do: every tile, every record of a result and the data set are there."""
        solved = all(
            solve.absolute_ridge is not None
            and solve.relative_residual is not None
            and all(item.record is not None for item in solve.inferred)
            for solve in self.solves
        )
        chosen = all(path.record is not None for path in self.ridge_paths)
        trained = all(training.record is not None for training in self.trained)
        tiles = all(stage.done == stage.total for stage in self.stages)
        return tiles and chosen and solved and trained and not self.lost_inputs

    @property
    def at_work(self) -> tuple[str, int, int] | None:
        """The stage at work, its finished tiles and all its tiles; the kernel's matrices count as one stage."""
        parts: dict[str, tuple[int, int]] = {}
        for stage in self.stages:
            done, total = parts.get(stage.phase, (0, 0))
            parts[stage.phase] = done + stage.done, total + stage.total
        return next(((name, done, total) for name, (done, total) in parts.items() if done < total), None)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values, with ``complete`` and ``best``, the name of the best system.

        Scores that the task does not have are left out.
        """
        return asdict(self, dict_factory=_present) | {
            "data": self.data.to_json(),
            "complete": self.complete,
            "best": None if self.best is None else self.best.name,
        }


def _present(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary without scores and parts that only some runs have."""
    return {name: value for name, value in fields if value is not None or name not in OPTIONAL_FIELDS}


OPTIONAL_FIELDS = (
    *("squared_error", "exact_match", "r2", "r2_of_targets"),
    *("centres", "choose_by"),
    *("negative_log_likelihood", "brier_score", "calibration_error", "log_evidence"),
)


def read_contents(run: RunDirectory) -> Contents | None:
    """Count the images of a run by class; None where they are not stored yet, or damaged."""
    if not run.has_inputs():
        return None
    data = run.specification.data
    try:
        train, test = run.labels("train"), run.labels("test")
    except StoreError:
        return None
    assert train is not None
    return Contents.count(data.classes, data.shape, train, test, data.task, data.test)


def make_report(run: RunDirectory) -> RunReport:
    """Summarise a run directory."""
    wanted = find_wanted(run, run.workflow())
    receipts = run.journal.receipts()
    choices = [RidgePathReport(each["readout"], read_choice(run, each)) for each in wanted.selections]
    stages = [_stage_report(run, stage, receipts) for stage in wanted.stages()]
    if choices:
        stages.insert(sum(stage.phase == KERNEL for stage in stages), _ridge_stage(wanted, choices, receipts))
    solves = [_solve_report(run, solve) for solve in wanted.solves]
    trained = [TrainedReport(product.label, product.stage.kind, product.read(run)) for product in wanted.run_products]
    growth, seen = Growth.of(run), lease.look(run.lease_path)
    driver = seen.name if seen is not None and not seen.is_silent else None
    return RunReport(
        path=str(run.path),
        fingerprint=run.fingerprint,
        data=run.specification.data,
        dtype=run.specification.dtype,
        tile=run.specification.tile,
        engine=run.specification.engine,
        numerics_version=run.specification.numerics_version,
        readouts=tuple(readout.name for readout in run.specification.readouts),
        provenance=run.provenance,
        grown_from=None if growth is None else growth.path,
        driver=driver,
        executor=None if driver is None else find_executor(run.path / "log", driver),
        quarantined=len((run.path / "quarantine").listing()),
        lost_inputs=tuple(map(str, run.stored_data.lost())),
        stages=tuple(stages),
        timings=tuple(TimingReport(**asdict(timing), efficiency=timing.efficiency) for timing in read_timings(run)),
        ridge_paths=tuple(choices),
        solves=tuple(solves),
        trained=tuple(trained),
        predictions=tuple(report_predictions(run)),
        lost_driver=None if seen is None or not seen.is_silent else seen.name,
        silent_seconds=None if seen is None else seen.silent_seconds,
        openers=_openers(run, [report.name for report in solves if report.relative_residual is not None]),
        centres=_report_centres(run),
        choose_by=run.workflow().solve.choose_by,
    )


def _report_centres(run: RunDirectory) -> CentresReport | None:
    centres, rows = run.specification.centres, run.column_rows
    if centres is None or rows is None:
        return None
    try:
        errors = tuple(trace_errors(run))
    except (CorruptTile, StoreError):  # a resume computes it again
        errors = ()
    return CentresReport(len(rows), centres.count, centres.tolerance, errors, run.has_all_pivots)


def _solve_report(run: RunDirectory, solve: WantedSolve) -> SolveReport:
    far = solver_of(solve.system.method).iterations(run, solve.system)
    record = run.solve_record(solve.name) or {}
    results = run.read_record(f"solve/{solve.name}/metrics.json", METRICS)
    inferred = {item.stage.kind: item.read(run) for item in solve.products if item.summarise is not None}
    return SolveReport(
        solve.system.readout,
        solve.system.ridge,
        solve.system.ridge_mode,
        solve.name,
        record.get("absolute_ridge"),
        None if far is None else far.count,
        None if far is None or not far.residuals else far.residuals[-1],
        **({} if results is None else asdict(results)),
        **_further_scores(inferred),
        inferred=tuple(InferredReport(kind, record) for kind, record in inferred.items()),
    )


def _record_of(solve: SolveReport, product: str) -> Any:
    return next((item.record for item in solve.inferred if item.product == product), None)


def _left_out_score(solve: SolveReport) -> float | None:
    record = _record_of(solve, "leave_one_out")
    return None if record is None else main_score(record)


def _further_scores(inferred: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the scores of a solve from its records of inference, by the kind of their product."""
    evidence, calibration = inferred.get("evidence"), inferred.get("calibration")
    scores = {} if calibration is None or calibration.test is None else asdict(calibration.test)
    return scores | ({} if evidence is None else {"log_evidence": evidence.best_log_evidence})


def _stage_report(run: RunDirectory, stage: WantedStage, receipts: Receipts) -> StageReport:
    # A receipt whose chunk is gone (quarantined, deleted) does not count, unless it was there until it was used up;
    # then the receipt may be gone as well, damaged in the journal.
    chunks = Chunks(len(stage.jobs))
    used_up = spent(run, stage.jobs, chunks)
    found = _Sum(sum(task not in receipts.tasks for task in used_up))
    for job in with_arrays(run, stage.jobs):
        receipt = None if job.task in used_up else receipts.get(job.task)
        if receipt is not None and None not in [chunks.size(*place) for place in job.places(run)]:
            found.add(receipt)
    for task in used_up:
        found.add(receipts.get(task))
    return found.report(stage.phase, stage.kind, len(stage.jobs))


def _ridge_stage(wanted: Wanted, choices: Sequence[RidgePathReport], receipts: Receipts) -> StageReport:
    # Choices made by factors have no task of their own; those tasks are no part of what a workflow asks for.
    found = _Sum()
    for selection in wanted.selections:
        found.add(receipts.get(Task(Stage(RIDGE_PATH.kind, solve=solve_name(selection)), 0, 0)))
    found.done = sum(choice.record is not None for choice in choices)
    return found.report(RIDGE_PHASE, RIDGE_PATH.kind, len(choices))


@dataclass
class _Sum:
    """Adds up what the receipts of a stage say."""

    done: int = 0
    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    write_seconds: float = 0.0
    bytes: int = 0

    def add(self, receipt: Receipt | None) -> None:
        """Add a finished tile; nothing where its receipt is not known."""
        if receipt is not None:
            self.done += 1
            self.read_seconds += receipt.read_seconds
            self.compute_seconds += receipt.compute_seconds
            self.write_seconds += receipt.write_seconds
            self.bytes += receipt.written_bytes

    def report(self, phase: str, stage: str, total: int) -> StageReport:
        """Report the stage."""
        seconds = self.read_seconds + self.compute_seconds + self.write_seconds
        parts = self.read_seconds, self.compute_seconds, self.write_seconds
        return StageReport(phase, stage, self.done, total, seconds, *parts, self.bytes)


def _openers(run: RunDirectory, solved: Sequence[str]) -> tuple[str, ...]:
    readout, kernels = run.specification.readouts[0].name, run.kernel_path.zarr_expression()
    layout = "a column a pivot" if run.specification.has_pivots else "lower tiles; the others are NaN"
    kept = kept_tiles_of(run, run.workflow().solve)
    if kept is not None:
        layout = f"{kept.count} of {kept.total} lower tiles; the others are NaN"
    lines = [
        f"cntk_pipeline.open_run({python_text(run.path)}).to_xarray()",
        f'zarr.open_array({kernels}, path="{readout}/train", mode="r")  # {layout}',
        f'xarray.open_zarr({kernels}, group="{readout}", consolidated=False)',
    ]
    if solved:
        factor = (run.solve_path(solved[0]) / "factor.zarr").zarr_expression()
        lines.append(f'zarr.open_array({factor}, path="mean", mode="r")')
    return tuple(lines)
