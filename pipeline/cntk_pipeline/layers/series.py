"""Activations whose duals are power series of the correlation."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache

import numpy as np

from cntk_pipeline.errors import LayerError, NotAccurate
from cntk_pipeline.inputs import is_number, is_whole_number, short_repr
from cntk_pipeline.layers.pointwise import STEPS_PER_OCTAVE, Array, Series, variance_steps

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 0.5 + 0.5 * np.tanh(0.5 * x),
    "silu": lambda x: x * (0.5 + 0.5 * np.tanh(0.5 * x)),
    "softplus": lambda x: np.logaddexp(0, x),
}
"""Functions that `Elementwise` knows by name, so that workflow files and run directories can spell them."""

SMALLEST_DEVIATION = 1e-17
"""Standard deviations below this count as this: the slope behind one of 0 is then still the right one."""

SMALLEST_STEP = 1e-5
"""Quadrature looks no nearer around 0: there, the odd part of a function would be its rounding."""

MOST_TERMS = 128
"""Of powers; beyond 170 the factorials overflow."""

MOST_NODES = 256
"""Of a quadrature: the time of a pair is proportional to them."""

ACCURACY = 1e-5
"""The largest relative error of a quadrature, of values and slopes."""


def _read_coefficients(name: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, tuple | list) or not values:
        raise LayerError(f"{name} needs a list of coefficients, constant term first, got {short_repr(values)}")
    if len(values) > MOST_TERMS:
        raise LayerError(f"{name} takes at most {MOST_TERMS} coefficients, got {len(values)}")
    for value in values:
        if not is_number(value) or not math.isfinite(value):
            raise LayerError(f"{name} needs finite coefficients, got {short_repr(value)}")
    return tuple(float(value) for value in values)


def _expand(coefficients: Array, variance: Array, spread: Array) -> tuple[Array, Array]:
    """Evaluate the inverse deviation and ``g_n sigma^n`` of powers, or of Hermite polynomials.

    ``g_n = sum_k coefficients[k] k! spread^((k - n) / 2) / (2^((k - n) / 2) ((k - n) / 2)! sqrt(n!))`` over k = n,
    n + 2, ... With ``spread`` the variance these are those of powers, with the variance less 1 those of Hermite
    polynomials.
    """
    deviation = np.maximum(np.sqrt(variance), SMALLEST_DEVIATION)
    series = np.zeros((len(coefficients), *variance.shape))
    with np.errstate(over="ignore", invalid="ignore"):
        for n in range(len(coefficients)):
            for k in range(n, len(coefficients), 2):
                half = (k - n) // 2
                share = math.factorial(k) / (2**half * math.factorial(half) * math.sqrt(math.factorial(n)))
                series[n] += coefficients[k] * share * spread**half
            series[n] *= deviation**n
    return 1 / deviation, series


def _real_values(function: Callable[[Array], Array], points: Array) -> Array:
    """Evaluate a user's function in float64.

    Raises
    ------
    LayerError
        If it takes no arrays, or returns no real numbers.
    """
    try:
        values = np.asarray(function(points))
        if values.dtype.kind in "fiubO":  # numpy.frompyfunc makes Python objects
            return values.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise LayerError(
            f"Elementwise: the function must take NumPy arrays of any numbers and return real ones, but it raised "
            f"{error!r}; one of single numbers is wrapped as numpy.vectorize(function, otypes=[float])"
        ) from error
    raise LayerError(
        f"Elementwise: the function must return real numbers, but returned an array of dtype {values.dtype}"
    )


@cache
def _is_odd(function: Callable[[Array], Array]) -> bool:
    """Tell whether a function of NumPy arrays changes its sign with its argument, from the smallest numbers to 30."""
    points = np.geomspace(SMALLEST_STEP, 30, 64)
    with np.errstate(all="ignore"):
        try:
            values, mirrored = _real_values(function, points), _real_values(function, -points)
        except Exception:  # of numbers that no quadrature asks for: that it is odd cannot be seen then
            return False
        return bool(np.all(np.abs(values + mirrored) <= 1e-12 * np.abs(values)))


@cache
def _rule(nodes: int) -> tuple[Array, Array]:
    """Return the points of Gauss-Hermite quadrature and ``w He_n(points) / sqrt(n!)``, (nodes, nodes)."""
    from scipy.special import roots_hermitenorm  # needed by few networks, slow to import

    points, weights = roots_hermitenorm(nodes)
    # By its own recurrence the basis neither overflows nor loses digits.
    basis = np.ones((nodes, nodes))
    for n in range(1, nodes):
        before = math.sqrt(n - 1) * basis[n - 2] if n > 1 else 0
        basis[n] = (points * basis[n - 1] - before) / math.sqrt(n)
    return points, basis * (weights / weights.sum())


@dataclass(frozen=True)
class Polynomial(Series):
    """``sum_k coefficients[k] x^k``.

    Its dual is ``sum_n g_n(a) g_n(b) c^n``, with c the covariance and ``g_n(a) = sum_k coefficients[k] k!
    a^((k - n) / 2) / (2^((k - n) / 2) ((k - n) / 2)! sqrt(n!))`` over k = n, n + 2, ...

    Parameters
    ----------
    coefficients : tuple of float
        Of the powers of x in rising order; the first is the constant term.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", _read_coefficients("Polynomial", self.coefficients))

    @property
    def terms(self) -> int:
        return len(self.coefficients)

    @property
    def is_odd(self) -> bool:
        return not any(self.coefficients[::2])

    def expand(self, variance: Array) -> tuple[Array, Array]:
        return _expand(np.array(self.coefficients), variance, variance)


