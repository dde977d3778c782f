"""What the products of a workflow will cost, before anything runs."""

from dataclasses import dataclass

from cntk_pipeline.config import InferenceConfig, SolveConfig
from cntk_pipeline.inference.extremes import DENSE_SAMPLES, LANCZOS_STEPS
from cntk_pipeline.inference.ridges import CANDIDATE_OPERATIONS, EIGEN_OPERATIONS
from cntk_pipeline.solvers.systems import ridge_candidates
from cntk_pipeline.tiling import Cut


@dataclass(frozen=True)
class Forecast:
    """Tasks, bytes on disk and floating-point operations, all products together."""

    tasks: int = 0
    written_bytes: int = 0
    operations: float = 0.0

    def __add__(self, other: "Forecast") -> "Forecast":
        """Add up two forecasts."""
        return Forecast(
            self.tasks + other.tasks, self.written_bytes + other.written_bytes, self.operations + other.operations
        )

    def __mul__(self, times: int) -> "Forecast":
        """Ask several times for the same."""
        return Forecast(self.tasks * times, self.written_bytes * times, self.operations * times)


def forecast_system(config: InferenceConfig, rows: Cut, tests: Cut, classes: int) -> Forecast:
    """Forecast the products of one system.

    Parameters
    ----------
    config : what is asked for.
    rows, tests : how training and test images are cut for the factor.
    classes : columns of the targets.
    """
    n, t = rows.count, tests.count
    total = Forecast()
    if config.leave_one_out:
        total += Forecast(rows.pieces, 8 * n * (classes + 1), n**3 / 3)
    if config.learning_curve or config.variance or config.covariance:
        total += Forecast(rows.pieces * tests.pieces, 8 * n * t, float(t) * n**2)
    if config.learning_curve:
        total += Forecast(tests.pieces, 0, 2.0 * n * t * classes)
    if config.variance:
        total += Forecast(tests.pieces, 8 * t, 2.0 * n * t)
    if config.covariance:
        total += Forecast(tests.pieces * (tests.pieces + 1) // 2, 4 * t**2, float(n) * t**2)
    if config.spectrum:
        total += Forecast(1, 0, 9.0 * n**3 if n <= DENSE_SAMPLES else 2.0 * LANCZOS_STEPS * n**2)
    return total


def forecast_readout(config: InferenceConfig, solve: SolveConfig, train: int, test: int, classes: int) -> Forecast:
    """Forecast what is done once a read-out: the choice of a ridge, and the times of training."""
    chosen = Forecast()
    if solve.ridges == "auto":
        cost = min(EIGEN_OPERATIONS, len(ridge_candidates()) * CANDIDATE_OPERATIONS)
        chosen = Forecast(1, 0, cost * train**3)
    numbers = classes + 1 + (test if config.covariance else 0)
    # The two read-outs of a network share its training, so that each stands for half of it.
    halves = Forecast(1, 8 * test * numbers, EIGEN_OPERATIONS * train**3) * len(config.times)
    return chosen + Forecast(-(-halves.tasks // 2), halves.written_bytes // 2, halves.operations / 2)
