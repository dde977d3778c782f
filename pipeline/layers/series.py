"""Activations whose duals are power series of the covariance."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from pipeline.errors import LayerError
from pipeline.layers.pointwise import Array, Series

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 0.5 + 0.5 * np.tanh(0.5 * x),
    "silu": lambda x: x * (0.5 + 0.5 * np.tanh(0.5 * x)),
    "softplus": lambda x: np.logaddexp(0, x),
}
"""Functions that `Elementwise` knows by name, so that workflow files and run directories can spell them."""

SMALLEST_DEVIATION = 1e-5
"""Standard deviations below this count as this: at 0 the series by the correlation has no derivative."""

MOST_TERMS = 128
"""Of a series; beyond 170 the factorials overflow."""


def _read_coefficients(name: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, tuple | list) or not values:
        raise LayerError(f"{name} needs a list of coefficients, that of the constant first, got {values!r}")
    if len(values) > MOST_TERMS:
        raise LayerError(f"{name} takes at most {MOST_TERMS} coefficients, got {len(values)}")
    for value in values:
        if not isinstance(value, Real) or not math.isfinite(value):
            raise LayerError(f"{name} needs finite coefficients, got {value!r}")
    return tuple(float(value) for value in values)


def _expand(coefficients: Array, variance: Array, spread: Array) -> tuple[Array, Array]:
    """Evaluate ``sum_k coefficients[k] k! spread^((k - n) / 2) / (2^((k - n) / 2) ((k - n) / 2)! sqrt(n!))`` for all n.

    With ``spread`` the variance these are the g_n of powers, with the variance less 1 those of Hermite polynomials.
    """
    series = np.zeros((len(coefficients), *variance.shape))
    for n in range(len(coefficients)):
        for k in range(n, len(coefficients), 2):
            half = (k - n) // 2
            share = math.factorial(k) / (2**half * math.factorial(half) * math.sqrt(math.factorial(n)))
            series[n] += coefficients[k] * share * spread**half
    return np.ones_like(variance), series


@dataclass(frozen=True)
class Polynomial(Series):
    """``sum_k coefficients[k] x^k``.

    Its dual is ``sum_n g_n(a) g_n(b) c^n`` with ``g_n(a) = sum_k coefficients[k] k! a^((k - n) / 2) /
    (2^((k - n) / 2) ((k - n) / 2)! sqrt(n!))`` over k = n, n + 2, ...

    Parameters
    ----------
    coefficients : that of the constant first.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", _read_coefficients("Polynomial", self.coefficients))

    @property
    def terms(self) -> int:
        return len(self.coefficients)

    def expand(self, variance: Array) -> tuple[Array, Array]:
        return _expand(np.array(self.coefficients), variance, variance)


@dataclass(frozen=True)
class Hermite(Series):
    """``sum_n coefficients[n] He_n(x) / sqrt(n!)``, the polynomials orthonormal under a standard Gaussian.

    For inputs of variance 1 the dual is ``sum_n coefficients[n]^2 rho^n`` (Daniely et al. 2016). For others it is that
    of `Polynomial` with ``coefficients[k] / sqrt(k!)`` for the coefficients and a - 1 for a, within g_n.

    Parameters
    ----------
    coefficients : that of the constant first.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", _read_coefficients("Hermite", self.coefficients))

    @property
    def terms(self) -> int:
        return len(self.coefficients)

    def expand(self, variance: Array) -> tuple[Array, Array]:
        # By their own multiplication theorem: as powers, more than 30 terms would lose all digits to cancellation.
        scaled = np.array([value / math.sqrt(math.factorial(n)) for n, value in enumerate(self.coefficients)])
        return _expand(scaled, variance, variance - 1)


@dataclass(frozen=True)
class Elementwise(Series):
    """Any scalar function, by Gauss-Hermite quadrature.

    With u = sigma g the function's Hermite coefficients ``h_n(sigma) = E[phi(sigma g) He_n(g)] / sqrt(n!)`` are
    computed by quadrature for each position, and the dual is ``sum_n h_n h_n rho^n`` (Daniely et al. 2016): the
    two-dimensional quadrature, at the cost of a series. Its derivative is the series' own, and so by quadrature too.

    The error falls fast in ``nodes`` for functions without poles nearby, like exp(-c sqrt(nodes) / sigma) for those
    with poles (tanh, of variance 1: relative errors of 7e-9 and, for the slope, 1e-7 with 64 nodes; of variance 5: 4e-4
    and 5e-3), and slowly for those with kinks: prefer the closed forms where there is one.

    Parameters
    ----------
    function : takes and returns NumPy arrays; or one of the names in `FUNCTIONS`, which workflow files need.
    nodes : points of the quadrature and terms of the series; the time of a pair grows with it.
    """

    function: str | Callable[[Array], Array]
    nodes: int = 64

    def __post_init__(self) -> None:
        if isinstance(self.function, str) and self.function not in FUNCTIONS:
            raise LayerError(f"Elementwise knows {', '.join(FUNCTIONS)} by name, got {self.function!r}")
        if not isinstance(self.function, str) and not callable(self.function):
            raise LayerError(f"Elementwise needs a function of NumPy arrays or its name, got {self.function!r}")
        if not isinstance(self.nodes, Integral) or isinstance(self.nodes, bool) or not 1 <= self.nodes <= MOST_TERMS:
            raise LayerError(f"Elementwise needs 1 to {MOST_TERMS} nodes, got {self.nodes!r}")

    @property
    def terms(self) -> int:
        return self.nodes

    def expand(self, variance: Array) -> tuple[Array, Array]:
        function = FUNCTIONS[self.function] if isinstance(self.function, str) else self.function
        points, weights = np.polynomial.hermite_e.hermegauss(self.nodes)
        weights = weights / weights.sum()
        # He_n(points) / sqrt(n!) by its own recurrence: as such it neither overflows nor loses digits.
        basis = np.ones((self.nodes, self.nodes))
        for n in range(1, self.nodes):
            before = math.sqrt(n - 1) * basis[n - 2] if n > 1 else 0
            basis[n] = (points * basis[n - 1] - before) / math.sqrt(n)
        deviation = np.maximum(np.sqrt(variance), SMALLEST_DEVIATION)
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.asarray(function(deviation[None] * points.reshape(-1, *[1] * variance.ndim)), np.float64)
        if values.shape != (self.nodes, *variance.shape):
            raise LayerError(
                f"Elementwise: the function must keep the shape of its argument, {(self.nodes, *variance.shape)}, "
                f"but returned {values.shape}"
            )
        # Even polynomials see the even part of the function alone: an odd one then has no mean to the last bit, and a
        # pixel of variance 0 none behind it, instead of one of 1e-44 whose inverse deviation overflows float32.
        series = np.empty_like(values)
        for parity, part in ((0, values + values[::-1]), (1, values - values[::-1])):
            series[parity::2] = np.tensordot((basis * weights)[parity::2], 0.5 * part, 1)
        return 1 / deviation, series
