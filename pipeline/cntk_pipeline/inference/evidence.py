"""The evidence of a solved system: the likelihood of its training targets, from its existing factor."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from pydantic import with_config

from cntk_pipeline.config import SolveConfig
from cntk_pipeline.errors import ConfigError, NotFinite
from cntk_pipeline.inference.base import AGAIN, LAST, Asked, Found, Product, Result, Shown
from cntk_pipeline.models import STRICT, Json, NotNegative
from cntk_pipeline.regression.likelihood import Evidence, log_determinant
from cntk_pipeline.regression.posterior import signal_variance
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.rundir.specification import DataSpecification
from cntk_pipeline.solvers import System, SystemSize, centres_of
from cntk_pipeline.solvers.prediction import read_pivots
from cntk_pipeline.solvers.systems import read_targets
from cntk_pipeline.solvers.work import open_work
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import Array, ArraySpec
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task


@with_config(STRICT)
@dataclass(frozen=True)
class EvidenceRecord:
    """The evidence of a system; see `regression.Evidence`.

    Attributes
    ----------
    log_determinant : float
        Of the kernel plus ridge.
    log_evidence : float
        Of all columns of the targets, with the kernel as it is.
    scales : tuple of float
        The factors of the kernel with which the targets are most likely: one for each target of a regression, one for
        all columns of the other tasks.
    best_log_evidence : float or None
        With these factors. A column whose targets are all equal is left out of it, and of the factor of several
        columns, since its best factor is zero; None where no column is left.
    """

    log_determinant: float
    log_evidence: float
    scales: tuple[NotNegative, ...]
    best_log_evidence: float | None

    @classmethod
    def of(cls, data: DataSpecification, found: Evidence) -> Self:
        """Make the record of a system of a data set."""
        scales = np.atleast_1d(kernel_scales(data, found.scales))
        varied = replace(found, scales=found.scales[found.scales > 0])
        best = scales[scales > 0]
        likeliest = None
        if len(best):
            likeliest = varied.at(best if data.task == "regression" else float(best[0]))
        return cls(found.log_determinant, found.at(), tuple(scales.tolist()), likeliest)

    @property
    def chosen_by(self) -> float:
        """What systems are compared by: the evidence with the best factors, or as it is where all targets are equal."""
        return self.log_evidence if self.best_log_evidence is None else self.best_log_evidence


_RECORD: Record[EvidenceRecord] = Record(EvidenceRecord, AGAIN)


def evidence_product(run: RunDirectory, system: System, order: int) -> Product:
    """Describe the evidence of a system: one task, which reads the diagonal tiles of the factor one after the other.

    ``-1/2 sum_c (y_c^T (K + r I)^-1 y_c + log det(K + r I) + n log 2 pi)`` over the columns c of the targets, as the
    solve meets them (Rasmussen and Williams 2006, equation 5.8). The ridge r is the variance of the noise.

    With centres, ``B B^T`` of `nystroem` is the kernel, and the matrix determinant lemma gives ``log det(B B^T + r I) =
    log det(B^T B + r I) + (n - m) log r``.
    """
    stage, columns = Stage("evidence", solve=system.fingerprint), len(run.specification.data.classes)
    arrays = (
        ArraySpec("log_determinant", (1,), (1,), "float64", ("one",)),
        ArraySpec("scales", (columns,), (columns,), "float64", (run.specification.data.column_axis,)),
    )
    job = Job(Task(stage, 0, 0), EVIDENCE, run.train_cut.count, (order, LAST, 0))
    return Product(stage, EVIDENCE, arrays, (job,), _RECORD, lambda run: _summary(run, stage.solve), label=system.label)


def evaluate_evidence(run_path: str, task: Task) -> Receipt:
    """Evaluate the log determinant, and the factor of the kernel of each column of the targets.

    Raises
    ------
    NotPositiveDefinite
        If the kernel plus ridge is singular up to rounding.
    NotFinite
        With centres, if rounding hides what they leave of the targets.
    """
    work = open_work(run_path, task)
    run, system, count = work.run, work.system, work.run.train_cut.count
    if run.specification.centres is None:
        diagonal = work.kernel.variance("train", (0, count)) + system.absolute_ridge
        determinant = log_determinant(read_pivots(run, system.fingerprint, "factor"), diagonal, system.label)
    else:
        pivots = read_pivots(run, system.fingerprint, "normal_factor")
        determinant = 2.0 * float(np.log(pivots).sum()) + (count - len(pivots)) * math.log(system.absolute_ridge)
    return work.write(
        EVIDENCE, np.array([determinant]), column_scales(run, system, work.solved("coefficients").read(0, 0))
    )


def column_scales(run: RunDirectory, system: System, coefficients: Array) -> Array:
    """Estimate the factor of the kernel for each column of the targets, ``(columns,)``; see `signal_variance`.

    Raises
    ------
    NotFinite
        With centres, if rounding hides what they leave of the targets.
    """
    targets, data = read_targets(run, (0, run.train_cut.count)), run.specification.data
    if run.specification.centres is None:
        return without_constants(data, targets, signal_variance(targets, coefficients))
    # y^T (B B^T + ridge I)^-1 y by the matrix inversion lemma; a ridge of zero is refused before.
    explained = np.square(run.solved(system.fingerprint, "forward").read(0, 0)).sum(axis=1)
    whole = np.square(targets).sum(axis=0)
    whole, explained = (without_constants(data, targets, each) for each in (whole, explained))
    hidden = whole - explained < len(targets) * np.finfo(np.float64).eps * whole
    if hidden.any():
        raise NotFinite(
            f"{system.label}: expected that the centres leave a part of the targets, and of column "
            f"{int(np.flatnonzero(hidden)[0])} rounding hides it. Give a larger ridge, or fewer centres"
        )
    return (whole - explained) / (system.absolute_ridge * len(targets))


def without_constants(data: DataSpecification, targets: Array, scales: Array) -> Array:
    """Set values of the columns, ``(columns,)``, to 0 where the target is constant.

    Its mean has a rounding error, as that of 0.1, so that the centred target is 1e-17 everywhere, and not 0. Targets of
    a classification are not centred, so that a column without a change counts as the others.
    """
    return scales if data.task == "classification" else np.where(np.ptp(targets, axis=0) > 0, scales, 0.0)


def kernel_scales(data: DataSpecification, scales: Array) -> Array:
    """Join the factors of columns that are parts of one answer: ``(columns,)``, or ``()`` for all classes.

    A label that no training image has, or each one, is constant: its factor is 0, and has no part in theirs.
    """
    if data.task == "regression":
        return scales
    varied = scales[scales > 0]
    return (varied if len(varied) else scales).mean()


def _places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.inferred(task.stage.solve, task.stage.name, part), (0,)) for part in ("log_determinant", "scales")]


EVIDENCE = Owner("evidence", evaluate_evidence, _places)


def _summary(run: RunDirectory, solve: str) -> Json:
    determinant, scales = (run.inferred(solve, "evidence", part).read(0) for part in ("log_determinant", "scales"))
    return asdict(
        EvidenceRecord.of(run.specification.data, Evidence(run.train_cut.count, float(determinant[0]), scales))
    )


class EvidenceResult(Result):
    """The log marginal likelihood of the training targets, with the kernel as it is and with its most likely factor."""

    key = "evidence"
    owner = EVIDENCE
    record = _RECORD
    needs_factor = True
    knows_centres = True

    def require_solve(self, solve: SolveConfig) -> None:
        if centres_of(solve) is not None and solve.ridges != "auto" and min(solve.ridges) == 0:
            raise ConfigError(
                'inference.evidence needs ridges above 0 with solver = "centres": without noise, targets that the '
                "centres cannot meet have the likelihood zero. Leave the ridge 0 out of solve.ridges"
            )

    def of_system(self, run: RunDirectory, system: System, value: Any, order: int) -> list[Product]:
        return [evidence_product(run, system, order)]

    def forecast(self, asked: Asked, size: SystemSize) -> list[StageForecast]:
        return [StageForecast(self.key, 1, 8 * (1 + size.classes), 0.0)]

    def show(self, found: Found) -> Shown:
        rows = [
            (name, *evidence_texts(rec.best_log_evidence, rec.scales), f"{rec.log_evidence:.6g}") for name, rec in found
        ]
        return Shown("evidence", ("log evidence", "factor of the kernel", "without the factor"), tuple(rows))


def evidence_texts(best: float | None, scales: tuple[float, ...]) -> tuple[str, str]:
    """Write the log evidence and its factors for people; of many factors, the smallest and the largest."""
    low, high = min(scales), max(scales)
    factors = f"{low:.4g}" if len(scales) == 1 else f"{low:.4g} to {high:.4g}"
    return "none" if best is None else f"{best:.6g}", factors
