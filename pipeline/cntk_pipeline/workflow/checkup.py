"""A check of everything in a run directory: damaged files are moved to quarantine, or written anew.

The specification and the workflow of a run say which files it should hold (`workflow.wanted`). Descriptions of arrays
are written anew from these. Bad tiles, bad records and bad chunks of the data set are moved to quarantine. They are
missing then, as `cntk status` shows, and `cntk resume` makes them again.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import CorruptTile, StoreError
from cntk_pipeline.gram.pivots import PIVOT_OWNERS, pivots_group
from cntk_pipeline.gram.tiles import TEST, TEST_TEST, TRAIN, VARIANCE, kernel_group, test_group
from cntk_pipeline.inference import Product, needs_test_kernel, path_product, requested_products
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Chunks, Job
from cntk_pipeline.rundir.sets import TaskSet
from cntk_pipeline.rundir.verification import finished, spent, with_arrays
from cntk_pipeline.solvers import METRICS, metrics, open_system, solver_of, system_group
from cntk_pipeline.storage import StorePath
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import Group
from cntk_pipeline.tasks import Stage, Task
from cntk_pipeline.workflow.predictions import check_predictions
from cntk_pipeline.workflow.wanted import OWNERS, Wanted, find_wanted

CLOSE = 1e-6
"""Largest relative difference between a record and its arrays that may come from the rounding of another machine."""


@dataclass(frozen=True)
class Checked:
    """The findings of a check of a run directory, and the repairs.

    Attributes
    ----------
    whole : int
        Number of tiles that agree with their receipts.
    bad : tuple of Task
        Tiles that are to be computed again, moved to quarantine.
    lost : tuple of StorePath
        Chunks of the data set that are gone or were damaged, moved to quarantine.
    contradicted : tuple of StorePath
        Records that disagree with the arrays that they sum up, moved to quarantine.
    unneeded : tuple of Task
        Bad tiles that the workflow does not ask for, moved to quarantine.
    mended : tuple of StorePath
        Descriptions of arrays that were gone or damaged, written anew.
    missing : int
        Number of tiles that are not computed yet, the bad ones included.
    predicted : tuple of str
        Damage of predictions for new images, one line each, moved to quarantine; no resume is needed for it.
    """

    whole: int
    bad: tuple[Task, ...]
    lost: tuple[StorePath, ...]
    contradicted: tuple[StorePath, ...]
    unneeded: tuple[Task, ...]
    mended: tuple[StorePath, ...]
    missing: int
    predicted: tuple[str, ...] = ()

    @property
    def needs_resume(self) -> bool:
        """Whether something was found that a resume makes again."""
        return bool(self.bad or self.lost or self.contradicted)


def lines_of(found: Checked) -> list[str]:
    """Write the findings as text, one line each."""
    lines = [f"{path} was gone or damaged: written anew" for path in found.mended]
    lines += [f"{path} of the data set is gone or damaged" for path in found.lost]
    lines += [f"{path} is not what its arrays come to: moved to quarantine" for path in found.contradicted]
    lines += [f"{task} was damaged on disk: moved to quarantine" for task in found.bad]
    lines += [
        f"{task} was damaged on disk, and nothing needs it any more: moved to quarantine" for task in found.unneeded
    ]
    lines += [
        f"{line} was damaged: moved to quarantine, the same `cntk predict` computes it again"
        for line in found.predicted
    ]
    return lines


def mend(run: RunDirectory, config: RunConfig) -> list[StorePath]:
    """Write anew the descriptions of arrays that are gone or damaged; return them. Called with the lease held."""
    mended = _mend_pivots(run)  # first: it tells how many columns all others have
    wanted = find_wanted(run, config)
    mended += [path for group in _groups(run, config, wanted) for path in group.mend()]
    # Records of systems are left out: they need the kernel's variances.
    for product in _products_of_no_system(run, wanted):
        is_begun = run.has_record(product.record_path) or run.inferred_path(product.solve, product.stage.name).exists()
        if is_begun and _good_record(run, product.solve) is None:
            product.specify(run)
            mended.append(run.solve_path(product.solve) / "solve.json")
    return mended


def _mend_pivots(run: RunDirectory) -> list[StorePath]:
    """Mend the arrays by which the kernel itself draws the centres, where these were begun."""
    if not run.specification.has_pivots:
        return []
    begun = {stage.kind for stage in run.journal.receipts().stages()} & {owner.kind for owner in PIVOT_OWNERS}
    return pivots_group(run).mend() if begun or run.pivots_path.exists() else []


def _products_of_no_system(run: RunDirectory, wanted: Wanted) -> list[Product]:
    return [*(path_product(run, selection) for selection in wanted.selections), *wanted.run_products]


def _good_record(run: RunDirectory, name: str) -> Json | None:
    """Read the solve.json of a solve; None where it is gone or damaged."""
    try:
        return run.solve_record(name)
    except StoreError:
        return None


def check(run: RunDirectory, config: RunConfig) -> Checked:
    """Read everything, move damaged files to quarantine, and mend descriptions of arrays. Called with the lease held.

    Raises
    ------
    StoreError
        If the record of the specification is damaged.
    """
    mended = mend(run, config)
    lost = run.stored_data.damaged()
    run.set_aside(lost)
    if not lost:
        run.stored_data.pin()
    wanted = find_wanted(run, config)
    jobs = wanted.jobs()
    tasks = TaskSet(job.task for job in jobs)
    begun = with_arrays(run, jobs)
    done, bad = finished(run, begun, verify=True)
    left_over, unneeded = finished(run, _left_over(run, tasks), verify=True)
    contradicted = run.set_aside(_contradicted(run, config, wanted))
    predicted = list(check_predictions(run))
    return Checked(
        whole=len(done) + len(left_over) + sum(whole for whole, _, _ in predicted),
        bad=tuple(bad),
        lost=tuple(lost),
        contradicted=tuple(contradicted),
        unneeded=tuple(unneeded),
        mended=(*mended, *(path for _, _, its in predicted for path in its)),
        missing=len(tasks) - len(done) - sum(task not in done for task in spent(run, jobs, Chunks(len(jobs)))),
        predicted=tuple(line for _, line, _ in predicted if line),
    )


def _groups(run: RunDirectory, config: RunConfig, wanted: Wanted) -> Iterator[Group]:
    """List the groups of arrays that were begun."""
    receipted = run.journal.receipts().stages()
    kernel, test_kernel = {Stage(owner.kind) for owner in (TRAIN, TEST, VARIANCE)}, {Stage(TEST_TEST.kind)}
    groups: list[tuple[Group, set[Stage]]] = [
        (run.stored_data.group(), kernel),  # tiles are computed from it
        (kernel_group(run), kernel),
    ]
    if needs_test_kernel(config.inference):
        groups.append((test_group(run), test_kernel))
    for solve in wanted.solves:
        record = _good_record(run, solve.name)
        if record is not None:
            system = open_system(run, solve.name)
            groups.append((system_group(run, system, record), {job.task.stage for job in solve.jobs}))
            groups += [(group, set()) for group in solver_of(system.method).scratch_groups(run, system)]
    for product in [
        *(path_product(run, selection) for selection in wanted.selections),
        *_products(run, config, wanted),
    ]:
        groups.append((product.group(run), {product.stage}))
    return (group for group, stages in groups if group.path.exists() or not receipted.isdisjoint(stages))


def _left_over(run: RunDirectory, wanted: TaskSet) -> list[Job]:
    """List receipted tasks that the workflow does not ask for, and of which a chunk is still there."""
    found = []
    for task in sorted(task for task in run.journal.receipts().tasks if task not in wanted):
        owner = OWNERS.get(task.stage.kind)
        if owner is None:  # of a newer version
            continue
        with contextlib.suppress(StoreError):  # the arrays are deleted as well
            if any(array.chunk_path(*index).size() is not None for array, index in owner.places(run, task)):
                found.append(Job(task, owner, 0))
    return found


def _products(run: RunDirectory, config: RunConfig, wanted: Wanted) -> Iterator[Product]:
    """List the products of begun systems, whose absolute ridges are known, and the products of trainings."""
    for order, solve in enumerate(wanted.solves):
        if _good_record(run, solve.name) is not None:
            yield from requested_products(run, open_system(run, solve.name), config.inference, order)
    yield from wanted.run_products


def _contradicted(run: RunDirectory, config: RunConfig, wanted: Wanted) -> Iterator[StorePath]:
    """List records that are damaged, or disagree with their arrays."""
    choices = [path_product(run, selection) for selection in wanted.selections]
    for solve in wanted.solves:
        if _good_record(run, solve.name) is None:
            yield run.path / f"solve/{solve.name}/solve.json"
        yield from _compared(run, f"solve/{solve.name}/metrics.json", METRICS, partial(metrics, solve=solve.name))
    # A choice that was made by factors has a record and no table.
    tables = (choice for choice in choices if choice.group(run).path.exists())
    for product in (*tables, *_products(run, config, wanted)):
        if product.record is not None and product.summarise is not None:
            yield from _compared(run, product.record_path, product.record, product.summarise)


def _compared(
    run: RunDirectory, relative: str, kind: Record[Any], evaluate: Callable[[RunDirectory], Json]
) -> Iterator[StorePath]:
    """Yield the path of a record if it exists and is damaged, or disagrees with its arrays."""
    try:
        record = run.read_record(relative, kind)
    except StoreError:
        yield run.path / relative
        return
    if record is None:
        return
    try:
        expected = evaluate(run)
    except (CorruptTile, StoreError):  # its tiles are bad, and are found as such
        return
    if not is_close(asdict(record), expected):
        yield run.path / relative


def is_close(found: Any, expected: Any) -> bool:
    """Tell whether a record has the expected values up to rounding; it may have more fields."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return all(is_close(found.get(key), value) for key, value in expected.items())
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        return len(found) == len(expected) and all(map(is_close, found, expected))
    if isinstance(expected, float) and isinstance(found, float | int):
        return math.isclose(found, expected, rel_tol=CLOSE, abs_tol=1e-12)
    return bool(found == expected)
