"""Classification by kernel regression on one-hot targets, as a scikit-learn estimator."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, final

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from cntk_pipeline.datasets.preprocessing import one_hot_targets
from cntk_pipeline.errors import DataError
from cntk_pipeline.estimators.fitted import as_before_on_failure, fit_samples
from cntk_pipeline.estimators.source import KernelSource, is_precomputed, read_samples
from cntk_pipeline.inputs import describe_objects, require_no_bytes, require_no_missing, require_plain
from cntk_pipeline.layers import Layer
from cntk_pipeline.models import CentreChoice
from cntk_pipeline.regression.arguments import RidgeMode
from cntk_pipeline.regression.probabilities import fit_probabilities


@final
class KernelClassifier(ClassifierMixin, BaseEstimator):
    """Classify by kernel regression with the kernel of an infinitely wide network.

    The targets of a class are ``1 - 1/c`` for its samples and ``-1/c`` for the others, with c classes. A sample gets
    the class with the largest prediction.

    Parameters
    ----------
    network : Layer or "precomputed"
        A network of `cntk_pipeline.layers`, like ``presets.cntk(3, pooling="gap")``. With "precomputed", X is a kernel
        matrix: ``(n, n)`` in `fit`, new samples against those of the fit elsewhere.
    kind : {"ntk", "nngp"}
        The kernel of training all layers, or of training only the last.
    ridge : float, sequence of float, or "auto"
        The regulariser. Of several, the one with the smallest squared error of leave-one-out is taken, from one
        eigendecomposition; "auto" means 1, 0.1, ..., 1e-7 times trace(K) / n.
    ridge_mode : {"relative", "absolute"}
        Relative to trace(K) / n, or added to the diagonal as it is.
    dtype : {"float32", "float64"}
        Of the kernel; the regression is done in float64.
    flips : bool
        Average the kernel over images flipped left to right; not of vectors.
    image_shape : (int, int, int), optional
        (H, W, C) of the images that the features are, channels last. Without it, features are vectors, and X may also
        be images ``(n, H, W, C)``. X has one of these shapes in `fit` and `predict` alike.
    n_jobs : int, optional
        Number of threads; None means all cores, or one inside a worker of joblib.
    memory : str or Path, optional
        A folder that keeps kernel values, so that the fits of a search compute each value once; or a run directory,
        whose kernel is read.
    n_centres : int, optional
        Computes the kernel of all training samples with ``n_centres`` of them alone, and regresses on these: ``n
        n_centres`` values instead of ``n^2 / 2``. docs/solving.md says more.
    centre_choice : {"first", "random", "rpcholesky"}
        The first samples are the centres, which should not be sorted then; or random ones; or those that say most of
        all others, by randomly pivoted Cholesky, at most ``n_centres``.
    centre_seed : int
        Of the random numbers of both draws.
    centres_tolerance : float, optional
        With "rpcholesky", no more centres are drawn once the relative trace error is this small.

    Attributes
    ----------
    classes_ : array, (c,)
        The classes, sorted.
    X_fit_ : array
        The training samples; with ``n_centres``, those that are centres.
    dual_coef_ : float64 array, (n, c)
        Decision values of more than two classes are ``K(x, X_fit_) @ dual_coef_``.
    ridge_, absolute_ridge_ : float
        The ridge as given or chosen, and the value added to the diagonal.
    ridge_path_ : RidgePath or None
        Leave-one-out for each ridge, where there were several.
    leave_one_out_ : float64 array, (n, c)
        The prediction of each training sample from all the others.
    probabilities_ : Probabilities
        The calibrated map from predictions to probabilities.
    n_features_in_, feature_names_in_
        As scikit-learn has them.

    Examples
    --------
    >>> from cntk_pipeline.estimators import KernelClassifier
    >>> from cntk_pipeline.layers import presets
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> KernelClassifier(presets.fully_connected(3, b_std=1.0)).fit(X[::2], y[::2]).score(X[1::2], y[1::2])
    0.96
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
        """Fit the classifier.

        Parameters
        ----------
        X : array, (n, features) or (n, H, W, C)
            With "precomputed", (n, n).
        y : array, (n,)
            Classes of any type that scikit-learn takes: numbers, text or truth values; at least two.

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
        require_no_bytes(y)
        values, y = validate_data(
            self,
            X,
            y,
            dtype="numeric",
            allow_nd=True,
            ensure_min_samples=2,
            ensure_all_finite=source.needed_numbers,
        )
        try:
            check_classification_targets(y)
            classes, labels = np.unique(y, return_inverse=True)
        except TypeError:
            held = describe_objects(np.asarray(y))
            raise DataError(
                f"y: expected classes of one type, numbers or texts, got {held}; make texts of all"
            ) from None
        if len(classes) < 2:
            raise ValueError(
                f"KernelClassifier needs samples of at least two classes, got one class only: {classes[0]}"
            )
        targets = one_hot_targets(labels, len(classes))
        samples, fitted = fit_samples(self, source, source.samples(values), targets)
        probabilities = fit_probabilities(fitted.leave_one_out, labels)
        self.classes_, self.X_fit_, self.probabilities_ = classes, samples, probabilities
        self.ridge_, self.absolute_ridge_, self.ridge_path_ = fitted.ridge, fitted.absolute_ridge, fitted.path
        self.dual_coef_, self.leave_one_out_ = fitted.coefficients, fitted.leave_one_out
        self._source = source

    def decision_function(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the prediction of each class's target.

        Returns
        -------
        float64 array, (n, c) or (n,)
            With two classes ``(n,)``, the second class's minus the first's.
        """
        means = self._means(X)
        return means[:, 1] - means[:, 0] if len(self.classes_) == 2 else means

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the class with the largest prediction, (n,)."""
        columns = self._means(X).argmax(axis=1)
        return self.classes_[columns]

    def predict_proba(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the probability of each class, (n, c).

        A softmax of the predictions times one number, which makes the left-out training samples most likely.
        """
        means = self._means(X)
        return self.probabilities_.of(means)

    def _means(self, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
        check_is_fitted(self, "dual_coef_")
        source = KernelSource.of_fit(self)
        require_plain("X", x)
        samples = read_samples(self, source, x)
        return np.concatenate([cross @ self.dual_coef_ for _, cross in source.cross_blocks(samples, self.X_fit_)])

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = is_precomputed(self.network)
        return tags
