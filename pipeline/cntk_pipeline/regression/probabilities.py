"""Probabilities of classes from means of kernel regression, calibrated on leave-one-out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
from pydantic import with_config

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inputs import as_array, is_whole_number
from cntk_pipeline.models import STRICT
from cntk_pipeline.regression.arguments import Array, as_finite, as_real

_EXPONENTS = (-4.0, 6.0)
"""Decimal exponents of the smallest and largest scale: beyond, means near 1 have equal probabilities, or 0 and 1."""

_LARGE, _LEAST_GAIN = 100.0, 4.0
"""A scale above which differences of means of 0.01 decide, and the nats by which such a scale must make all labels
together more likely than equal probabilities do. Rounding alone gains more in one of 200 cases, as chi square of one
degree of freedom exceeds twice as much."""

_ROUNDED_GAIN = 1e-12
"""The same for smaller scales, as a share of minus the log likelihood: less is the rounding of its sum."""

ROUNDED = 1e-5
"""By so much rounding may take a probability in float32 out of the range from 0 to 1."""


@with_config(STRICT)
@dataclass(frozen=True)
class ProbabilityScores:
    """The scores of probabilities; smaller is better.

    Attributes
    ----------
    negative_log_likelihood : float
        Mean over the samples of minus the logarithm of the right class's probability, in nats.
    brier_score : float
        Mean over the samples of the squared distance from the one-hot label, from 0 to 2 (Brier 1950).
    calibration_error : float
        The expected calibration error in 15 bins, a share; see `calibration_error`.
    """

    negative_log_likelihood: float
    brier_score: float
    calibration_error: float


@dataclass(frozen=True)
class Probabilities:
    """A map from means to probabilities: the softmax of ``scale`` times the means.

    One scale for all classes is what Guo et al. 2017 (arXiv:1706.04599) call temperature scaling: the most probable
    class stays the class of the largest mean.
    """

    scale: float

    def of(self, means: npt.ArrayLike) -> Array:
        """Return the probability of each class.

        Parameters
        ----------
        means : array, (n, c)
            Predictions of one-hot targets, a column a class.

        Returns
        -------
        float64 array, (n, c)
            Rows add up to 1.
        """
        return scipy.special.softmax(self.scale * _as_means(means), axis=1)

    def scores(self, means: npt.ArrayLike, labels: npt.ArrayLike) -> ProbabilityScores:
        """Compare the probabilities with the truth.

        Parameters
        ----------
        means : array, (n, c)
        labels : int array, (n,)
            The right columns.

        Raises
        ------
        ConfigError, NotFinite
            As in `fit_probabilities`.
        """
        values = _as_means(means)
        columns = _as_columns(labels, *values.shape)
        every = np.arange(len(values))
        # The logarithm of a probability that rounds to zero would be infinite.
        likelihoods = scipy.special.log_softmax(self.scale * values, axis=1)[every, columns]
        probabilities = self.of(values)
        missing = probabilities.copy()
        missing[every, columns] -= 1.0
        return ProbabilityScores(
            -float(likelihoods.mean()),
            float(np.square(missing).sum(axis=1).mean()),
            calibration_error(probabilities, columns),
        )


def fit_probabilities(means: npt.ArrayLike, labels: npt.ArrayLike) -> Probabilities:
    """Choose the scale with which left-out samples are most likely.

    Each label counts with the weight ``(n + 1) / (n + 2)``, and all classes share the rest. Without it, the scale of
    samples that are all predicted right would be infinite (Platt 1999 does the same for two classes).

    Means that are equal, or differ by rounding alone, say nothing of the scale: a kernel so narrow that no sample
    resembles another one leaves only such means, and so does a single sample. The scale is then the smallest one, 1e-4,
    with which probabilities are equal to about four digits. It is also taken in the place of a scale above 100 that
    gains less than 4 nats: noise gains as much.

    Parameters
    ----------
    means : array, (n, c)
        Predictions of samples that the fit did not see, like those of `leave_one_out`; at least two columns.
    labels : int array, (n,)
        The right columns.

    Raises
    ------
    ConfigError
        If the shapes do not fit, or there are no two classes.
    NotFinite
        If a mean is nan or infinite.

    Examples
    --------
    Two of three samples are right, so the scale is small:

    >>> import numpy as np
    >>> probabilities = fit_probabilities(np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]]), [0, 1, 1])
    >>> probabilities.of([[0.9, 0.1]]).round(2)
    array([[0.84, 0.16]])
    """
    values = _as_means(means)
    count, classes = values.shape
    columns = _as_columns(labels, count, classes)
    targets = np.full(values.shape, 1 / (classes * (count + 2)))
    targets[np.arange(count), columns] += (count + 1) / (count + 2)

    def loss(exponent: float) -> float:
        return -float(np.sum(targets * scipy.special.log_softmax(10**exponent * values, axis=1)))

    # Convex in the scale, so that its logarithm has one minimum as well; or it is flat, and the search ends anywhere.
    found = scipy.optimize.minimize_scalar(loss, bounds=_EXPONENTS, method="bounded", options={"xatol": 1e-6})
    lowest = _EXPONENTS[0]
    least = _LEAST_GAIN if 10**found.x > _LARGE else _ROUNDED_GAIN * found.fun
    is_unknown = loss(lowest) - found.fun < least and found.x > lowest + 1  # else it is at the lowest one by itself
    return Probabilities(float(10 ** (lowest if is_unknown else found.x)))


def calibration_error(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15, *, classes: npt.ArrayLike | None = None
) -> float:
    """Evaluate the expected calibration error: the mean distance of confidence and accuracy, over equal bins.

    Guo et al. 2017 (arXiv:1706.04599), equation 3: bins of equal width of the largest probability, weighted by their
    samples.

    Parameters
    ----------
    probabilities : array, (n, c)
        From 0 to 1, a column a class; at least two columns.
    labels : array, (n,)
        The right columns, as whole numbers from 0 to c - 1; with ``classes`` the right classes.
    bins : int
        Number of bins, at least 1.
    classes : array, (c,), optional
        The class of each column, such as ``model.classes_`` of an estimator. Labels of estimators need it, unless their
        classes are 0, 1, ..., c - 1.

    Raises
    ------
    ConfigError
        If a shape does not fit, a probability is outside 0 to 1, a label has no column, or there is no bin.
    NotFinite
        If a probability is nan or infinite.

    Examples
    --------
    >>> round(calibration_error([[0.9, 0.1], [0.2, 0.8]], ["no", "yes"], classes=["no", "yes"]), 3)
    0.15
    """
    counts, confidence, hits = confidence_bins(probabilities, labels, bins, classes=classes)
    return float(np.abs(confidence - hits).sum() / counts.sum())


def confidence_bins(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int, *, classes: npt.ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort samples into bins of equal width of the largest probability, their confidence.

    Parameters and errors are those of `calibration_error`.

    Returns
    -------
    (array, array, array)
        The number of samples in each bin, the sum of their confidence, and the number of right ones, ``(bins,)`` each.
    """
    if not is_whole_number(bins) or bins < 1:
        raise ConfigError(f"bins must be a whole number of at least 1, got {bins!r}")
    values = _as_means(probabilities, "probabilities")
    if values.min() < -ROUNDED or values.max() > 1 + ROUNDED:
        raise ConfigError(
            f"probabilities must be from 0 to 1, got {values.min():.6g} to {values.max():.6g}: those of "
            "`predict_proba`, and not of `decision_function`"
        )
    columns = _as_columns(labels, *values.shape) if classes is None else _columns_of(labels, classes, *values.shape)
    confidence, hits = values.max(1), values.argmax(1) == columns
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    summed, right = (np.bincount(place, weights=each, minlength=bins) for each in (confidence, hits))
    return counts, summed, right


def _columns_of(labels: npt.ArrayLike, classes: npt.ArrayLike, count: int, columns: int) -> npt.NDArray[np.integer]:
    """Find the columns of labels that are classes."""
    given, names = as_array("labels", labels), as_array("classes", classes)
    known = {name: column for column, name in enumerate(names.tolist())} if names.ndim == 1 else {}
    if names.shape != (columns,) or len(known) != columns:
        raise ConfigError(
            f"classes must be {columns} different values, the class of each column, got an array of shape "
            f"{names.shape} with {len(known)} different ones"
        )
    if given.shape != (count,):
        raise ConfigError(f"labels must be {count} of the classes, ({count},), got an array of shape {given.shape}")
    found = np.array([known.get(label, -1) for label in given.tolist()])
    if found.min() < 0:
        row = int(found.argmin())
        raise ConfigError(f"labels[{row}] is {given[row]!r}, which is none of the classes {names.tolist()}")
    return found


def _as_columns(labels: npt.ArrayLike, count: int, classes: int) -> npt.NDArray[np.integer]:
    columns = as_array("labels", labels)
    if columns.shape != (count,) or columns.dtype.kind not in "iu" or not np.isin(columns, range(classes)).all():
        raise ConfigError(
            f"labels must be {count} whole numbers from 0 to {classes - 1}, a column of the means or probabilities "
            f"each, got {columns.dtype} of shape {columns.shape}{_outside(columns, classes)}. Of other classes, "
            "np.searchsorted(model.classes_, labels) are the columns"
        )
    return columns


def _outside(columns: npt.NDArray[Any], classes: int) -> str:
    """Show the values of labels that are whole numbers, where one of them is no column."""
    if columns.dtype.kind in "iu" and columns.size and (columns.min() < 0 or columns.max() >= classes):
        return f", from {columns.min()} to {columns.max()}"
    return ""


def _as_means(means: npt.ArrayLike, name: str = "means") -> Array:
    values = as_finite(as_real(means, name), name)
    if values.ndim != 2 or values.shape[1] < 2 or not len(values):
        raise ConfigError(f"{name} must be (n, c), with a column for each of at least two classes, got {values.shape}")
    return values
