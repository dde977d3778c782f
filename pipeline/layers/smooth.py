"""Smooth activations whose duals are closed forms."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

from pipeline.errors import LayerError
from pipeline.layers.elementary import arc_sine, exponential, inverse_root
from pipeline.layers.pointwise import ClosedForm

_2_PI = 2 / math.pi
_4_PI = 4 / math.pi
_1_2PI = 1 / (2 * math.pi)


@dataclass(frozen=True)
class Erf(ClosedForm):
    """The error function (Williams 1997)."""

    statistic_count: ClassVar[int] = 1

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        inverse = inverse_root(1.0 + 2.0 * variance)
        return inverse, _2_PI * arc_sine(2.0 * variance * (inverse * inverse))

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        inverse = x[0] * z[0]
        q = 2.0 * covariance * inverse
        return _2_PI * arc_sine(q), _4_PI * inverse * inverse_root(1.0 - q * q)


@dataclass(frozen=True)
class Gelu(ClosedForm):
    """``x Phi(x)``, Phi the distribution function of a standard Gaussian (Tsuchida et al. 2021, arXiv:2002.08517)."""

    statistic_count: ClassVar[int] = 3

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        # The dual below for c = a = b, with v = 1 / (1 + a): q = a v and sqrt(Delta) = sqrt(1 + 2 a).
        inverse = inverse_root(1.0 + variance)
        v = inverse * inverse
        q = variance * v
        share = 0.25 + _1_2PI * arc_sine(q)
        after = variance * share + _1_2PI * inverse_root(1.0 + 2.0 * variance) * (2.0 * variance * variance * v)
        return variance, v, inverse, after

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        # With A = 1 + a, B = 1 + b, Delta = A B - c^2, F = E[Phi Phi] = 1/4 + arcsin(c / sqrt(A B)) / 2 pi and
        # G = E[Phi' Phi'] = 1 / (2 pi sqrt(Delta)), Stein's lemma gives c F + G N with N as below.
        inverse = x[2] * z[2]
        q = covariance * inverse
        spread = inverse_root(1.0 - q * q)
        g = _1_2PI * inverse * spread
        f = 0.25 + _1_2PI * arc_sine(q)
        shares = x[1] + z[1]
        n = x[0] * z[0] + covariance * covariance * (shares - 1.0)
        ratio = n * (inverse * inverse) * (spread * spread)
        return covariance * f + g * n, f + covariance * g * (ratio - 1.0 + 2.0 * shares)


@dataclass(frozen=True)
class Sin(ClosedForm):
    """``sin(x)``."""

    statistic_count: ClassVar[int] = 1

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return 0.5 * variance, 0.5 - 0.5 * exponential(-2.0 * variance)

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        mean = x[0] + z[0]
        near, far = exponential(covariance - mean), exponential(-covariance - mean)
        return 0.5 * (near - far), 0.5 * (near + far)


@dataclass(frozen=True)
class Cos(ClosedForm):
    """``cos(x)``."""

    statistic_count: ClassVar[int] = 1

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return 0.5 * variance, 0.5 + 0.5 * exponential(-2.0 * variance)

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        mean = x[0] + z[0]
        near, far = exponential(covariance - mean), exponential(-covariance - mean)
        return 0.5 * (near + far), 0.5 * (near - far)


@dataclass(frozen=True)
class Rbf(ClosedForm):
    """``sqrt(2) sin(sqrt(2 gamma) x + pi / 4)``, whose dual is ``exp(-gamma (a + b - 2 c))``: the Gaussian kernel.

    Parameters
    ----------
    gamma : a number > 0.
    """

    gamma: float = 1.0

    statistic_count: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not isinstance(self.gamma, Real) or not 0 < self.gamma < float("inf"):
            raise LayerError(f"Rbf needs a finite gamma > 0, got {self.gamma!r}")

    @property
    def constants(self) -> tuple[float, ...]:
        return float(self.gamma), 2 * float(self.gamma)

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return constants[0] * variance, 0.0 * variance + 1.0

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        value = exponential(constants[1] * covariance - (x[0] + z[0]))
        return value, constants[1] * value


@dataclass(frozen=True)
class Exp(ClosedForm):
    """``exp(x)``; grows fast: variances beyond about 40 overflow float32."""

    statistic_count: ClassVar[int] = 1

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return 0.5 * variance, exponential(2.0 * variance)

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        value = exponential(covariance + (x[0] + z[0]))
        return value, value
