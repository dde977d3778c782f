"""The records of ``[inference]`` that a figure compares: of all systems of a run."""

from typing import Any

from cntk_pipeline.errors import ConfigError, NotComputed
from cntk_pipeline.gram.tiles import kernel_group
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.results import require_key
from cntk_pipeline.opened.systems import AskedReadout, find_readout, has_ridge
from cntk_pipeline.opened.tiles import Stored, next_step, require_stored_kernel
from cntk_pipeline.workflow.wanted import WantedSolve, find_wanted


def wanted_solves(run: OpenRun, readout: AskedReadout, ridge: float | None) -> list[WantedSolve]:
    """List the systems of the workflow, with one read-out and one ridge where they are given.

    Raises
    ------
    ConfigError
        If the run has no such read-out, or none of its systems has the ridge.
    """
    name = None if readout is None else find_readout(run.directory, readout)
    solves = find_wanted(run.directory, run.directory.workflow()).solves
    mine = [solve for solve in solves if name in (None, solve.system.readout)]
    found = [solve for solve in mine if ridge is None or has_ridge(solve.system, ridge)]
    if mine and not found:
        known = ", ".join(f"{each:g}" for each in sorted({solve.system.ridge for solve in mine}))
        raise ConfigError(f"{run.path} has no ridge {ridge:g}: its workflow has {known}")
    return found


def records_of(run: OpenRun, key: str, readout: AskedReadout, ridge: float | None) -> list[tuple[str, Any]]:
    """List the records of a key of ``[inference]`` that are there, each after the label of its system.

    Raises
    ------
    ConfigError
        If the workflow does not ask for it, or the run has no such read-out or ridge.
    NotComputed
        If no record is there yet.
    """
    require_key(run.directory, key)
    products = [product for solve in wanted_solves(run, readout, ridge) for product in solve.products]
    mine = [product for product in products if product.stage.kind == key]
    found = [(product.label, record) for product in mine if (record := product.read(run.directory)) is not None]
    if not found:
        raise NotComputed(f"{run.path}: inference.{key} is not computed yet. {next_step(run.directory)}")
    return found


def require_whole_kernel(run: OpenRun) -> None:
    """Refuse what is drawn from the kernel of all training images, where a run has the columns of centres alone.

    Raises
    ------
    ConfigError
        With the remedy.
    """
    for readout in run.readouts:
        require_stored_kernel(run.directory, Stored.of(kernel_group(run.directory), f"{readout}/train"), "this figure")
    centres = run.directory.specification.centres
    if centres is not None:
        raise ConfigError(
            f"{run.path} has the kernel's columns of {centres.count} centres, and this figure is of the kernel of all "
            'training images: a run with solver = "cholesky" has it'
        )


def readout_of_kernel(run: OpenRun, readout: AskedReadout) -> str:
    """Find a read-out; where none is named, the best, or the first as long as nothing is solved."""
    if readout is not None:
        return find_readout(run.directory, readout)
    try:
        return run.best.readout
    except NotComputed:
        return run.readouts[0]
