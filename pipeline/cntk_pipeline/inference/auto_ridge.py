"""The choice of a ridge by leave-one-out or by evidence, on the training images, never by the test images.

Two methods give the same numbers. One eigendecomposition in memory serves all candidates. Beyond some thousand images,
a factor of each candidate and what is compared, tile by tile on all workers, is quicker and needs less memory.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.clusters.memory import share_bytes
from cntk_pipeline.driver.driver import Outcome
from cntk_pipeline.errors import NotPositiveDefinite
from cntk_pipeline.inference.base import Found, Product, Shown
from cntk_pipeline.inference.ensemble import EIGEN_OPERATIONS
from cntk_pipeline.inference.evidence import EvidenceRecord, evidence_product, without_constants
from cntk_pipeline.inference.leave_one_out import leave_one_out_product
from cntk_pipeline.inference.remedies import RunJobs
from cntk_pipeline.models import Json, TaskName
from cntk_pipeline.regression.arguments import TrainKernel, as_train_kernel
from cntk_pipeline.regression.likelihood import evidences
from cntk_pipeline.regression.scores import mean_square
from cntk_pipeline.regression.selection import left_out_errors
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.rundir.specification import DataSpecification
from cntk_pipeline.solvers import Method, System, SystemSize, make_system
from cntk_pipeline.solvers.cholesky import chain_operations, factor_jobs, release_factor
from cntk_pipeline.solvers.scores import Scores, score, score_texts
from cntk_pipeline.solvers.systems import (
    RIDGE_CHOICE,
    coefficients_task,
    read_choice,
    read_targets,
    ridge_candidates,
    solve_name,
    with_ridge,
    with_target_mean,
)
from cntk_pipeline.solvers.work import open_work
from cntk_pipeline.storage.tiled_array import Array, ArraySpec
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task

RIDGE_PHASE = "ridge path"
"""The phase of a run in which ridges are chosen."""

EIGEN_MATRICES = 6
"""Largest number of n^2 matrices that `ridge_path` holds at once."""

CANDIDATE_OPERATIONS = 2.0 / 3.0
"""Cost of a candidate's factor and leave-one-out over n^3."""

TASK_OPERATIONS = 4e8
"""Cost of a task beside its arithmetic, in operations: 12 ms at 33 GF/s."""


@dataclass(frozen=True)
class Capacity:
    """The workers of a run: the number of tiles at once, and the memory, None where nothing limits it."""

    slots: int
    memory: WorkerMemory | None


def choose_ridges(run: RunDirectory, selections: Sequence[Json], capacity: Capacity, run_jobs: RunJobs) -> Outcome:
    """Evaluate the ridge path of each read-out and record it with the chosen ridge, unless the record exists.

    The smallest mean squared leave-one-out error wins, or the largest evidence; of equals, the largest ridge.
    Candidates with which the kernel is not positive definite are left out. Choices in memory are made side by side,
    since each takes one core.

    Parameters
    ----------
    run : RunDirectory
        Its kernel must be done.
    selections : sequence of Json
        Specifications of the choices, as in `requested_selections`.
    capacity : Capacity
        Of the workers; it decides which method is quicker.
    run_jobs : callable
        Runs jobs of a named phase.

    Returns
    -------
    Outcome
        The failures of the jobs. The record of a choice is written if none of its own jobs failed.
    """
    by_method: dict[bool, list[Json]] = {True: [], False: []}
    candidates = ridge_candidates(run.specification.data.task)
    for selection in selections:
        if read_choice(run, selection) is None:
            is_quicker = in_memory(run.train_cut.count, selection["tile"], capacity, len(candidates))
            by_method[is_quicker].append(selection)
    outcome = Outcome()
    if by_method[True]:
        outcome.failed.update(_choose_in_memory(run, by_method[True], run_jobs).failed)
    for selection in by_method[False]:
        outcome.failed.update(_choose_by_factors(run, selection, capacity.slots, run_jobs).failed)
    return outcome


