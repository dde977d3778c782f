"""Smooth activations whose duals are closed forms.

As usually written, these duals subtract numbers that are nearly equal wherever positions are nearly parallel or
variances large: ``1 - q^2``, ``a + b - 2 c``. Here they are written in the correlation ``rho`` and what each position
knows of itself. With s and t the standard deviations, ``1 - rho^2 = (1 - rho) (1 + rho)`` and
``(a + b) / 2 - c = (s - t)^2 / 2 + s t (1 - rho)`` are sums of terms of one sign, and exact where rho is 1.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import is_number, short_repr
from cntk_pipeline.layers.elementary import (
    absolute,
    arc_sine,
    clip_correlation,
    exponential,
    exponential_less_one,
    inverse_root,
    square_root,
    with_sign,
)
from cntk_pipeline.layers.pointwise import ClosedForm

_2_PI = 2 / math.pi
_4_PI = 4 / math.pi
_1_2PI = 1 / (2 * math.pi)


@dataclass(frozen=True)
class Erf(ClosedForm):
    """The error function (Williams 1997)."""

    statistic_count: ClassVar[int] = 3

    @property
    def is_odd(self) -> bool:
        return True

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        # u = 1 / (1 + 2 a), and q of a position with itself, 1 - u. With q = 1 - u, 1 - q^2 = u (2 - u).
        u = 1.0 / (1.0 + 2.0 * variance)
        q = 2.0 * variance * u
        return inverse_root(variance), square_root(q), u, _2_PI * arc_sine(q, u * (2.0 - u))

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        # q = 2 c / sqrt((1 + 2 a) (1 + 2 b)) is rho times sqrt((1 - u) (1 - v)).
        rho = clip_correlation(covariance * (x[0] * z[0]))
        size = x[1] * z[1]
        rest = x[2] + z[2] - x[2] * z[2] + size * size * ((1.0 - rho) * (1.0 + rho))
        return _2_PI * arc_sine(rho * size, rest), _4_PI * square_root(x[2] * z[2] / rest)


@dataclass(frozen=True)
class Gelu(ClosedForm):
    """``x Phi(x)``, Phi the distribution function of a standard Gaussian (Tsuchida et al. 2021, arXiv:2002.08517)."""

    statistic_count: ClassVar[int] = 3

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        # The dual below for c = a = b, with u = 1 / (1 + a): q = 1 - u and sqrt(Delta) = sqrt(1 + 2 a).
        u = 1.0 / (1.0 + variance)
        q = variance * u
        share = 0.25 + _1_2PI * arc_sine(q, u * (2.0 - u))
        after = variance * share + _1_2PI * inverse_root(1.0 + 2.0 * variance) * (2.0 * variance * variance * u)
        return inverse_root(variance), square_root(q), u, after

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        # With A = 1 + a, B = 1 + b, Delta = A B - c^2, F = E[Phi Phi] = 1/4 + arcsin(c / sqrt(A B)) / 2 pi and
        # G = E[Phi' Phi'] = 1 / (2 pi sqrt(Delta)), Stein's lemma gives V = c F + G N, N = a b - c^2 + c^2 (u + v),
        # and V' = F + c G (2 (u + v) + (N - Delta) / Delta). Below all of them are divided by A B: u = 1 / A,
        # v = 1 / B, size = sqrt(a b u v), rest = Delta u v, and N - Delta is a sum of negative terms.
        rho = clip_correlation(covariance * (x[0] * z[0]))
        size = x[1] * z[1]
        apart = (1.0 - rho) * (1.0 + rho)
        area, product, shares = size * size, x[2] * z[2], x[2] + z[2]
        rest = shares - product + area * apart
        inverse = inverse_root(rest)
        f = 0.25 + _1_2PI * arc_sine(rho * size, rest)
        value = rho * size * f + _1_2PI * inverse * area * (apart + (1.0 - apart) * shares)
        # a u + b v, each times the other's share once more: (N - Delta) u v without its sign.
        left, right = x[1] * z[2], z[1] * x[2]
        missing = left * left + right * right + product + area * apart * shares
        slope = f + _1_2PI * rho * size * inverse * (2.0 * shares - missing * (inverse * inverse))
        return value * inverse_root(product), slope


@dataclass(frozen=True)
class Sin(ClosedForm):
    """``sin(x)``."""

    statistic_count: ClassVar[int] = 2

    @property
    def is_odd(self) -> bool:
        return True

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return inverse_root(variance), square_root(variance), -0.5 * exponential_less_one(-2.0 * variance)

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        # (exp(c - m) -+ exp(-c - m)) / 2 with m = (a + b) / 2; the larger of both exponentials is taken out.
        rho = clip_correlation(covariance * (x[0] * z[0]))
        size, parallel = x[1] * z[1], absolute(rho)
        between = x[1] - z[1]
        half = 0.5 * exponential(-0.5 * between * between - size * (1.0 - parallel))
        less = exponential_less_one(-2.0 * size * parallel)
        return with_sign(-half * less, rho), half * (2.0 + less)


@dataclass(frozen=True)
class Cos(ClosedForm):
    """``cos(x)``."""

    statistic_count: ClassVar[int] = 2

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return inverse_root(variance), square_root(variance), 0.5 + 0.5 * exponential(-2.0 * variance)

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        rho = clip_correlation(covariance * (x[0] * z[0]))
        size, parallel = x[1] * z[1], absolute(rho)
        between = x[1] - z[1]
        half = 0.5 * exponential(-0.5 * between * between - size * (1.0 - parallel))
        less = exponential_less_one(-2.0 * size * parallel)
        return half * (2.0 + less), with_sign(-half * less, rho)


@dataclass(frozen=True)
class Rbf(ClosedForm):
    """``sqrt(2) sin(sqrt(2 gamma) x + pi / 4)``, whose dual is ``exp(-gamma (a + b - 2 c))``: the Gaussian kernel.

    Parameters
    ----------
    gamma : float
        A number > 0.
    """

    gamma: float = 1.0

    statistic_count: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not is_number(self.gamma) or not 0 < self.gamma < float("inf"):
            raise LayerError(f"Rbf needs a finite gamma > 0, got {short_repr(self.gamma)}")

    @property
    def constants(self) -> tuple[float, ...]:
        return math.sqrt(2 * float(self.gamma)), 2 * float(self.gamma)

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return inverse_root(variance), constants[0] * square_root(variance), 0.0 * variance + 1.0

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        rho = clip_correlation(covariance * (x[0] * z[0]))
        between = x[1] - z[1]
        value = exponential(-0.5 * between * between - x[1] * z[1] * (1.0 - rho))
        return value, constants[1] * value


@dataclass(frozen=True)
class Exp(ClosedForm):
    """``exp(x)``; grows fast: variances beyond about 40 overflow float32."""

    statistic_count: ClassVar[int] = 2

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return inverse_root(variance), square_root(variance), exponential(2.0 * variance)

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        rho = clip_correlation(covariance * (x[0] * z[0]))
        between = x[1] - z[1]
        value = exponential(0.5 * between * between + x[1] * z[1] * (1.0 + rho))
        return value, value
