"""Probabilities of classes from means of kernel regression, calibrated on leave-one-out."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy
from pydantic import with_config

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inputs import as_array
from cntk_pipeline.models import STRICT
from cntk_pipeline.regression.arguments import Array, as_finite, as_real

_EXPONENTS = (-4.0, 6.0)
"""Decimal exponents of the smallest and the largest scale: beyond, probabilities are equal, or 0 and 1, to rounding."""


@with_config(STRICT)
@dataclass(frozen=True)
class ProbabilityScores:
    """The scores of probabilities; smaller is better.

    Attributes
    ----------
    negative_log_likelihood : mean over the samples of minus the logarithm of the right class's probability, in nats.
    brier_score : mean over the samples of the squared distance from the one-hot label, from 0 to 2 (Brier 1950).
    calibration_error : the expected calibration error in 15 bins, a share; see `calibration_error`.
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

    # Convex in the scale, so its logarithm has one minimum as well.
    found = scipy.optimize.minimize_scalar(loss, bounds=_EXPONENTS, method="bounded", options={"xatol": 1e-6})
    return Probabilities(float(10**found.x))


def calibration_error(probabilities: Array, labels: npt.ArrayLike, bins: int = 15) -> float:
    """Evaluate the expected calibration error: the mean distance of confidence and accuracy, over equal bins.

    Guo et al. 2017 (arXiv:1706.04599), equation 3: bins of equal width of the largest probability, weighted by their
    samples.

    Parameters
    ----------
    probabilities : float64 array, (n, c)
    labels : int array, (n,)
        The right columns.
    bins : number of bins.
    """
    _, confidence, hits = confidence_bins(probabilities, labels, bins)
    return float(np.abs(confidence - hits).sum() / len(probabilities))


def confidence_bins(
    probabilities: Array, labels: npt.ArrayLike, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort samples into bins of equal width of the largest probability, their confidence.

    Parameters are those of `calibration_error`.

    Returns
    -------
    (bins,) arrays: the number of samples in each bin, the sum of their confidence, and the number of right ones.
    """
    confidence, hits = probabilities.max(1), probabilities.argmax(1) == as_array("labels", labels)
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    summed, right = (np.bincount(place, weights=each, minlength=bins) for each in (confidence, hits))
    return counts, summed, right


def _as_columns(labels: npt.ArrayLike, count: int, classes: int) -> npt.NDArray[np.integer]:
    columns = as_array("labels", labels)
    if columns.shape != (count,) or columns.dtype.kind not in "iu" or not np.isin(columns, range(classes)).all():
        raise ConfigError(
            f"labels must be {count} whole numbers from 0 to {classes - 1}, a column of the means each, got "
            f"{columns.dtype} of shape {columns.shape}"
        )
    return columns


def _as_means(means: npt.ArrayLike) -> Array:
    values = as_finite(as_real(means, "means"), "means")
    if values.ndim != 2 or values.shape[1] < 2 or not len(values):
        raise ConfigError(f"means must be (n, c), with a column for each of at least two classes, got {values.shape}")
    return values