def in_memory(count: int, tile: int, capacity: Capacity, candidates: int) -> bool:
    """Tell whether one eigendecomposition is quicker than a factor for each candidate, and fits into memory."""
    fits = capacity.memory is None or EIGEN_MATRICES * 8 * count**2 <= share_bytes(capacity.memory)
    pieces = -(-count // tile)
    tasks = candidates * pieces * (pieces + 7) / 2
    by_factors = (candidates * CANDIDATE_OPERATIONS * count**3 + tasks * TASK_OPERATIONS) / capacity.slots
    return fits and EIGEN_OPERATIONS * count**3 <= by_factors


def evaluate_path(run_path: str, task: Task) -> Receipt:
    """Evaluate all candidates from one eigendecomposition: a row for each, the largest ridge first.

    The columns are the absolute ridge, 1 where the kernel is positive definite with it, squared error, and accuracy; or
    R2 in the accuracy's place, in a regression. In a choice by evidence the third column is the log evidence, and the
    last is zero.

    Raises
    ------
    NotPositiveDefinite
        If the kernel is not positive definite with any candidate.
    """
    work = open_work(run_path, task)
    n = work.cut.count
    kernel = work.kernel.train((0, n), (0, n))
    targets = read_targets(work.run, (0, n))
    unit = work.kernel.mean_diagonal()
    if unit == 0:
        raise NotPositiveDefinite(
            f"{work.system.readout}: the kernel is zero everywhere: its network trains no layer, or images are black"
        )
    candidates = ridge_candidates(work.run.specification.data.task)
    table = np.zeros((len(candidates), 4))
    table[:, 0] = unit * np.array(candidates)
    evaluate = _evidence_rows if _is_by_evidence(work.run, task.stage.solve) else _left_out_rows
    try:
        rows = _definite_path(partial(evaluate, work.run), kernel, targets, table[:, 0].tolist())
    except NotPositiveDefinite as error:
        raise NotPositiveDefinite(
            f"{work.system.readout}: the kernel is not positive definite with any of the ridges {candidates[0]:g}, "
            f"{candidates[1]:g}, ..., 1e-7",
            pivot=error.pivot,
        ) from None
    for number, row in enumerate(rows):
        table[number, 1:] = 1.0, *row
    return work.write(RIDGE_PATH, table)


def _places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.inferred(task.stage.solve, task.stage.name, "candidates"), (0, 0))]


RIDGE_PATH = Owner("ridge_path", evaluate_path, _places)


_Rows = list[tuple[float, float]]
"""The last two columns of the table of candidates."""


def _definite_path(
    evaluate: Callable[[TrainKernel, Array, Array], _Rows], kernel: Array, targets: Array, ridges: Sequence[float]
) -> _Rows:
    """Evaluate the path of falling absolute ridges, without ridges that leave the kernel not positive definite."""
    while True:
        try:
            return evaluate(as_train_kernel(kernel), targets, np.array(ridges))
        except NotPositiveDefinite as error:
            smallest = error.pivot - ridges[-1]
            enough = [ridge for ridge in ridges[:-1] if ridge + smallest > 0]
            if not enough:
                raise
            ridges = enough


def _left_out_rows(run: RunDirectory, kernel: TrainKernel, targets: Array, ridges: Array) -> _Rows:
    labels = run.labels("train")
    assert labels is not None
    errors = left_out_errors(kernel, targets, ridges)
    scores = [_scores_of_errors(run, labels, targets, each) for each in errors]
    # One class only has no accuracy, and one image no R2: the summary knows that.
    figures = [next((x for x in (each.accuracy, each.r2) if x is not None), 0.0) for each in scores]
    return [(each.squared_error or 0.0, figure) for each, figure in zip(scores, figures, strict=True)]


def _evidence_rows(run: RunDirectory, kernel: TrainKernel, targets: Array, ridges: Array) -> _Rows:
    data = run.specification.data
    found = (
        replace(each, scales=without_constants(data, targets, each.scales))
        for each in evidences(kernel, targets, ridges)
    )
    return [(EvidenceRecord.of(data, each).chosen_by, 0.0) for each in found]


