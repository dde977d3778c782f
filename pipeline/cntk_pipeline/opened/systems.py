"""The read-outs and the systems of a run, by the names and the ridges that people give."""

import json
import math
from collections.abc import Sequence
from numbers import Integral

from cntk_pipeline.errors import ConfigError, NotComputed
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.layers import spelling
from cntk_pipeline.regression.arguments import is_one_number
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.specification import BESIDE_THE_RESULT
from cntk_pipeline.solvers import System, open_system
from cntk_pipeline.units import shell_word
from cntk_pipeline.workflow.report import make_report
from cntk_pipeline.workflow.wanted import find_wanted

AskedReadout = str | Sequence[object] | None
"""A read-out as people name it: its name, or its depth, pooling and kind; None where a run has only one."""


def readout_names(run: RunDirectory) -> list[str]:
    """List the read-outs of a run."""
    return [readout.name for readout in run.specification.readouts]


def find_readout(run: RunDirectory, asked: AskedReadout) -> str:
    """Find the name of a read-out.

    Parameters
    ----------
    run : RunDirectory
        The run.
    asked : str, sequence, or None
        A name; or depth, pooling and kind, as in ``(3, "gap", "ntk")``, without the parts that the name has not; or
        None for the only read-out.

    Raises
    ------
    ConfigError
        If the run has no such read-out, with the nearest name.
    """
    names = readout_names(run)
    if asked is None:
        if len(names) == 1:
            return names[0]
        raise ConfigError(f"{run.path} has {len(names)} read-outs, name one of them: {', '.join(names)}")
    if not isinstance(asked, str | Sequence):
        raise ConfigError(
            'a read-out is given by its name, or by depth, pooling and kind as in (3, "gap", "ntk"), '
            f"got {short_repr(asked)}; "
            "a ridge and a part are given by name, as ridge=0.01"
        )
    name = asked if isinstance(asked, str) else "-".join(_part(part) for part in asked if part is not None)
    if name not in names:
        near = spelling.nearest(name, names)
        known = "" if "known are" in near else f" (known are {', '.join(names)})"
        raise ConfigError(f"{run.path} has no read-out {name!r}{near}{known}")
    return name


def _part(part: object) -> str:
    return f"depth{part}" if isinstance(part, Integral) else str(part)


def find_system(run: RunDirectory, readout: str, ridge: float | None) -> System:
    """Find the system of a read-out with a ridge.

    Parameters
    ----------
    run : RunDirectory
        The run.
    readout : str
        Name of a read-out of the run.
    ridge : float or None
        As the workflow gave it. None takes the only ridge, or the ridge that leave-one-out has chosen. Systems of
        earlier workflows of the run are found too, where they are solved and the last workflow has none with the ridge.

    Raises
    ------
    ConfigError
        If the ridge is no number; if there is no system with it, or several and none is named; or if earlier workflows
        have solved several with it, by other modes of the ridge, with and without a unit diagonal, or by other solvers.
    NotComputed
        If the ridge is not chosen yet.
    """
    wanted = [solve.system for solve in find_wanted(run, run.workflow()).solves if solve.system.readout == readout]
    wanted = [_opened(run, system) for system in wanted]
    if ridge is None:
        if not wanted:
            raise NotComputed(f"{run.path}: the ridge of {readout} is not chosen yet; {_how_far(run)}")
        if len(wanted) > 1:
            raise ConfigError(f"{readout} has several ridges, give one of them: {_ridges(wanted)}")
        return wanted[0]
    _require_number(ridge)
    asked = next((system for system in wanted if has_ridge(system, ridge)), None)
    if asked is not None:
        return asked
    earlier = _earlier(run, readout, {system.fingerprint for system in wanted})
    found = {_described(system): system for system in earlier if has_ridge(system, ridge)}
    if len(found) > 1:
        raise ConfigError(
            f"{run.path}: earlier workflows have solved {len(found)} systems of {readout} with the ridge {ridge:g}: "
            f"{'; '.join(sorted(found))}. Run the workflow again with this ridge in solve.ridges, and the ridge_mode, "
            "unit_diagonal and solver of one of them: what is solved is kept"
        )
    if not found:
        known = ", ".join(dict.fromkeys([_described(system) for system in (*wanted, *earlier)]))
        raise ConfigError(
            f"{run.path} has no ridge {ridge:g} of {readout}: it has {known or 'none yet'}. Add it to solve.ridges"
            " and run the workflow again; the kernel is kept"
        )
    return next(iter(found.values()))


def _require_number(ridge: float) -> None:
    if not is_one_number(ridge):
        raise ConfigError(f"ridge must be one of the numbers in solve.ridges, or be left out, got {short_repr(ridge)}")


def has_ridge(system: System, ridge: float) -> bool:
    """Tell whether a system has the ridge that people give; `ConfigError` if it is no number."""
    _require_number(ridge)
    return math.isclose(system.ridge, ridge, rel_tol=1e-9)


def find_best(run: RunDirectory) -> System:
    """Find the best solved system; see `RunReport.best`.

    Raises
    ------
    NotComputed
        If no system is solved yet, or what they are compared by is not computed.
    """
    report = make_report(run)
    if report.best is None:
        solved = any(each.relative_residual is not None for each in report.solves)
        lacking = f"{report.choose_by} of all systems is not computed yet" if solved else "no system is solved yet"
        raise NotComputed(f"{run.path}: {lacking}; {_how_far(run)}")
    return open_system(run, report.best.name)


def _opened(run: RunDirectory, system: System) -> System:
    """Return the system as it is stored, with its absolute ridge, where it is begun."""
    return system if run.solve_record(system.fingerprint) is None else open_system(run, system.fingerprint)


def _earlier(run: RunDirectory, readout: str, wanted: set[str]) -> list[System]:
    """List the solved systems that the last workflow does not ask for."""
    return [
        open_system(run, name)
        for name, record in run.solves().items()
        if name not in wanted and record["readout"] == readout and run.has_record(f"solve/{name}/metrics.json")
    ]


def _described(system: System) -> str:
    """Write the ridge of a system with all that changes its numbers: ``0.1 (absolute, unit_diagonal = true)``."""
    method = {"solver": system.method.solver} if system.method.solver != "cholesky" else {}
    options = {key: value for key, value in system.method.options.items() if key not in BESIDE_THE_RESULT}
    said = ({"unit_diagonal": True} if system.unit_diagonal else {}) | method | options
    words = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    return f"{system.ridge:g} ({', '.join([system.ridge_mode, *words])})"


def _ridges(systems: Sequence[System]) -> str:
    return ", ".join(f"{system.ridge:g} ({system.ridge_mode})" for system in systems)


def _how_far(run: RunDirectory) -> str:
    word = shell_word(run.path)
    return f"`cntk status {word}` says how far it is, `cntk resume {word}` goes on"
