"""Layers with weights: in the NTK parameterisation, weights are unit Gaussians times ``w_std / sqrt(fan-in)``."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import is_number, short_repr
from cntk_pipeline.layers.arguments import require_truth
from cntk_pipeline.layers.base import WHEN_CHANGED, Graph, Layer, Shape, read_pair, require_image
from cntk_pipeline.layers.windows import Windows, check_padding

SMALLEST_DEVIATION, LARGEST_DEVIATION = 1e-153, 1e154
"""Of these, squares are numbers of float64 with all their digits."""

PARAMETERIZATIONS = ("ntk", "standard")


def require_deviation(name: str, value: Any) -> None:
    """Refuse what is no standard deviation, or has a variance that is no number of float64."""
    if not is_number(value) or not 0 <= value < float("inf"):
        raise LayerError(f"{name} must be a finite standard deviation >= 0, got {short_repr(value)}")
    if value >= LARGEST_DEVIATION:
        raise LayerError(
            f"{name} must be below {LARGEST_DEVIATION:.0e}, or its square is no number of float64; "
            f"got {short_repr(value)}"
        )
    if 0 < value < SMALLEST_DEVIATION:
        raise LayerError(
            f"{name} must be 0 or at least {SMALLEST_DEVIATION:.0e}, or its square has lost digits; "
            f"got {short_repr(value)}"
        )


def _require_weights(layer: "Conv | Dense") -> None:
    require_truth("trained", layer.trained)
    require_deviation("w_std", layer.w_std)
    require_deviation("b_std", layer.b_std)
    if layer.parameterization not in PARAMETERIZATIONS:
        raise LayerError(
            f"parameterization must be one of {', '.join(PARAMETERIZATIONS)}, got {short_repr(layer.parameterization)}"
        )
    if not is_number(layer.rate) or not 0 <= layer.rate < float("inf"):
        raise LayerError(f"rate must be a finite factor >= 0, got {short_repr(layer.rate)}")
    if layer.fan_in is not None:
        if not is_number(layer.fan_in) or not 0 < layer.fan_in < float("inf"):
            raise LayerError(f"fan_in must be a number of input channels > 0, got {short_repr(layer.fan_in)}")
        if layer.parameterization == "ntk":
            raise LayerError('fan_in changes nothing in the NTK parameterization: give parameterization="standard" too')
    if layer.parameterization == "standard" and layer.w_std == 0:
        raise LayerError('parameterization="standard" needs w_std > 0, got 0: leave the layer\'s inputs out instead')


def read_fan_in(layer: "Conv | Dense", shape: Shape) -> float:
    """Read the input channels of the finite layer that one of the standard parameterization stands for.

    Raises
    ------
    LayerError
        If the input is infinitely wide and ``fan_in`` is not given.
    """
    fan_in = shape.channels if layer.fan_in is None else layer.fan_in
    if fan_in is None:
        raise LayerError(
            f"{type(layer).__name__} needs fan_in in the standard parameterization, since its input is infinitely "
            "wide: give the channels of the finite layer before it, such as fan_in=512"
        )
    return float(fan_in)


def _own_share(layer: "Conv | Dense", shape: Shape, area: int) -> tuple[float, float]:
    """Evaluate ``own`` and ``extra`` of `Graph.weigh`: what the layer's own weights and biases add to the tangent.

    A derivative by a weight is the input, by a bias 1, both times what multiplies them in the forward pass. In the NTK
    parameterization this adds up to S' itself; in the standard one to ``fan_in sum S + 1``.
    """
    if not layer.trained:
        return 0.0, 0.0
    if layer.parameterization == "ntk":
        return float(layer.rate), 0.0
    own = layer.rate * read_fan_in(layer, shape) * area / layer.w_std**2
    return own, (layer.rate if layer.b_std > 0 else 0.0) - own * layer.b_std**2


@dataclass(frozen=True)
class Conv(Layer):
    """A convolution with infinitely many output channels.

    The covariance of two output pixels is ``w_std**2`` times the mean of the input covariance over the window,
    plus ``b_std**2``; positions outside the image count as zeros in that mean (Arora et al. 2019, section 4).

    Parameters
    ----------
    filter_shape : int or (int, int)
        Window height and width in pixels; one number means a square. Everything else is given by name.
    strides : int or (int, int)
        Pixels from a window to the next, down and right; one number means both.
    padding : str
        "VALID" keeps windows inside the image; "SAME" gives an output pixel for each ``strides`` input pixels, zeros
        outside; "CIRCULAR" likewise, the image repeated outside.
    w_std, b_std : float
        Standard deviations of weights and biases.
    trained : bool
        False fixes this layer's own weights and biases at their initial values: they add nothing to the NTK.
    parameterization : str
        "ntk", or "standard": weights are Gaussians of deviation ``w_std / sqrt(fan-in)`` themselves, as in most
        libraries, so that a layer's own weights count in the NTK by the number of its inputs (Sohl-Dickstein et al.
        2020, arXiv:2001.07301). The NNGP is the same. There is a bias where ``b_std > 0``.
    fan_in : float, optional
        With "standard", input channels of the finite layer that this one stands for; the base width n of a layer of s n
        channels, in a family that grows with s. None counts the channels of raw inputs.
    rate : float
        Factor of the layer's own weights and biases in the NTK, a learning rate beside those of other layers.
    """

    spelt_elsewhere: ClassVar[str] = (
        "The number of channels is infinite and not given: what other libraries call Conv(64, (3, 3)) is Conv((3, 3)), "
        'and stax.Conv(64, (3, 3), (2, 2), "VALID", a, b) is '
        'Conv(3, strides=2, padding="VALID", w_std=a, b_std=b)'
    )

    filter_shape: int | tuple[int, int]
    _: KW_ONLY
    strides: int | tuple[int, int] = 1
    padding: str = "SAME"
    w_std: float = 1.0
    b_std: float = 0.0
    trained: bool = True
    parameterization: str = field(default="ntk", metadata=WHEN_CHANGED)
    fan_in: float | None = field(default=None, metadata=WHEN_CHANGED)
    rate: float = field(default=1.0, metadata=WHEN_CHANGED)

    @property
    def renews(self) -> bool:
        return True

    def __post_init__(self) -> None:
        _require_weights(self)
        read_pair("filter_shape", self.filter_shape)
        read_pair("strides", self.strides)
        check_padding(self.padding)

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the filter in pixels."""
        return read_pair("filter_shape", self.filter_shape)

    def windows(self, shape: Shape) -> tuple[Windows, Windows]:
        """Lay the windows over the rows and columns of an image."""
        size, strides = require_image(self, shape, padded=True), read_pair("strides", self.strides)
        if shape.has_gaps and self.padding == "CIRCULAR":
            raise LayerError(f'{self} on images with absent pixels would join their ends: take padding="SAME"')
        if shape.is_padded and not shape.has_gaps and (strides != (1, 1) or self.padding != "SAME"):
            raise LayerError(
                f"{self} on sequences of unequal lengths would have other windows than on each sequence alone: take "
                'strides=1 and padding="SAME"'
            )
        rows, columns = (Windows.place(*v, self.padding) for v in zip(size, self.window, strides, strict=True))
        return rows, columns

    def output_shape(self, shape: Shape) -> Shape:
        rows, columns = self.windows(shape)
        _own_share(self, shape, 1)
        behind = shape.behind_windows(rows, columns)
        return behind.behind_weights(behind.spatial)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        rows, columns = self.windows(shape)
        scale = self.w_std**2 / (rows.window * columns.window)
        own = _own_share(self, shape, rows.window * columns.window)
        is_pointwise = all(windows == Windows.single(windows.size) for windows in (rows, columns))
        if shape.is_padded and not is_pointwise:  # what is absent is 0, as outside
            source = graph.gate(source, "present")
        return graph.weigh(source, rows, columns, scale, self.b_std**2, *own)


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer on vectors, or the same one at every pixel of an image.

    Parameters
    ----------
    w_std, b_std : float
        Standard deviations of weights and biases.
    trained : bool
        False fixes this layer's own weights and biases: they add nothing to the NTK.
    parameterization : str
        "ntk", or "standard": weights are Gaussians of deviation ``w_std / sqrt(fan-in)`` themselves, as in most
        libraries, so that a layer's own weights count in the NTK by the number of its inputs (Sohl-Dickstein et al.
        2020, arXiv:2001.07301). The NNGP is the same. There is a bias where ``b_std > 0``.
    fan_in : float, optional
        With "standard", input channels of the finite layer that this one stands for; the base width n of a layer of s n
        channels, in a family that grows with s. None counts the channels of raw inputs.
    rate : float
        Factor of the layer's own weights and biases in the NTK, a learning rate beside those of other layers.
    """

    spelt_elsewhere: ClassVar[str] = (
        "The width is infinite and not given: what other libraries call Dense(512) is Dense(), and "
        "stax.Dense(512, a, b) is Dense(w_std=a, b_std=b)"
    )

    _: KW_ONLY
    w_std: float = 1.0
    b_std: float = 0.0
    trained: bool = True
    parameterization: str = field(default="ntk", metadata=WHEN_CHANGED)
    fan_in: float | None = field(default=None, metadata=WHEN_CHANGED)
    rate: float = field(default=1.0, metadata=WHEN_CHANGED)

    @property
    def renews(self) -> bool:
        return True

    def __post_init__(self) -> None:
        _require_weights(self)

    def output_shape(self, shape: Shape) -> Shape:
        _own_share(self, shape, 1)
        return shape.behind_weights(shape.spatial)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        rows, columns = (Windows.single(size) for size in shape.size)
        return graph.weigh(source, rows, columns, self.w_std**2, self.b_std**2, *_own_share(self, shape, 1))


@dataclass(frozen=True)
class Rescale(Layer):
    """A fixed multiplication that scales every covariance, of NNGP and NTK alike, by ``variance``.

    Parameters
    ----------
    variance : float or str
        A number > 0; or a word. "channels", the number of input channels, undoes the NTK parameterisation's division by
        the fan-in of the raw inputs, for kernels that are defined by plain sums, and needs a finite input: put it
        first. "pixels", the number of positions, likewise undoes that of a following `Flatten`.
    """

    variance: float | str = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.variance, str):
            if self.variance not in ("channels", "pixels"):
                raise LayerError(f'Rescale takes a number, "channels" or "pixels", got {short_repr(self.variance)}')
        elif not is_number(self.variance) or not 0 < self.variance < float("inf"):
            raise LayerError(f"Rescale needs a finite variance > 0, got {short_repr(self.variance)}")

    def factor(self, shape: Shape) -> float:
        """Evaluate ``variance`` for an input of this shape."""
        if not isinstance(self.variance, str):
            return float(self.variance)
        if self.variance == "pixels":
            height, width = require_image(self, shape)
            return float(height * width)
        if shape.channels is None:
            raise LayerError(f"{self} counts input channels, but the input is infinitely wide: put it first")
        return float(shape.channels)

    def output_shape(self, shape: Shape) -> Shape:
        self.factor(shape)
        return shape

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        return graph.rescale(source, self.factor(shape))