def _is_by_evidence(run: RunDirectory, solve: str) -> bool:
    record = run.solve_record(solve)
    assert record is not None
    return record.get("choose_by") == "evidence"


def _scores_of_errors(run: RunDirectory, labels: np.ndarray, targets: np.ndarray, errors: np.ndarray) -> Scores:
    """Score predictions by their errors; the squared error is of the errors themselves, without another rounding."""
    scores = score(run.specification.data, labels, with_target_mean(run, targets - errors))
    return replace(scores, squared_error=mean_square(errors))


def _choose_in_memory(run: RunDirectory, selections: Sequence[Json], run_jobs: RunJobs) -> Outcome:
    products = [path_product(run, selection) for selection in selections]
    for product in products:
        product.create(run)
    outcome = run_jobs(RIDGE_PHASE, [job for product in products for job in product.jobs])
    for product in products:
        if all(job.task in outcome.done for job in product.jobs):
            product.finish(run)
    return outcome


def path_product(run: RunDirectory, selection: Json) -> Product:
    """Describe the table for a choice in memory; its summary is the choice."""
    name, candidates = solve_name(selection), ridge_candidates(run.specification.data.task)
    array = ArraySpec("candidates", (len(candidates), 4), (len(candidates), 4), "float64", ("ridge", "column"))
    stage = Stage("ridge_path", solve=name)
    job = Job(Task(stage, 0, 0), RIDGE_PATH, run.train_cut.count**2)

    def summarise(run: RunDirectory) -> Json:
        table = run.inferred(name, "ridge_path", "candidates").read(0, 0)
        data, by_evidence = run.specification.data, "choose_by" in selection
        values = [
            None if not definite else value if by_evidence else _candidate_scores(data, value, figure)
            for _, definite, value, figure in table.tolist()
        ]
        return _path_record(data, by_evidence, list(zip(table[:, 0].tolist(), values, strict=True)))

    return Product(
        stage,
        RIDGE_PATH,
        (array,),
        (job,),
        RIDGE_CHOICE,
        summarise,
        label=selection["readout"],
        specification=selection,
        record_name="ridge_path.json",
    )


def _choose_by_factors(run: RunDirectory, selection: Json, slots: int, run_jobs: RunJobs) -> Outcome:
    """Solve one candidate after the other, and keep only the factor of the best so far.

    After a ridge with which the kernel is not positive definite, no smaller one is tried.
    """
    found: list[tuple[float, Scores | float | None]] = []
    best: tuple[float, System] | None = None
    outcome, by_evidence = Outcome(), "choose_by" in selection
    candidates = ridge_candidates(run.specification.data.task)
    for ridge in candidates:
        system = make_system(run, with_ridge(selection, ridge), Method())
        product = (evidence_product if by_evidence else leave_one_out_product)(run, system, 0)
        if product.read(run) is None:
            product.create(run)
            jobs = [*factor_jobs(run, system, 0, slots), *_after_solve(product, system)]
            outcome = run_jobs(f"ridge {ridge:g}", jobs)
            if any(not isinstance(error, NotPositiveDefinite) for error in outcome.failed.values()):
                return outcome
            if outcome.failed:
                release_factor(run, system.fingerprint)
                break
            product.finish(run)
        record = product.read(run)
        loss = -record.chosen_by if by_evidence else record.squared_error
        found.append((system.absolute_ridge, record.chosen_by if by_evidence else record))
        if best is None or loss < best[0]:
            if best is not None:
                release_factor(run, best[1].fingerprint)
            best = loss, system
        else:
            release_factor(run, system.fingerprint)
    if best is None:
        return outcome
    unit = found[0][0] / candidates[0]
    found += [(unit * ridge, None) for ridge in candidates[len(found) :]]
    run.write_record(path_product(run, selection).record_path, _path_record(run.specification.data, by_evidence, found))
    return Outcome()


