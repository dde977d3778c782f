"""The passes over a run: its phases in their order, again where a tile turns out to be damaged."""

from collections.abc import Sequence

from cntk_pipeline.config import RunConfig
from cntk_pipeline.driver.driver import Outcome
from cntk_pipeline.driver.phases import Phases, View
from cntk_pipeline.driver.rounds import Course
from cntk_pipeline.errors import CorruptTile
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.gram.pivots import pivot_jobs, pivot_rounds, pivots_group, trace_errors
from cntk_pipeline.graphs import NodeCounts
from cntk_pipeline.inference import (
    Capacity,
    add_remedies,
    choose_ridges,
    needs_test_kernel,
    requested_products,
    run_products,
)
from cntk_pipeline.rundir.code import UserCode
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.grids import Jobs
from cntk_pipeline.solvers import (
    METRICS,
    System,
    forget_tiles,
    kept_tiles_of,
    make_system,
    method_of,
    metrics,
    open_system,
    prediction_jobs,
    requested_selections,
    requested_solves,
    reserve_buffers,
    solve_name,
    solver_of,
)
from cntk_pipeline.workflow.checkup import mend
from cntk_pipeline.workflow.load import mend_inputs
from cntk_pipeline.workflow.preflight import kernel_need, lacks_pairs
from cntk_pipeline.workflow.wanted import INFERENCE, KERNEL, SOLVE

PASSES = 3
"""Passes at most: the first, and those that compute damaged tiles again."""


def prepare_worker(
    run_path: str, versions: dict[str, str], code: UserCode | None, computes: bool = False, test_kernel: bool = False
) -> None:
    """Prepare a process that computes tiles; parameters and errors as in `gram.prepare_worker`, `reserve_buffers`."""
    forget_tiles()  # an earlier driver may have used other values of the options that do not change the result
    reserve_buffers()
    gram.prepare_worker(run_path, versions, code, computes, test_kernel)


def check_inputs(run: RunDirectory, config: RunConfig, view: View) -> None:
    """Check all chunks of the data set, and write damaged ones anew; errors as of `mend_inputs`."""
    for path in mend_inputs(run, config):
        view.say(f"{path} was gone or damaged: written anew from the data set")


def compute(phases: Phases, config: RunConfig, is_checked: bool) -> None:
    """Compute what is left; where a tile is found damaged, check all and begin again; `PASSES` passes at most.

    Parameters
    ----------
    is_checked : bool
        Whether the chunks of the data set were checked.
    """
    for outcome in phases.mending(PASSES, lambda each: _pass(each, config, is_checked)):
        outcome.require()


def _pass(phases: Phases, config: RunConfig, is_checked: bool) -> list[Outcome]:
    """Go once through all phases, and return what came of those that may meet damaged tiles."""
    phases.executor.adapt()
    centres = _draw_centres(phases, config, is_checked)
    if centres.failed:
        return [centres]
    _compute_kernel(phases, config, is_checked)
    phases.executor.hold(phases.stop)
    return [centres, _choose_ridges(phases, config), _solve(phases, config), _infer(phases, config)]


def _compute_kernel(phases: Phases, config: RunConfig, is_checked: bool) -> None:
    """Compute the tiles of the kernel that are not there, by workers with the memory for them, from whole images."""
    run, jobs = phases.run, _kernel_jobs(phases.run, config, None)
    done = phases.look_up(jobs)
    if len(done) < len(jobs):
        _make_ready(phases, config, is_checked)
        nodes = gram.node_counts(run)
        jobs = jobs if nodes is None else _kernel_jobs(run, config, nodes)
    phases.run_jobs(KERNEL, jobs, done).require()


def _make_ready(phases: Phases, config: RunConfig, is_checked: bool) -> None:
    """Check the data set and the workers' memory, where tiles of the kernel are gone, but not their receipts."""
    run, memory = phases.run, phases.executor.memory()
    if not is_checked:
        check_inputs(run, config, phases.view)
    if memory is not None and not lacks_pairs(run, config):  # otherwise the memory was looked at
        kernel_need(run, memory).require(memory)


