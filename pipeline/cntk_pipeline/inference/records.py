"""What products come to: their records in a run directory, one a product and system."""

from dataclasses import dataclass
from typing import Any

from pydantic import with_config

from cntk_pipeline.models import STRICT, NotNegative, Positive, Share
from cntk_pipeline.storage.records import Record

_AGAIN = "delete it, then `cntk resume` writes it anew"


@with_config(STRICT)
@dataclass(frozen=True)
class MetricsRecord:
    """What a solve came to: the record metrics.json; pivots are None where no factor is stored.

    ``accuracy`` is of the test images, None where there is one class only; ``relative_residual`` is
    ``||(K + ridge I) alpha - Y|| / ||Y||``.
    """

    accuracy: Share | None
    relative_residual: NotNegative
    smallest_pivot: float | None = None
    largest_pivot: float | None = None


@with_config(STRICT)
@dataclass(frozen=True)
class LeaveOneOutRecord:
    """How well each training image is predicted by all others; no accuracy where there is one class only."""

    squared_error: NotNegative
    accuracy: Share | None


@with_config(STRICT)
@dataclass(frozen=True)
class LearningCurveRecord:
    """How well the first training images predict the test images, for some sizes."""

    sizes: tuple[Positive, ...]
    absolute_ridge: float
    accuracy: tuple[Share, ...] | None
    squared_error: tuple[NotNegative, ...]

    def __post_init__(self) -> None:
        _require_one_length(self.sizes, self.accuracy, self.squared_error)


@with_config(STRICT)
@dataclass(frozen=True)
class VarianceRecord:
    """The posterior variances of the test images, summarised."""

    smallest: float
    mean: float
    largest: float


@with_config(STRICT)
@dataclass(frozen=True)
class SpectrumRecord:
    """Eigenvalues at both ends of a kernel, the largest first, with what they may be off by."""

    largest: tuple[float, ...]
    largest_residuals: tuple[float, ...]
    smallest: tuple[float, ...]
    smallest_residuals: tuple[float, ...]
    maximal_learning_rate: float | None

    def __post_init__(self) -> None:
        _require_one_length(self.largest, self.largest_residuals, self.smallest, self.smallest_residuals)
        if not self.largest:
            raise ValueError("it names no eigenvalue")


@with_config(STRICT)
@dataclass(frozen=True)
class EnsembleRecord:
    """The ensemble of a network in training, at some times."""

    times: tuple[str, ...]
    accuracy: tuple[Share, ...] | None
    mean_variance: tuple[float, ...]

    def __post_init__(self) -> None:
        _require_one_length(self.times, self.accuracy, self.mean_variance)


METRICS: Record[MetricsRecord] = Record(MetricsRecord, _AGAIN)

RECORDS: dict[str, Record[Any]] = {
    "leave_one_out": Record(LeaveOneOutRecord, _AGAIN),
    "learning_curve": Record(LearningCurveRecord, _AGAIN),
    "posterior_variance": Record(VarianceRecord, _AGAIN),
    "posterior_covariance": Record(VarianceRecord, _AGAIN),
    "spectrum": Record(SpectrumRecord, _AGAIN),
    "ensemble": Record(EnsembleRecord, _AGAIN),
}
"""How each product's record is read, by its name without parameters."""


def _require_one_length(*columns: tuple[Any, ...] | None) -> None:
    if len({len(column) for column in columns if column is not None}) > 1:
        raise ValueError("its lists are not of one length")
