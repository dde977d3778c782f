"""The bell curve as an activation."""

from dataclasses import dataclass
from typing import Any, ClassVar

from cntk_pipeline.layers.elementary import clip_correlation, inverse_root, square_root
from cntk_pipeline.layers.pointwise import ClosedForm


@dataclass(frozen=True)
class Gaussian(ClosedForm):
    """``exp(-x^2)``; its dual is ``1 / sqrt((1 + 2 a) (1 + 2 b) - 4 c^2)`` (Williams 1997)."""

    statistic_count: ClassVar[int] = 3

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        u = 1.0 / (1.0 + 2.0 * variance)
        return inverse_root(variance), square_root(2.0 * variance * u), u, inverse_root(1.0 + 4.0 * variance)

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        # As that of Erf: with q = 2 c sqrt(u v), 1 / sqrt(1 - q^2) times sqrt(u v), and 4 c value^3.
        rho = clip_correlation(covariance * (x[0] * z[0]))
        size, product = x[1] * z[1], x[2] * z[2]
        rest = x[2] + z[2] - product + size * size * ((1.0 - rho) * (1.0 + rho))
        inverse = inverse_root(rest)
        return square_root(product) * inverse, 2.0 * rho * size * product * (inverse * inverse * inverse)