def _kernel_jobs(run: RunDirectory, config: RunConfig, nodes: NodeCounts | None) -> Jobs:
    jobs = gram.kernel_jobs(run, nodes, kept_tiles_of(run, config.solve))
    if not needs_test_kernel(config.inference):
        return jobs
    gram.test_group(run).create()
    return jobs + gram.test_kernel_jobs(run, nodes)


def _draw_centres(phases: Phases, config: RunConfig, is_checked: bool) -> Outcome:
    """Let the kernel itself draw the centres, and compute its columns, where the workflow asks for that."""
    run = phases.run
    if not run.specification.has_pivots:
        return Outcome()
    pivots_group(run).create()
    if not gram.is_whole(run):
        _make_ready(phases, config, is_checked)
    *_, last = pivot_jobs(run)
    course = Course("centres", pivot_rounds(run), last, ())
    outcome, _ = phases.run_courses(KERNEL, [course], lambda: _pivots_text(run))
    if not outcome.failed and not run.has_all_pivots:
        outcome.failed[last.task] = CorruptTile(f"{run.pivots_path}: a chunk of the pivots is damaged")
    if run.has_all_pivots:
        mend(run, config)  # where there are fewer centres than there may be, all arrays become smaller
        run.forget_arrays()
    return outcome


def _pivots_text(run: RunDirectory) -> str:
    """Describe how far the draw of centres is, where it has begun."""
    try:
        errors = trace_errors(run)
    except CorruptTile:  # the task that reads it finds it too, and it is computed again
        errors = []
    return f"block {len(errors)}, relative trace error {errors[-1]:.1e} before it" if errors else ""


def _choose_ridges(phases: Phases, config: RunConfig) -> Outcome:
    """Choose a ridge for each read-out, where the workflow leaves that to leave-one-out."""
    capacity = Capacity(phases.executor.slots, phases.executor.memory())
    outcome = choose_ridges(phases.run, requested_selections(phases.run, config), capacity, phases.run_jobs)
    add_remedies(phases.run, outcome, phases.run_jobs)
    return outcome


def _solve(phases: Phases, config: RunConfig) -> Outcome:
    run, method = phases.run, method_of(config.solve)
    systems = [make_system(run, specification, method) for specification in requested_solves(run, config)]
    courses = [_course(phases, system, order) for order, system in enumerate(systems)]
    phases.take_over([course.solution for course in courses])  # before a course of many rounds begins
    outcome, solved = phases.run_courses(SOLVE, courses, lambda: _convergence(run, systems))
    for name in solved:
        if run.read_record(f"solve/{name}/metrics.json", METRICS) is None:
            run.write_record(f"solve/{name}/metrics.json", metrics(run, name))
    add_remedies(run, outcome, phases.run_jobs)
    return outcome


def _course(phases: Phases, system: System, order: int) -> Course:
    run, solver = phases.run, solver_of(system.method)
    *_, solution = solver.jobs(run, system)
    predictions = prediction_jobs(run, system.fingerprint, order)
    rounds = solver.rounds(run, system, order, phases.executor.slots)
    return Course(system.fingerprint, rounds, solution, predictions)


def _convergence(run: RunDirectory, systems: Sequence[System]) -> str:
    """Describe the progress of the slowest system that iterates; an empty text where none does."""
    far = [solver_of(system.method).iterations(run, system) for system in systems]
    open_ones = [iterations for iterations in far if iterations and iterations.residuals and not iterations.finished]
    if not open_ones:
        return ""
    worst = max(open_ones, key=lambda iterations: iterations.residuals[-1])
    return f"iteration {worst.count + 1}, residual {worst.residuals[-1]:.1e}"


def _infer(phases: Phases, config: RunConfig) -> Outcome:
    """Compute the results of inference for every system that is solved, and those that belong to no system."""
    run, products = phases.run, []
    for order, specification in enumerate(requested_solves(run, config)):
        system = open_system(run, solve_name(specification))
        if run.has_record(f"solve/{system.fingerprint}/metrics.json"):
            products += requested_products(run, system, config.inference, order)
    products += run_products(run, config.inference)
    if not products:
        return Outcome()
    for product in products:
        product.create(run)
    outcome = phases.run_jobs(INFERENCE, [job for product in products for job in product.jobs])
    for product in products:
        if all(job.task in outcome.done for job in product.jobs):
            product.finish(run)
    return outcome