@dataclass(frozen=True)
class Hermite(Series):
    """``sum_n coefficients[n] He_n(x) / sqrt(n!)``, the polynomials orthonormal under a standard Gaussian.

    For inputs of variance 1 the dual is ``sum_n coefficients[n]^2 rho^n`` (Daniely et al. 2016). For others it is that
    of `Polynomial` with ``coefficients[k] / sqrt(k!)`` for the coefficients and a - 1 for a, within g_n.

    Parameters
    ----------
    coefficients : tuple of float
        Of the Hermite polynomials by rising degree; the first is the constant term.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", _read_coefficients("Hermite", self.coefficients))

    @property
    def terms(self) -> int:
        return len(self.coefficients)

    @property
    def is_odd(self) -> bool:
        return not any(self.coefficients[::2])

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
    with poles, and slowly for those with kinks, for which there are closed forms. Values and slopes are compared with
    those of twice as many nodes, for each size of variance that is met: where they differ by more than 1e-5 of
    themselves, the variance is refused (`NotAccurate`). With 64 nodes, tanh is fine up to a variance of 1, silu
    and sigmoid up to 4, softplus up to 8; with 256 nodes, tanh up to 4, silu up to 32.

    Parameters
    ----------
    function : str or callable
        Takes and returns NumPy arrays; or one of the names in `FUNCTIONS`, which workflow files need.
    nodes : int
        Points of the quadrature and terms of the series, at most 256; the time of a pair grows with them.
    """

    function: str | Callable[[Array], Array]
    nodes: int = 64

    def __post_init__(self) -> None:
        if isinstance(self.function, str) and self.function not in FUNCTIONS:
            raise LayerError(f"Elementwise knows {', '.join(FUNCTIONS)} by name, got {short_repr(self.function)}")
        if not isinstance(self.function, str) and not callable(self.function):
            raise LayerError(
                f"Elementwise needs a function of NumPy arrays or its name, got {short_repr(self.function)}"
            )
        if not isinstance(self.function, Hashable):
            raise LayerError(
                "Elementwise needs a function that can be hashed, as networks are, "
                f"got {short_repr(self.function)}: wrap it, as "
                "in lambda x: f(x)"
            )
        if not is_whole_number(self.nodes) or not 1 <= self.nodes <= MOST_NODES:
            raise LayerError(f"Elementwise needs 1 to {MOST_NODES} nodes, got {short_repr(self.nodes)}")

    @property
    def terms(self) -> int:
        return self.nodes

    @property
    def is_odd(self) -> bool:
        return _is_odd(self._called)

    @property
    def _called(self) -> Callable[[Array], Array]:
        return FUNCTIONS[self.function] if isinstance(self.function, str) else self.function

    def expand(self, variance: Array) -> tuple[Array, Array]:
        for step in np.unique(variance_steps(variance)):
            self._require_converged(float(2.0 ** (step / STEPS_PER_OCTAVE)))
        return 1 / np.maximum(np.sqrt(variance), SMALLEST_DEVIATION), self._expand(variance, self.nodes)

    def _expand(self, variance: Array, nodes: int) -> Array:
        """Evaluate the Hermite coefficients, with a first axis of ``nodes``."""
        points, weighted = _rule(nodes)
        deviation = np.maximum(np.sqrt(variance), SMALLEST_DEVIATION)
        seen = np.maximum(deviation, SMALLEST_STEP)
        with np.errstate(over="ignore", invalid="ignore"):
            values = _real_values(self._called, seen[None] * points.reshape(-1, *[1] * variance.ndim))
        if values.shape != (nodes, *variance.shape):
            raise LayerError(
                f"Elementwise: the function must keep the shape of its argument, {(nodes, *variance.shape)}, "
                f"but returned {values.shape}"
            )
        # Even polynomials see the even part of the function alone: an odd one then has no mean to the last bit, and a
        # pixel of variance 0 none behind it, instead of one of 1e-44 whose inverse deviation overflows float32.
        series = np.empty_like(values)
        for parity, part in ((0, values + values[::-1]), (1, values - values[::-1])):
            series[parity::2] = np.tensordot(weighted[parity::2], 0.5 * part, 1)
        # Near 0 a function is its Taylor series: the n-th coefficient falls like the n-th power.
        return series * (deviation / seen) ** np.arange(nodes).reshape(-1, *[1] * variance.ndim)

    @cache  # noqa: B019 - layers are values; there are few, and few variances
    def _require_converged(self, variance: float) -> None:
        """Compare values and slopes at correlation 1, where a series converges last, with those of more nodes."""
        few, many = (self._expand(np.array([variance]), nodes)[:, 0] for nodes in (self.nodes, 2 * self.nodes))
        for name, weights in (("value", np.ones(2 * self.nodes)), ("slope", np.arange(2.0 * self.nodes))):
            found, expected = weights[: self.nodes] @ few**2, weights @ many**2
            if not abs(found - expected) <= ACCURACY * expected:
                raise NotAccurate(
                    f"{self} is not accurate at a variance of {variance:.3g}: with {self.nodes} nodes its {name} at "
                    f"correlation 1 is {found:.6g}, with {2 * self.nodes} it is {expected:.6g}. Take more nodes (up to "
                    f"{MOST_NODES}), a smaller w_std, or an activation with a closed form, such as Erf"
                )