def _after_solve(product: Product, system: System) -> list[Job]:
    """Let the jobs of a product wait for the coefficients."""
    after = (coefficients_task(system.fingerprint),)
    return [replace(job, after=after) for job in product.jobs]


def _candidate_scores(data: DataSpecification, error: float, figure: float) -> Scores:
    """Read the scores of a candidate from its row of the table."""
    if data.task == "regression":
        return Scores(error, r2=figure if data.train > 1 else None)
    return Scores(error, None if data.task == "classification" and len(data.classes) == 1 else figure)


def _path_record(
    data: DataSpecification, by_evidence: bool, found: Sequence[tuple[float, Scores | float | None]]
) -> Json:
    """Make the record of the path and of the best candidate; the largest ridge wins among equals."""
    path = {"ridges": list(ridge_candidates(data.task)), "absolute_ridges": [absolute for absolute, _ in found]}
    values = [value for _, value in found]
    return path | (_evidence_part(path["ridges"], values) if by_evidence else _left_out_part(data, values))


def _evidence_part(candidates: Sequence[float], values: Sequence[Any]) -> Json:
    none = [None] * len(candidates)
    losses = [math.inf if value is None else -value for value in values]
    chosen = candidates[int(np.argmin(losses))]
    return {"squared_error": none, "accuracy": none, "log_evidence": list(values), "chosen": chosen}


def _left_out_part(data: DataSpecification, scores: Sequence[Any]) -> Json:
    errors = [math.inf if each is None or each.squared_error is None else each.squared_error for each in scores]
    r2 = [None if each is None else each.r2 for each in scores]
    return {
        "squared_error": [None if each is None else each.squared_error for each in scores],
        "accuracy": [None if each is None else each.accuracy for each in scores],
        "chosen": ridge_candidates(data.task)[int(np.argmin(errors))],
    } | ({"r2": r2} if data.task == "regression" else {})


def forecast_choice(size: SystemSize, task: TaskName) -> StageForecast:
    """Forecast the choice of a ridge for one read-out."""
    candidates, rate = len(ridge_candidates(task)), size.product_rate
    operations = min(EIGEN_OPERATIONS, candidates * CANDIDATE_OPERATIONS) * size.train**3
    # On many slots each candidate is factored, after the one before.
    chain = candidates * chain_operations(size.cut)
    return StageForecast(RIDGE_PATH.kind, 1, 0, operations / rate, 1, min(operations, chain) / rate)


def show_choices(found: Found) -> Shown:
    """Lay out the candidates of each read-out, and the chosen one, as a table."""
    if any(path.log_evidence is not None for _, path in found):
        return _show_evidences(found)
    shown = ("R2",) if any(path.r2 for _, path in found) else ("accuracy",)
    rows = []
    for readout, path in found:
        r2 = path.r2 or (None,) * len(path.ridges)
        for ridge, absolute, *values in zip(
            path.ridges, path.absolute_ridges, path.accuracy, r2, path.squared_error, strict=True
        ):
            error, each = values[2], Scores(values[2], values[0], r2=values[1])
            numbers = ("not definite", "") if error is None else (*score_texts(each, shown), f"{error:.4g}")
            chosen = "chosen" if ridge == path.chosen else ""
            rows.append((readout, f"{ridge:g}", f"{absolute:.3g}", *numbers, chosen))
    columns = ("relative ridge", "absolute", *shown, "squared error", "")
    return Shown("ridges by leave-one-out on the training images", columns, tuple(rows))


def _show_evidences(found: Found) -> Shown:
    rows = [
        (
            readout,
            f"{ridge:g}",
            f"{absolute:.3g}",
            "not definite" if value is None else f"{value:.6g}",
            "chosen" if ridge == path.chosen else "",
        )
        for readout, path in found
        for ridge, absolute, value in zip(path.ridges, path.absolute_ridges, path.log_evidence, strict=True)
    ]
    columns = ("relative ridge", "absolute", "log evidence", "")
    return Shown("ridges by evidence on the training images", columns, tuple(rows))
