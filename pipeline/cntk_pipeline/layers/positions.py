"""Embeddings of positions: what tells a network where in an image it looks."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import is_number, short_repr
from cntk_pipeline.layers.arguments import require_truth
from cntk_pipeline.layers.base import Graph, Layer, Shape, require_image
from cntk_pipeline.layers.linear import require_deviation

Array = np.ndarray

SLOWEST = 10_000.0
"""The factor between the fastest and the slowest sinusoid (Vaswani et al. 2017, section 3.5)."""


def _equal(rows: Array, columns: Array) -> Array:
    return np.asarray((rows == 0) & (columns == 0), np.float64)


def _gaussian(rows: Array, columns: Array) -> Array:
    return np.asarray(np.exp(-0.5 * (rows**2 + columns**2)))


def _exponential(rows: Array, columns: Array) -> Array:
    return np.asarray(np.exp(-np.hypot(rows, columns)))


def _sinusoidal(rows: Array, columns: Array) -> Array:
    """Average over the axes that have more than one position, as halves of the channels do."""
    axes = [axis for axis in (rows, columns) if np.any(axis != 0)]
    return np.asarray(np.mean([_cosines(axis) for axis in axes], 0) if axes else np.ones(rows.shape))


def _cosines(distance: Array) -> Array:
    """Average ``cos(distance SLOWEST^-u)`` over u from 0 to 1; an integral cosine gives the integral."""
    from scipy.special import sici  # needed by few networks, slow to import

    away = np.maximum(np.abs(distance), np.finfo(np.float64).tiny)
    return np.where(distance == 0, 1.0, (sici(away)[1] - sici(away / SLOWEST)[1]) / np.log(SLOWEST))


CORRELATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "equal": _equal,
    "gaussian": _gaussian,
    "exponential": _exponential,
    "sinusoidal": _sinusoidal,
}
"""Correlations of the embeddings of two positions, by the differences of their rows and columns over a length.

Each is positive definite for positions in a plane, and 1 at equal positions.
"""


@dataclass(frozen=True)
class Correlation:
    """A correlation by its name, and the length that distances are divided by, in pixels."""

    name: str
    length: float

    def table(self, height: int, width: int) -> Array:
        """Evaluate all differences of positions of an image, (2 height - 1, 2 width - 1), the most negative first."""
        rows, columns = np.meshgrid(np.arange(1 - height, height), np.arange(1 - width, width), indexing="ij")
        return CORRELATIONS[self.name](rows / self.length, columns / self.length)


@dataclass(frozen=True)
class PositionalEmbedding(Layer):
    """Add a random vector to the channels of each position, the same one for all images.

    Before `SelfAttention`, values have the vectors too. As ``keys`` of `Attend`, they count for the logits alone.

    Parameters
    ----------
    w_std : float
        Standard deviation of the vectors' entries.
    correlation : str
        Of the vectors of two positions. "equal": vectors of different positions are independent, as those of learned
        embeddings at the beginning. "gaussian": ``exp(-r^2 / 2)``, with r the distance over ``length``. "exponential":
        ``exp(-r)``. "sinusoidal": the one of the sines and cosines of Vaswani et al. 2017 (arXiv:1706.03762), for
        infinitely many channels; half of them for rows and half for columns.
    length : float
        In pixels, that distances are divided by. "equal" does not look at it.
    trained : bool
        False fixes the vectors: they add nothing to the NTK.
    """

    spelt_elsewhere: ClassVar[str] = (
        "The number of channels is that of the input, infinite and not given, and so are the positions: "
        "PositionalEmbedding(w_std=0.7)"
    )

    _: KW_ONLY
    w_std: float = 1.0
    correlation: str = "equal"
    length: float = 1.0
    trained: bool = True

    def __post_init__(self) -> None:
        require_deviation("w_std", self.w_std)
        require_truth("trained", self.trained)
        if self.correlation not in CORRELATIONS:
            raise LayerError(
                f"correlation must be one of {', '.join(CORRELATIONS)}, got {short_repr(self.correlation)}"
            )
        if not is_number(self.length) or not 0 < self.length < float("inf"):
            raise LayerError(f"length must be a finite number of pixels > 0, got {short_repr(self.length)}")

    @property
    def covariance(self) -> Correlation:
        """What the vectors of two positions have in common, over ``w_std**2``."""
        return Correlation(self.correlation, float(self.length))

    def output_shape(self, shape: Shape) -> Shape:
        require_image(self, shape, padded=True)
        if shape.channels is not None:
            raise LayerError(
                "PositionalEmbedding needs infinitely many channels, in which its vectors and the input have nothing "
                "in common: put a Conv or Dense layer before it"
            )
        return shape

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        if self.w_std == 0:
            return source
        return graph.embed(source, self.covariance, self.w_std**2, float(self.trained))
