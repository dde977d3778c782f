"""Functions that act on every position by itself, and what they do to covariances.

For jointly Gaussian u, v of variances a, b and covariance c, the *dual* of phi is ``E[phi(u) phi(v)]``, a function of
a, b and c; the dual of its derivative phi' is the dual's derivative with respect to c (Price 1958). What depends on one
of the images alone, its *statistics*, is computed once per image, not per pair.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers.base import Graph, Layer, Shape, require_wide

Array = np.ndarray

STEPS_PER_OCTAVE = 4
"""Of `variance_steps`: variances within a fifth of each other count as one."""


def variance_steps(variance: Array) -> Array:
    """Number the steps that variances, at least 1e-12, lie on or below: ``2^(step / STEPS_PER_OCTAVE)``.

    What is costly to know of a variance is asked once for each step.
    """
    return np.ceil(STEPS_PER_OCTAVE * np.log2(np.maximum(variance, 1e-12))).astype(int)


class Pointwise(Layer, ABC):
    """A layer without weights that maps every position by itself."""

    def output_shape(self, shape: Shape) -> Shape:
        require_wide(self, shape)
        if not shape.gaussian:
            raise LayerError(
                f"{type(self).__name__} needs Gaussian inputs: put a Conv or Dense layer between it and the activation "
                "(or maximum, product, concatenation, dropout) before it; behind Flatten, put the activation before "
                "Flatten, which is the same network"
            )
        return replace(shape, gaussian=False, centred=self.is_odd)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        return graph.apply(source, self)

    @property
    def is_odd(self) -> bool:
        """Whether it changes its sign with its argument, so that Gaussians of mean 0 keep that mean."""
        return False


class ClosedForm(Pointwise, ABC):
    """A function whose dual is a formula. `statistics` and `dual` are compiled; see `layers.elementary`.

    The first statistic is the inverse standard deviation: a dual multiplies the covariance by those of both positions
    and cuts the correlation that comes out to [-1, 1]. That of an image with itself is made exactly 1.
    """

    statistic_count: ClassVar[int]
    """How many numbers `statistics` gives a position."""

    @property
    def constants(self) -> tuple[float, ...]:
        """The layer's own numbers, which `statistics` and `dual` are given."""
        return ()

    @staticmethod
    @abstractmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        """Evaluate the statistics of a position, the inverse deviation first, and last the variance behind."""

    @staticmethod
    @abstractmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        """Evaluate the covariance behind the function and its derivative by the covariance before.

        Parameters
        ----------
        x, z : tuple
            The statistics of both positions.
        """


class Series(Pointwise, ABC):
    """A function whose dual is a power series of the correlation, ``sum_n g_n(x) g_n(z) rho^n``."""

    @property
    @abstractmethod
    def terms(self) -> int:
        """The number of coefficients."""

    @abstractmethod
    def expand(self, variance: Array) -> tuple[Array, Array]:
        """Evaluate inverse standard deviations, of the shape of ``variance``, and ``g``, with a first axis of `terms`.

        Raises
        ------
        NotAccurate
            If the series has not converged for one of the variances.
        """
