"""Piecewise linear activations: their duals are arc-cosine kernels (Cho and Saul 2009)."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import is_number, short_repr
from cntk_pipeline.layers.elementary import arc_cosine_halves, clip_correlation, inverse_root, square_root
from cntk_pipeline.layers.pointwise import ClosedForm


@dataclass(frozen=True)
class Relu(ClosedForm):
    """``max(x, 0)``; halves the variance. Its dual is the arc-cosine kernel of order 1 (Cho and Saul 2009)."""

    statistic_count: ClassVar[int] = 2

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return inverse_root(variance), square_root(variance), 0.5 * variance

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        half_k0, half_k1 = arc_cosine_halves(covariance * (x[0] * z[0]))
        return half_k1 * (x[1] * z[1]), half_k0


@dataclass(frozen=True)
class LeakyRelu(ClosedForm):
    """``x`` where x > 0, ``negative_slope x`` elsewhere: a sum of ReLU and the identity.

    Parameters
    ----------
    negative_slope : float
        Any finite number; 0 is ReLU, -1 the absolute value, 1 the identity.
    """

    negative_slope: float = 0.01

    statistic_count: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not is_number(self.negative_slope) or not abs(self.negative_slope) < float("inf"):
            raise LayerError(f"negative_slope must be a finite number, got {short_repr(self.negative_slope)}")

    @property
    def constants(self) -> tuple[float, ...]:
        slope = float(self.negative_slope)
        return slope, (1 - slope) ** 2, (1 + slope * slope) / 2

    @property
    def is_odd(self) -> bool:
        return self.negative_slope == 1

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return inverse_root(variance), square_root(variance), constants[2] * variance

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        # (1 - slope)^2 relu relu + slope u v: the products of relu and the identity make up the rest of both.
        rho = covariance * (x[0] * z[0])
        half_k0, half_k1 = arc_cosine_halves(rho)
        norm = x[1] * z[1]
        straight = constants[0] * clip_correlation(rho)
        return (constants[1] * half_k1 + straight) * norm, constants[1] * half_k0 + constants[0]


@dataclass(frozen=True)
class Abs(ClosedForm):
    """``|x|``; keeps the variance."""

    statistic_count: ClassVar[int] = 2

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return inverse_root(variance), square_root(variance), variance

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        # LeakyRelu of slope -1.
        rho = covariance * (x[0] * z[0])
        half_k0, half_k1 = arc_cosine_halves(rho)
        return (4.0 * half_k1 - clip_correlation(rho)) * (x[1] * z[1]), 4.0 * half_k0 - 1.0


@dataclass(frozen=True)
class AbsDifference(ClosedForm):
    """``(E|d d'| - E[d d']) / 2`` of differences d, d' of positions: what `MaxPool` adds to the products of like ones.

    Its own variance is 0.
    """

    statistic_count: ClassVar[int] = 2

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return inverse_root(variance), square_root(variance), 0.0 * variance

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        rho = covariance * (x[0] * z[0])
        half_k0, half_k1 = arc_cosine_halves(rho)
        return 0.5 * ((4.0 * half_k1 - clip_correlation(rho)) * (x[1] * z[1]) - covariance), 2.0 * half_k0 - 1.0


@dataclass(frozen=True)
class Maxout(ClosedForm):
    """The larger one of two channels, which have weights of their own (Goodfellow et al. 2013, arXiv:1302.4389).

    With ``max(u, v) = (u + v) / 2 + |u - v| / 2`` of independent channels, its dual is twice that of `Relu`: it is
    ReLU behind weights of ``sqrt(2) w_std``.

    Parameters
    ----------
    pieces : int
        Channels of which the largest one is taken; 2.
    """

    pieces: int = 2

    statistic_count: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not isinstance(self.pieces, Integral) or self.pieces != 2:
            raise LayerError(
                "Maxout has a closed form for 2 pieces, "
                f"got {short_repr(self.pieces)}: put a Dense layer and another Maxout(2) "
                "behind it"
            )

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return inverse_root(variance), square_root(variance), 1.0 * variance

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        half_k0, half_k1 = arc_cosine_halves(covariance * (x[0] * z[0]))
        return 2.0 * half_k1 * (x[1] * z[1]), 2.0 * half_k0


@dataclass(frozen=True)
class Sign(ClosedForm):
    """``-1``, 0 or 1. Its dual is infinitely steep at correlation 1, so there is no NTK behind it."""

    has_ntk: ClassVar[bool] = False
    statistic_count: ClassVar[int] = 1

    @property
    def is_odd(self) -> bool:
        return True

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        inverse = inverse_root(variance)
        return inverse, variance * (inverse * inverse)

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        # 2 arcsin(rho) / pi, by the polynomial that is exact at rho = 1.
        half_k0, _ = arc_cosine_halves(covariance * (x[0] * z[0]))
        return 4.0 * half_k0 - 1.0, 0.0 * covariance
