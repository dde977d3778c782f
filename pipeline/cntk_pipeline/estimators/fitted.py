"""The fit of an estimator: with all training samples, or with the first of them as centres."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from cntk_pipeline.estimators.source import PRECOMPUTED, KernelSource
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.regression.arguments import AUTO_RIDGES
from cntk_pipeline.regression.centres import FittedCentres, fit_centres
from cntk_pipeline.regression.fitting import Fitted, fit


def fit_samples(
    estimator: Any, source: KernelSource, samples: Array, targets: Array, auto: Sequence[float] = AUTO_RIDGES
) -> tuple[Array, Fitted | FittedCentres]:
    """Fit an estimator; return the samples that predictions need the kernel with, and the fit.

    Parameters
    ----------
    estimator : with its parameters.
    source : of the kernel.
    samples, targets : of the training; targets ``(n, c)``, or ``(n,)``.
    auto : the ridges of "auto".

    Raises
    ------
    TypeError, ValueError
        If ``n_centres`` is no number of the samples, or X is a kernel matrix beside it.
    ConfigError, NotFinite, NotPositiveDefinite
        As of `fit` and `fit_centres`.
    """
    asked: dict[str, Any] = {"ridge": estimator.ridge, "ridge_mode": estimator.ridge_mode, "auto": auto}
    count = estimator.n_centres
    if count is None:
        return samples, fit(source.train(samples), targets, **asked)
    if source.question is None:
        raise ValueError(
            f"n_centres={count} saves kernel values, and with network={PRECOMPUTED!r} they are there: leave one out"
        )
    if not isinstance(count, Integral) or isinstance(count, bool):
        raise TypeError(f"n_centres must be a whole number or None, got {count!r}")
    count = int(count)
    if not 1 <= count <= len(samples):
        raise ValueError(f"n_centres must be from 1 to the {len(samples)} samples of the fit, got {count}")
    centres = samples[:count]
    columns = source.cross(samples, centres)
    return centres, fit_centres(columns, source.variances(samples), targets.reshape(len(targets), -1), **asked)
