"""Probabilities of the classes, calibrated on leave-one-out predictions, and their scores on the test images."""

from dataclasses import asdict, dataclass

import numpy as np
from pydantic import with_config

from cntk_pipeline.clusters.memory import Need
from cntk_pipeline.inference.base import AGAIN, LAST, Asked, Found, Product, Result, Shown
from cntk_pipeline.inference.leave_one_out import LeaveOneOutResult, leave_one_out_product
from cntk_pipeline.models import STRICT, Json, NotNegative
from cntk_pipeline.regression.probabilities import Probabilities, ProbabilityScores, fit_probabilities
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.solvers import System, SystemSize
from cntk_pipeline.solvers.work import open_work
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import Array, ArraySpec
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task


@with_config(STRICT)
@dataclass(frozen=True)
class CalibrationRecord:
    """The calibration of a system, and how good its probabilities are.

    Attributes
    ----------
    softmax_scale : float
        Multiplies the means before the softmax; one over it is the temperature. It is 1e-4, and the probabilities are
        equal, where the left-out means do not differ: see `fit_probabilities`.
    left_out : ProbabilityScores
        Scores of the training images, each predicted from all others. The scale was fitted to these.
    test : ProbabilityScores or None
        Scores of the test images; None where they have no labels.
    """

    softmax_scale: NotNegative
    left_out: ProbabilityScores
    test: ProbabilityScores | None


_RECORD: Record[CalibrationRecord] = Record(CalibrationRecord, AGAIN)


def calibration_products(run: RunDirectory, system: System, order: int) -> list[Product]:
    """List the calibration of a system, and before it the leave-one-out that it is fitted to."""
    left_out, stage = leave_one_out_product(run, system, order), Stage("calibration", solve=system.fingerprint)
    array = ArraySpec("softmax_scale", (1,), (1,), "float64", ("one",))
    after = tuple(job.task for job in left_out.jobs)
    job = Job(Task(stage, 0, 0), CALIBRATION, run.train_cut.count, (order, LAST, len(after)), after)
    return [
        left_out,
        Product(
            stage, CALIBRATION, (array,), (job,), _RECORD, lambda run: _summary(run, stage.solve), label=system.label
        ),
    ]


def fit_scale(run_path: str, task: Task) -> Receipt:
    """Fit the scale of the softmax to the leave-one-out predictions, as the estimators do."""
    work = open_work(run_path, task)
    means, labels = _left_out(work.run, work.system.fingerprint)
    return work.write(CALIBRATION, np.array([fit_probabilities(means, labels).scale]))


def _left_out(run: RunDirectory, solve: str) -> tuple[Array, Array]:
    """Read the leave-one-out predictions, and the labels of the training images."""
    labels = run.labels("train")
    assert labels is not None
    return run.inferred(solve, "leave_one_out", "prediction").read_all(), labels


def _places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.inferred(task.stage.solve, task.stage.name, "softmax_scale"), (0,))]


CALIBRATION = Owner("calibration", fit_scale, _places)


def _summary(run: RunDirectory, solve: str) -> Json:
    scale = float(run.inferred(solve, "calibration", "softmax_scale").read(0)[0])
    probabilities, labels = Probabilities(scale), run.labels("test")
    test = None if labels is None else asdict(probabilities.scores(run.solved(solve, "mean").read_all(), labels))
    return {"softmax_scale": scale, "left_out": asdict(probabilities.scores(*_left_out(run, solve))), "test": test}


class CalibrationResult(Result):
    """Probabilities of the classes: a softmax at the temperature that makes left-out training images most likely."""

    key = "calibration"
    owner = CALIBRATION
    record = _RECORD
    needs_factor = True
    needs_classes = True
    knows_centres = True

    def of_system(self, run: RunDirectory, system: System, value: bool, order: int) -> list[Product]:
        return calibration_products(run, system, order)

    def forecast(self, asked: Asked, size: SystemSize) -> list[StageForecast]:
        return [*LeaveOneOutResult().forecast(asked, size), StageForecast(self.key, 1, 8, 0.0)]

    def needs(self, size: SystemSize) -> list[Need]:
        return LeaveOneOutResult().needs(size)

    def show(self, found: Found) -> Shown:
        rows = [
            (name, f"{1 / record.softmax_scale:.4g}", f"{record.left_out.negative_log_likelihood:.4f}", *_texts(record))
            for name, record in found
        ]
        columns = ("temperature", "left-out NLL", "test NLL", "test Brier", "test ECE")
        return Shown("calibrated probabilities", columns, tuple(rows))


def _texts(record: CalibrationRecord) -> tuple[str, str, str]:
    if record.test is None:
        return "none", "none", "none"
    scores = record.test
    return (
        f"{scores.negative_log_likelihood:.4f}",
        f"{scores.brier_score:.4f}",
        f"{100 * scores.calibration_error:.2f}%",
    )
