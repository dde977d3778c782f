"""The scores of predictions: accuracy of classes, R2 of numbers, squared error of both."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from pydantic import with_config

from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.models import STRICT, Fraction, Json, NotNegative
from cntk_pipeline.rundir.specification import DataSpecification
from cntk_pipeline.storage.tiled_array import Array

THRESHOLD = 0.5
"""A class of several an image is predicted where the prediction of its 0 or 1 is above."""

_ROUNDING = 64 * float(np.finfo(np.float64).eps)
"""The share of a constant target by which a prediction may differ that meets it."""


@with_config(STRICT)
@dataclass(frozen=True)
class Scores:
    """The scores of predictions; a score that the task does not have is None.

    Attributes
    ----------
    squared_error : float or None
        Mean over all entries of ``(prediction - target)^2``.
    accuracy : float, optional
        Share of images with the right class; of several classes an image, the share of right labels. None where there
        is one class only.
    exact_match : float, optional
        Of several classes an image, the share of images with all labels right.
    r2 : float, optional
        Of a regression, the mean over the targets of ``1 - sum (prediction - target)^2 / sum (target - mean)^2``. None
        where there are fewer than two images.
    r2_of_targets : tuple of float, optional
        The same of each target.
    """

    squared_error: NotNegative | None
    accuracy: Fraction | None = None
    exact_match: Fraction | None = None
    r2: float | None = None
    r2_of_targets: tuple[float, ...] | None = None

    def to_json(self) -> Json:
        """Write the scores as plain values: the accuracy always, as in runs of all versions, others as they exist."""
        return {key: value for key, value in asdict(self).items() if value is not None or key == "accuracy"}


class Scoring:
    """The comparison of predictions with the truth, some rows at a time.

    Parameters
    ----------
    data : DataSpecification
        Of the run.
    labels : array
        The truth of all rows: class numbers ``(n,)``, or targets ``(n, targets)``.
    """

    def __init__(self, data: DataSpecification, labels: Array) -> None:
        self._data, self._labels = data, labels
        self._squares = np.zeros(len(data.classes))
        self._right, self._exact = 0, 0

    def add(self, rows: slice, predictions: Array) -> None:
        """Compare predictions ``(rows, columns)`` of some rows; each row is given once."""
        labels, columns = self._labels[rows], len(self._data.classes)
        if self._data.task == "classification":
            self._right += int(np.count_nonzero(predictions.argmax(1) == labels))
            labels = one_hot_targets(labels, columns)
        elif self._data.task == "multilabel":
            agrees = (predictions > THRESHOLD) == (labels > THRESHOLD)
            self._right += int(np.count_nonzero(agrees))
            self._exact += int(np.count_nonzero(agrees.all(axis=1)))
        self._squares += np.sum((predictions - labels) ** 2, axis=0)

    def scores(self) -> Scores:
        """Return the scores of all rows."""
        rows, columns = len(self._labels), len(self._data.classes)
        error = float(self._squares.sum() / (rows * columns))
        match self._data.task:
            case "classification":
                return Scores(error, None if columns == 1 else self._right / rows)
            case "multilabel":
                return Scores(error, self._right / (rows * columns), self._exact / rows)
            case _:
                shares = _r2(self._squares, self._labels)
                return Scores(error, r2=float(np.mean(shares)) if shares else None, r2_of_targets=shares)


def score(data: DataSpecification, labels: Array, predictions: Array) -> Scores:
    """Compare predictions ``(n, columns)`` with the truth of the same rows."""
    scoring = Scoring(data, labels)
    scoring.add(slice(None), predictions)
    return scoring.scores()


def _r2(squares: Array, targets: Array) -> tuple[float, ...] | None:
    """Return R2 of each target; as in scikit-learn, a constant target gives 1 if it is met, otherwise 0.

    It is met up to rounding, since predictions are the training mean plus a part of the kernel.
    """
    if len(targets) < 2:
        return None
    # Compared by extremes: the mean of a constant like 0.1 has a rounding error, so the spread would be 1e-33.
    varied = np.ptp(targets, axis=0) > 0
    spread = np.sum((targets - targets.mean(axis=0)) ** 2, axis=0)
    met = squares <= len(targets) * (_ROUNDING * targets[0]) ** 2
    shares = np.where(varied, 1 - squares / np.where(spread > 0, spread, 1), met)
    return tuple(shares.tolist())


class Scored(Protocol):
    """A record with scores."""

    @property
    def accuracy(self) -> float | None: ...

    @property
    def exact_match(self) -> float | None: ...

    @property
    def r2(self) -> float | None: ...


def main_score(scored: Scored) -> float | None:
    """Return the one score by which predictions are ranked: the accuracy, or R2 of a regression; None without one."""
    return scored.accuracy if scored.r2 is None else scored.r2


class ScoreLists(Protocol):
    """A record with lists of scores."""

    @property
    def accuracy(self) -> Sequence[float] | None: ...

    @property
    def exact_match(self) -> Sequence[float] | None: ...

    @property
    def r2(self) -> Sequence[float] | None: ...


def score_lists(scores: Sequence[Scores]) -> Json:
    """Write the scores of several sets of predictions as lists; a score that does not exist is left out, or None."""
    lists: Json = {
        "accuracy": [each.accuracy for each in scores],
        "exact_match": [each.exact_match for each in scores],
        "r2": [each.r2 for each in scores],
    }
    known = {name: values for name, values in lists.items() if None not in values}
    return {"accuracy": None} | known


def scores_of(record: ScoreLists, count: int) -> list[Scores]:
    """Read the scores of ``count`` sets of predictions from lists, as `score_lists` writes them."""

    def column(values: Sequence[float] | None) -> Sequence[float | None]:
        return [None] * count if values is None else values

    columns = zip(column(record.accuracy), column(record.exact_match), column(record.r2), strict=True)
    return [Scores(None, accuracy, exact_match, r2) for accuracy, exact_match, r2 in columns]


def score_columns(scores: Sequence[Scored]) -> tuple[str, ...]:
    """Name the columns of a table of scores."""
    if any(each.r2 is not None for each in scores):
        return ("R2",)
    return ("accuracy", "exact match") if any(each.exact_match is not None for each in scores) else ("accuracy",)


def score_texts(each: Scored, columns: Sequence[str]) -> tuple[str, ...]:
    """Write scores for people, in the columns of `score_columns`; "none" where a score does not exist."""
    texts = {
        "R2": "none" if each.r2 is None else f"{each.r2:.4f}",
        "accuracy": share_text(each.accuracy),
        "exact match": share_text(each.exact_match),
    }
    return tuple(texts[column] for column in columns)


def share_text(value: float | None) -> str:
    """Write a share for people; "none" where it does not exist."""
    return "none" if value is None else f"{100 * value:.2f}%"
