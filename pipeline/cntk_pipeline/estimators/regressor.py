"""Kernel regression as a scikit-learn estimator."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self, final

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from cntk_pipeline.estimators.fitted import as_before_on_failure, fit_samples
from cntk_pipeline.estimators.source import KernelSource, is_precomputed, read_samples
from cntk_pipeline.inputs import require_no_missing, require_plain, require_real_targets, require_squares
from cntk_pipeline.layers import Layer
from cntk_pipeline.models import CentreChoice
from cntk_pipeline.regression.arguments import MEASURED_RIDGES, RidgeMode
from cntk_pipeline.regression.centres import FittedCentres
from cntk_pipeline.regression.posterior import signal_variance

Floats = npt.NDArray[np.float64]


@final
class KernelRegressor(RegressorMixin, BaseEstimator):
    """Kernel regression with the kernel of an infinitely wide network, for one output or several.

    The mean of the training targets is subtracted before the fit and added to predictions.

    Parameters
    ----------
    network, kind, ridge, ridge_mode, dtype, flips, image_shape, n_jobs, memory
        As of `KernelClassifier`; a ridge of "auto" may also be 10 or 100.
    n_centres, centre_choice, centre_seed, centres_tolerance
        As of `KernelClassifier`.

    Attributes
    ----------
    X_fit_ : array
        The training samples; with ``n_centres``, those that are centres.
    dual_coef_ : float64 array, (n,) or (n, outputs)
        Predictions are ``K(x, X_fit_) @ dual_coef_ + y_mean_``.
    y_mean_ : float64 array, () or (outputs,)
    ridge_, absolute_ridge_, ridge_path_
        As of `KernelClassifier`.
    leave_one_out_ : float64 array, (n,) or (n, outputs)
        The prediction of each training sample from all the others, with ``y_mean_`` of all samples.
    signal_variance_ : float64 array, () or (outputs,)
        The factor of the kernel under which the targets are most likely; standard deviations contain its root. It is
        infinite without a ridge where centres do not reach the targets, and NaN where the ridge is so small that
        rounding hides whether they do.
    n_features_in_, feature_names_in_
        As scikit-learn has them.

    Examples
    --------
    >>> from cntk_pipeline.estimators import KernelRegressor
    >>> from cntk_pipeline.layers import presets
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = KernelRegressor(presets.fully_connected(3, b_std=0.1), kind="nngp").fit(X[::2], y[::2])
    >>> round(model.score(X[1::2], y[1::2]), 2)
    0.45
    """

    def __init__(
        self,
        network: Layer | Literal["precomputed"],
        *,
        kind: str = "ntk",
        ridge: float | Sequence[float] | Literal["auto"] = "auto",
        ridge_mode: RidgeMode = "relative",
        dtype: str = "float32",
        flips: bool = False,
        image_shape: tuple[int, int, int] | None = None,
        n_jobs: int | None = None,
        memory: str | Path | None = None,
        n_centres: int | None = None,
        centre_choice: CentreChoice = "first",
        centre_seed: int = 0,
        centres_tolerance: float | None = None,
    ) -> None:
        self.network = network
        self.kind = kind
        self.ridge = ridge
        self.ridge_mode = ridge_mode
        self.dtype = dtype
        self.flips = flips
        self.image_shape = image_shape
        self.n_jobs = n_jobs
        self.memory = memory
        self.n_centres = n_centres
        self.centre_choice = centre_choice
        self.centre_seed = centre_seed
        self.centres_tolerance = centres_tolerance

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Fit the regressor.

        Parameters
        ----------
        X : array, (n, features) or (n, H, W, C)
            With "precomputed", (n, n).
        y : array, (n,) or (n, outputs)
            Real numbers.

        Raises
        ------
        TypeError, ValueError
            If a parameter or an array is invalid.
        NotPositiveDefinite
            If the kernel is not positive definite with any ridge.
        NotFinite, NotAccurate
            If numbers of the kernel are too large for the dtype, or too small to be accurate.
        StoreError
            If the memory cannot be written.
        """
        with as_before_on_failure(self):
            self._fit(X, y)
        return self

    def _fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> None:
        source = KernelSource.of(self)
        require_plain("X", X)
        require_plain("y", y)
        require_no_missing(y)
        require_real_targets("y", y)
        values, y = validate_data(
            self,
            X,
            y,
            dtype="numeric",
            allow_nd=True,
            multi_output=True,
            y_numeric=True,
            ensure_min_samples=2,
            ensure_all_finite=source.needed_numbers,
        )
        targets = np.asarray(y, np.float64)
        with np.errstate(over="ignore"):
            mean = targets.mean(axis=0)
        require_squares("y", targets.reshape(len(targets), -1), mean)
        centred = targets - mean
        samples, fitted = fit_samples(self, source, source.samples(values), centred, MEASURED_RIDGES)
        self.y_mean_, self.X_fit_ = mean, samples
        self.ridge_, self.absolute_ridge_, self.ridge_path_ = fitted.ridge, fitted.absolute_ridge, fitted.path
        self.dual_coef_ = fitted.coefficients.reshape(-1, *targets.shape[1:])
        self.leave_one_out_ = fitted.leave_one_out.reshape(targets.shape) + self.y_mean_
        columns = centred.reshape(len(targets), -1)
        if isinstance(fitted, FittedCentres):
            signal = fitted.signal_variance
        else:
            signal = signal_variance(columns, fitted.coefficients)
        self.signal_variance_ = signal.reshape(self.y_mean_.shape)
        self._fitted = fitted
        self._source = source

    def predict(
        self,
        X: npt.ArrayLike,
        return_std: bool = False,
        return_cov: bool = False,
    ) -> Floats | tuple[Floats, Floats]:
        """Predict, and say how sure the prediction is.

        Parameters
        ----------
        X : array, (n, features) or (n, H, W, C)
            With "precomputed", (n, n_fit).
        return_std : bool
            Also return the posterior standard deviation of the function, without noise.
        return_cov : bool
            Also return the posterior covariance of the function instead.

        Returns
        -------
        float64 array, (n,) or (n, outputs)
            The mean; then of the same shape the standard deviation, or (n, n) or (n, n, outputs) the covariance. Both
            are those of a Gaussian process with ``signal_variance_`` times the kernel as its prior, and
            ``signal_variance_`` times ``absolute_ridge_`` as the variance of the noise.

        Raises
        ------
        ValueError
            If both are asked for, X does not fit, or ``signal_variance_`` is infinite or NaN.
        """
        if return_std and return_cov:
            raise ValueError("at most one of return_std and return_cov can be asked for")
        check_is_fitted(self, "dual_coef_")
        if (return_std or return_cov) and not np.isfinite(self.signal_variance_).all():
            reason = "rounding hides what part of the targets the centres do not reach, and makes signal_variance_ NaN"
            if self.ridge_ == 0:
                reason = "without noise, centres that do not reach the targets make signal_variance_ infinite"
            raise ValueError(
                f"there are no deviations with ridge={self.ridge_:g} and {len(self.X_fit_)} centres: {reason}. Give "
                f"a ridge above {self.ridge_:g}, or leave n_centres out"
            )
        source = KernelSource.of_fit(self)
        require_plain("X", X)
        samples = read_samples(self, source, X)
        if return_cov:
            cross = source.cross(samples, self.X_fit_).astype(np.float64, copy=False)
            covariance = self._fitted.posterior_covariance(cross, source.covariance(samples))
            mean = cross @ self.dual_coef_ + self.y_mean_
            return mean, np.multiply.outer(covariance, self.signal_variance_)
        means, variances = [], []
        for rows, cross in source.cross_blocks(samples, self.X_fit_):
            means.append(cross @ self.dual_coef_ + self.y_mean_)
            if return_std:
                variances.append(self._fitted.posterior_variance(cross, source.variances(samples[rows])))
        mean = np.concatenate(means)
        if return_std:
            return mean, np.sqrt(np.multiply.outer(np.concatenate(variances), self.signal_variance_))
        return mean

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = is_precomputed(self.network)
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags
