"""The fit of an estimator: with all training samples, or with some of them as centres."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import numpy as np

from cntk_pipeline.datasets.selection import draw
from cntk_pipeline.estimators.source import PRECOMPUTED, KernelSource
from cntk_pipeline.inputs import is_number, is_whole_number, short_repr
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.layers.normalization import find_dropout
from cntk_pipeline.models import CentreChoice
from cntk_pipeline.regression.arguments import AUTO_RIDGES, require_ridge_mode
from cntk_pipeline.regression.centres import FittedCentres, fit_centres
from cntk_pipeline.regression.fitting import Fitted, fit
from cntk_pipeline.regression.pivots import Rows, choose_centres

CHOICES = get_args(CentreChoice)


@contextlib.contextmanager
def as_before_on_failure(estimator: Any) -> Iterator[None]:
    """Give an estimator its attributes back where its fit fails, so that it predicts as behind the fit before.

    scikit-learn's `validate_data` sets those of the features at once, and a later prediction is checked by them.
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def fit_samples(
    estimator: Any, source: KernelSource, samples: Array, targets: Array, auto: Sequence[float] = AUTO_RIDGES
) -> tuple[Array, Fitted | FittedCentres]:
    """Fit an estimator; return the samples that predictions need the kernel with, and the fit.

    Parameters
    ----------
    estimator : KernelClassifier or KernelRegressor
        With its parameters.
    source : KernelSource
        Of the kernel.
    samples, targets : array
        Of the training; targets ``(n, c)``, or ``(n,)``.
    auto : sequence of float
        The ridges of "auto".

    Raises
    ------
    TypeError, ValueError
        If ``n_centres`` is no number of the samples, or X is a kernel matrix beside it; or a parameter of their choice
        is not one, or belongs to another choice.
    ConfigError, NotFinite, NotPositiveDefinite
        As of `fit` and `fit_centres`.
    """
    asked: dict[str, Any] = {"ridge": estimator.ridge, "ridge_mode": estimator.ridge_mode, "auto": auto}
    name = "X" if source.question is None else "the kernel"
    count = estimator.n_centres
    _require_choice(estimator)
    require_ridge_mode(estimator.ridge_mode)
    if source.question is not None:
        source.question.require_training(samples.shape[1:])
    if count is None:
        if source.question is not None:
            samples = samples.copy()  # they may be the caller's own array, and predictions read them
        return samples, fit(source.train(samples), targets, name=name, **asked)
    if source.question is None:
        raise ValueError(
            f"n_centres={count} saves kernel values, and with network={PRECOMPUTED!r} they are there: leave one out"
        )
    if not is_whole_number(count):
        raise TypeError(f"n_centres must be a whole number or None, got {short_repr(count)}")
    count = int(count)
    if not 1 <= count <= len(samples):
        raise ValueError(f"n_centres must be from 1 to the {len(samples)} samples of the fit, got {count}")
    if estimator.centre_choice == "rpcholesky" and find_dropout(source.question.network) is not None:
        raise ValueError(
            "centre_choice='rpcholesky' computes columns in the order of their draw, where Dropout tells no sample "
            "from an equal one: give another choice, or no Dropout"
        )
    diagonal, rows = source.variances(samples), np.arange(count)
    if estimator.centre_choice == "rpcholesky":

        def kernel(some: Rows, others: Rows) -> Array:
            return source.cross(samples[some], samples[others])

        limit, seed = estimator.centres_tolerance or 0.0, int(estimator.centre_seed)
        chosen = choose_centres(diagonal, kernel, count, seed=seed, tolerance=limit)
        rows, columns = chosen.rows, chosen.columns
    else:
        if estimator.centre_choice == "random":
            rows = draw(len(samples), count, int(estimator.centre_seed))
        columns = source.cross(samples, samples[rows])
        columns[rows, np.arange(count)] = diagonal[rows]  # for Dropout: a centre is one sample with itself
    fitted = fit_centres(columns, diagonal, targets.reshape(len(targets), -1), centres=rows, **asked)
    return samples[rows], fitted


def _require_choice(estimator: Any) -> None:
    choice, seed, tolerance = estimator.centre_choice, estimator.centre_seed, estimator.centres_tolerance
    if not isinstance(choice, str) or choice not in CHOICES:
        raise ValueError(f"centre_choice must be one of {', '.join(map(repr, CHOICES))}, got {short_repr(choice)}")
    if not is_whole_number(seed) or not 0 <= int(seed) < 2**32:
        raise ValueError(f"centre_seed must be a whole number from 0 to 2**32 - 1, got {short_repr(seed)}")
    if tolerance is None:
        return
    if choice != "rpcholesky":
        raise ValueError(
            f"centres_tolerance belongs to centre_choice='rpcholesky', got centre_choice={short_repr(choice)}"
        )
    if not is_number(tolerance) or not 0 < float(tolerance) < 1:
        raise ValueError(f"centres_tolerance must be a number between 0 and 1, or None, got {short_repr(tolerance)}")
