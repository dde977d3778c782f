"""How far two computations of one kernel may differ: the one place that says so."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tolerance:
    """Bounds of a difference, relative to the largest kernel value at hand.

    Attributes
    ----------
    dual : float
        Of one dual activation and its polynomial, a few units in the last place.
    kernel : float
        Of a whole kernel, a few hundred roundings deep; in float32, what is promised.
    parallel : float
        The same where correlations may be near +1 or -1 without being those of a pixel with itself. The slope of arccos
        is infinite there: an error of eps in rho moves k0 by sqrt(2 eps) / pi, in every layer, in float64; in float32
        such pairs are computed in float64.
    golden : float
        Against golden values, which other systems computed in float64 without exact correlations of 1, and of NTKs
        whose only other value is the naive twin's: what is promised. Measured: 2e-8.
    peer : float
        The same over networks of all layers and images that are nearly parallel: what docs/porting.md promises.
        Measured: 3.5e-7 and 7.0e-9.
    """

    dual: float
    kernel: float
    parallel: float
    golden: float
    peer: float


_TOLERANCES = {
    "float32": Tolerance(dual=5e-7, kernel=1e-5, parallel=1e-5, golden=1e-5, peer=4e-7),
    "float64": Tolerance(dual=5e-15, kernel=1e-12, parallel=2e-7, golden=1e-7, peer=1e-8),
}
DTYPES = tuple(_TOLERANCES)


def tolerance(dtype: str) -> Tolerance:
    """Look up the bounds for the dtype of a computation."""
    return _TOLERANCES[dtype]


def assert_kernels_close(actual: np.ndarray, expected: np.ndarray, bound: float) -> None:
    """Compare kernels up to ``bound`` times the largest expected magnitude."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound * max(np.abs(expected).max(), 1e-300))
