"""Layers with weights, in the NTK parameterisation: weights are unit Gaussians times ``w_std / sqrt(fan-in)``."""

from dataclasses import dataclass
from numbers import Integral, Real

from pipeline.errors import LayerError
from pipeline.layers.base import Layer, Shape, require_image


def _require_weights(layer: "Conv | Dense") -> None:
    """Refuse standard deviations and a ``trained`` that are none."""
    if not isinstance(layer.trained, bool):
        raise LayerError(f"trained must be True or False, got {layer.trained!r}")
    for name, value in (("w_std", layer.w_std), ("b_std", layer.b_std)):
        if not isinstance(value, Real) or not 0 <= value < float("inf"):
            raise LayerError(f"{name} must be a finite standard deviation >= 0, got {value!r}")


def _pair(name: str, value: object) -> tuple[int, int]:
    """Read one whole number or two as height and width in pixels."""
    given = value if isinstance(value, tuple | list) else (value, value)
    numbers = [int(v) for v in given if isinstance(v, Integral) and not isinstance(v, bool)]
    if len(given) != 2 or len(numbers) != 2 or min(numbers) < 1:
        raise LayerError(f"{name} must be one or two whole numbers of at least 1, got {value!r}")
    return numbers[0], numbers[1]


@dataclass(frozen=True)
class Conv(Layer):
    """A convolution with infinitely many output channels.

    The covariance of two output pixels is ``w_std**2`` times the mean of the input covariance over the window,
    plus ``b_std**2``; positions outside the image count as zeros in that mean (Arora et al. 2019, section 4).

    Parameters
    ----------
    filter_shape : window height and width in pixels; one number means a square.
    strides, padding : only 1 and "SAME" so far: the output has the input's size.
    w_std, b_std : standard deviations of weights and biases.
    trained : False fixes this layer's own weights and biases at their initial values: they add nothing to the NTK.
    """

    filter_shape: int | tuple[int, int]
    strides: int | tuple[int, int] = 1
    padding: str = "SAME"
    w_std: float = 1.0
    b_std: float = 0.0
    trained: bool = True

    def __post_init__(self) -> None:
        _require_weights(self)
        _pair("filter_shape", self.filter_shape)
        if _pair("strides", self.strides) != (1, 1):
            raise LayerError(f"Conv supports strides=1 so far, got strides={self.strides}")
        if self.padding != "SAME":
            raise LayerError(f'Conv supports padding="SAME" so far, got padding={self.padding!r}')

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the filter in pixels."""
        return _pair("filter_shape", self.filter_shape)

    def output_shape(self, shape: Shape) -> Shape:
        return Shape(require_image(self, shape), None)


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer on vectors, or the same one at every pixel of an image.

    Parameters
    ----------
    w_std, b_std : standard deviations of weights and biases.
    trained : False fixes this layer's own weights and biases: they add nothing to the NTK.
    """

    w_std: float = 1.0
    b_std: float = 0.0
    trained: bool = True

    def __post_init__(self) -> None:
        _require_weights(self)

    def output_shape(self, shape: Shape) -> Shape:
        return Shape(shape.spatial, None)


@dataclass(frozen=True)
class Rescale(Layer):
    """A fixed multiplication that scales every covariance, of NNGP and NTK alike, by ``variance``.

    Parameters
    ----------
    variance : a number > 0; or "channels", the number of input channels; or "features", that of input values
        (H W C). The words undo the NTK parameterisation's division by the fan-in of the raw inputs, for
        kernels that are defined by plain sums. They need a finite input, so put the layer first.
    """

    variance: float | str = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.variance, str):
            if self.variance not in ("channels", "features"):
                raise LayerError(f'Rescale takes a number, "channels" or "features", got {self.variance!r}')
        elif not isinstance(self.variance, Real) or not 0 < self.variance < float("inf"):
            raise LayerError(f"Rescale needs a finite variance > 0, got {self.variance!r}")

    def factor(self, shape: Shape) -> float:
        """Evaluate ``variance`` for an input of this shape."""
        if not isinstance(self.variance, str):
            return float(self.variance)
        if shape.channels is None:
            raise LayerError(f"{self} counts input {self.variance}, but the input is infinitely wide: put it first")
        height, width = shape.spatial or (1, 1)
        return float(shape.channels * (height * width if self.variance == "features" else 1))

    def output_shape(self, shape: Shape) -> Shape:
        self.factor(shape)
        return shape
