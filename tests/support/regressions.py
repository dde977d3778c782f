"""Small regressions in memory: kernels of random features, targets, test samples."""

from dataclasses import dataclass

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

LAW = settings(max_examples=25, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Regression:
    """Two kernels on the same samples, and targets.

    Attributes
    ----------
    nngp, ntk : array, (n + n_test, n + n_test)
        The training samples first; positive definite, symmetric in every bit.
    y : array, (n, c)
    y_test : array, (n_test, c)
    """

    nngp: np.ndarray
    ntk: np.ndarray
    y: np.ndarray
    y_test: np.ndarray

    @property
    def train(self) -> np.ndarray:
        return self.ntk[: len(self.y), : len(self.y)]

    @property
    def test_train(self) -> np.ndarray:
        return self.ntk[len(self.y) :, : len(self.y)]

    @property
    def test(self) -> np.ndarray:
        return self.ntk[len(self.y) :, len(self.y) :]


def make_regression(seed: int, n: int, n_test: int, c: int) -> Regression:
    """Draw a regression; the condition numbers stay below some hundreds, so that 1e-10 is a fair demand."""
    rng = np.random.default_rng(seed)
    count = n + n_test
    features = rng.standard_normal((count, count)) / count**0.5
    more = rng.standard_normal((count, count)) / count**0.5
    nngp = _mirrored(features @ features.T + 0.1 * np.eye(count))
    return Regression(
        nngp, nngp + _mirrored(more @ more.T), rng.standard_normal((n, c)), rng.standard_normal((n_test, c))
    )


def _mirrored(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


def regressions(least: int = 1) -> st.SearchStrategy[Regression]:
    """Regressions of ``least`` to 9 training samples, 1 to 4 test samples, 1 to 3 columns."""
    return st.builds(
        make_regression, st.integers(0, 2**31), st.integers(least, 9), st.integers(1, 4), st.integers(1, 3)
    )


def blocks(kernel: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a kernel of all samples into train, test_train and test."""
    return kernel[:n, :n], kernel[n:, :n], kernel[n:, n:]
