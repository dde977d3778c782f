"""Regression with error bars: kernels of infinitely wide networks beside a Gaussian process with an RBF kernel.

    python workflows/regression/regression.py

The tables are those that scikit-learn ships or draws. Each is cut into five folds. A fold's figures are R2, the mean
negative log likelihood of the test targets (smaller is better), and how many of them lie in the 95 % interval.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from cntk_pipeline.estimators import KernelRegressor
from cntk_pipeline.layers import presets

Tables = dict[str, tuple[np.ndarray, np.ndarray]]
Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Score:
    """A method on a table, the mean over folds."""

    r2: float
    log_loss: float
    inside: float
    seconds: float


def tables(rows: int) -> Tables:
    """Load or draw the tables, at most so many rows of each, with standardised targets."""
    found = {
        "diabetes": datasets.load_diabetes(return_X_y=True),
        "friedman 1": datasets.make_friedman1(1000, noise=1.0, random_state=0),
        "friedman 2": datasets.make_friedman2(1000, noise=100.0, random_state=0),
        "friedman 3": datasets.make_friedman3(1000, noise=0.1, random_state=0),
    }
    return {name: (x[:rows], StandardScaler().fit_transform(y[:rows, None])[:, 0]) for name, (x, y) in found.items()}


def network(kind: str, depth: int) -> Predict:
    """Predict by a network's kernel, with the ridge of leave-one-out; the deviation includes the noise."""

    def predict(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model = KernelRegressor(presets.fully_connected(depth, b_std=0.3), kind=kind, ridge=RIDGES).fit(x, y)
        mean, deviation = model.predict(new, return_std=True)
        return mean, np.sqrt(deviation**2 + model.signal_variance_ * model.absolute_ridge_)

    return predict


RIDGES = [10.0 ** (exponent / 3) for exponent in range(3, -16, -1)]
"""Relative to trace(K) / n: three a decade from 10 to 1e-5."""


def gaussian_process(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predict by a Gaussian process with one length scale; its options have the largest likelihood."""
    kernel = ConstantKernel() * RBF(x.shape[1] ** 0.5, (1e-2, 1e3)) + WhiteKernel(0.1, (1e-5, 10))
    model: Any = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(x, y)
    return model.predict(new, return_std=True)  # with the noise, which is a part of the kernel


METHODS: dict[str, Predict] = {
    "NNGP, depth 3": network("nngp", 3),
    "NTK, depth 3": network("ntk", 3),
    "RBF": gaussian_process,
}


def score(predict: Predict, x: np.ndarray, y: np.ndarray) -> Score:
    """Score a method on five folds; features are standardised by the training rows of each."""
    r2, loss, inside, began = [], [], [], time.perf_counter()
    for train, test in KFold(5, shuffle=True, random_state=0).split(x):
        scaler = StandardScaler().fit(x[train])
        mean, deviation = predict(scaler.transform(x[train]), y[train], scaler.transform(x[test]))
        r2.append(r2_score(y[test], mean))
        loss.append(-np.mean(norm.logpdf(y[test], mean, deviation)))
        inside.append(np.mean(np.abs(y[test] - mean) < norm.ppf(0.975) * deviation))
    means = [float(np.mean(figures)) for figures in (r2, loss, inside)]
    return Score(*means, seconds=time.perf_counter() - began)


def main() -> None:
    """Score all methods on all tables and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="of a table, at most")
    given = parser.parse_args()
    print(f"{'table':<12} {'method':<14} {'R2':>6} {'log loss':>9} {'in 95%':>7} {'seconds':>8}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an option at the end of its range
        for name, (x, y) in tables(given.rows).items():
            for method, predict in METHODS.items():
                s = score(predict, x, y)
                print(f"{name:<12} {method:<14} {s.r2:>6.3f} {s.log_loss:>9.3f} {s.inside:>7.1%} {s.seconds:>8.1f}")


if __name__ == "__main__":
    main()
