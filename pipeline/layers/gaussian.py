"""The bell curve as an activation."""

from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.layers.elementary import inverse_root
from pipeline.layers.pointwise import ClosedForm


@dataclass(frozen=True)
class Gaussian(ClosedForm):
    """``exp(-x^2)``; its dual is ``1 / sqrt((1 + 2 a) (1 + 2 b) - 4 c^2)`` (Williams 1997)."""

    statistic_count: ClassVar[int] = 1

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        return inverse_root(1.0 + 2.0 * variance), inverse_root(1.0 + 4.0 * variance)

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        inverse = x[0] * z[0]
        q = 2.0 * covariance * inverse
        value = inverse * inverse_root(1.0 - q * q)
        return value, 4.0 * covariance * (value * value * value)
