"""Layers that average, sum or join positions."""

from dataclasses import dataclass, replace

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import is_whole_number, short_repr
from cntk_pipeline.layers.base import Graph, Layer, Shape, read_pair, require_image, require_positions, require_wide
from cntk_pipeline.layers.rectifiers import AbsDifference
from cntk_pipeline.layers.refused import PAGE
from cntk_pipeline.layers.windows import Windows, check_padding


@dataclass(frozen=True)
class Flatten(Layer):
    """Lay all pixels side by side as features. Only covariances of equal positions survive; vectors pass unchanged.

    Of inputs with absent positions, a position counts where both inputs have it; an input with L present positions is
    divided by the root of L.

    Behind several positions, channels have the variances of these: put activations before it, or weights behind.
    """

    def output_shape(self, shape: Shape) -> Shape:
        height, width = shape.size if shape.spatial is None else require_image(self, shape, padded=True)
        if shape.is_padded and shape.channels is not None:
            what = "images with absent pixels" if shape.has_gaps else "sequences of unequal lengths"
            raise LayerError(
                f"Flatten of {what} needs infinitely many channels: put a Conv, Dense or Recurrent layer before it"
            )
        channels = None if shape.channels is None else shape.channels * height * width
        behind = replace(shape.with_spatial(None), channels=channels)
        return behind if height * width == 1 else replace(behind, gaussian=False, alike=False)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        height, width = shape.size
        if shape.is_padded:  # each input has its own number of positions
            return graph.trace(graph.gate(source, "root"), 1.0)
        return source if shape.spatial is None else graph.trace(source, 1 / (height * width))


def _place(layer: "AvgPool | MaxPool | SumPool", shape: Shape) -> tuple[Windows, Windows]:
    """Lay the windows of a pooling layer over an image."""
    size = require_image(layer, shape, gaps=not isinstance(layer, MaxPool))
    window = read_pair("window_shape", layer.window_shape)
    strides = window if layer.strides is None else read_pair("strides", layer.strides)
    rows, columns = (Windows.place(*values, layer.padding) for values in zip(size, window, strides, strict=True))
    if shape.is_padded and rows.count == columns.count == 1:
        raise LayerError(
            f"{layer} leaves one position of images with absent pixels, whose presence would be lost: take "
            "GlobalAvgPool() or GlobalSumPool() instead"
        )
    return rows, columns


def _without_absent(graph: Graph, shape: Shape, source: int) -> int:
    """Return what windows read, of which absent positions count for nothing."""
    return graph.gate(source, "present") if shape.is_padded else source


def _check(layer: "AvgPool | MaxPool | SumPool") -> None:
    read_pair("window_shape", layer.window_shape)
    if layer.strides is not None:
        read_pair("strides", layer.strides)
    check_padding(layer.padding, ("SAME", "VALID"))
    if isinstance(layer, AvgPool):
        _require_edges(layer.normalize_edges)


def _require_edges(value: object) -> None:
    if not isinstance(value, int) or value not in (0, 1):  # 1 and 0 of older files too
        raise LayerError(f"normalize_edges must be True or False, got {short_repr(value)}")


@dataclass(frozen=True)
class AvgPool(Layer):
    """Average over windows.

    Parameters
    ----------
    window_shape : int or (int, int)
        Height and width in pixels; one number means a square.
    strides : int or (int, int), optional
        Pixels from a window to the next; None is the window's shape.
    padding : str
        "VALID" keeps windows inside the image; "SAME" lets them reach outside, into zeros.
    normalize_edges : bool
        Divide by the pixels inside the image, not by those of the window. Of images with absent pixels, divide by those
        that are there.
    """

    window_shape: int | tuple[int, int]
    strides: int | tuple[int, int] | None = None
    padding: str = "VALID"
    normalize_edges: bool = False

    def __post_init__(self) -> None:
        _check(self)

    def output_shape(self, shape: Shape) -> Shape:
        return shape.behind_windows(*_place(self, shape))

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        rows, columns = _place(self, shape)
        scale = 1.0 if self.normalize_edges else 1 / (rows.window * columns.window) ** 2
        return graph.pool(_without_absent(graph, shape, source), rows, columns, scale, self.normalize_edges)


@dataclass(frozen=True)
class SumPool(Layer):
    """Sum over windows; see `AvgPool`.

    Parameters
    ----------
    window_shape, strides, padding
        Of `AvgPool`.
    """

    window_shape: int | tuple[int, int]
    strides: int | tuple[int, int] | None = None
    padding: str = "VALID"

    def __post_init__(self) -> None:
        _check(self)

    def output_shape(self, shape: Shape) -> Shape:
        return shape.behind_windows(*_place(self, shape))

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        return graph.pool(_without_absent(graph, shape, source), *_place(self, shape))


@dataclass(frozen=True)
class MaxPool(Layer):
    """The larger one of two positions that lie side by side, channel by channel; behind weights.

    With ``max(u, v) = (u + v) / 2 + |u - v| / 2`` it is an average pooling plus the absolute value of half a
    difference. The products of one with the other have mean 0, so that the covariances of both add up. Behind it,
    channels are no longer Gaussian: weights must follow before the next activation.

    Parameters
    ----------
    window_shape : (int, int)
        (1, 2) or (2, 1), height and width in pixels.
    strides : int or (int, int), optional
        Pixels from a window to the next; None is the window's shape.
    padding : str
        "VALID" keeps windows inside the image; of a window that reaches outside, "SAME" takes the position inside.
    """

    window_shape: tuple[int, int]
    strides: int | tuple[int, int] | None = None
    padding: str = "VALID"

    def __post_init__(self) -> None:
        _check(self)
        window = read_pair("window_shape", self.window_shape)
        if sorted(window) != [1, 2]:
            raise LayerError(
                f"MaxPool is exact for two positions, window_shape (1, 2) or (2, 1), got {self.window_shape!r}: the "
                "maximum of more correlated Gaussians has no closed form. With weights between two pairs there is one, "
                f"which is another network: MaxPool((1, 2)), Dense(), MaxPool((2, 1)). {PAGE} says more"
            )

    def output_shape(self, shape: Shape) -> Shape:
        rows, columns = _place(self, shape)
        require_wide(self, shape)
        if not shape.gaussian:
            raise LayerError(
                "MaxPool needs Gaussian inputs, and the maximum of two rectified ones is one of three numbers: put a "
                "Conv or Dense layer between it and the activation before it"
            )
        return replace(shape, spatial=(rows.count, columns.count), gaussian=False, centred=False)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        rows, columns = _place(self, shape)
        # With A = (c11 + c22) / 4 and B = (c12 + c21) / 4, half the sum has covariance A + B, half the difference has
        # A - B. The maximum has A + B + |.| = 2 A + (|.| - (A - B)). Both poolings together look at each plane once.
        like = graph.pool(source, _part_of(rows, "like"), _part_of(columns, "like"), 2.0)
        unlike = graph.pool(source, _part_of(rows, "unlike"), _part_of(columns, "unlike"), -2.0)
        return graph.add(like, graph.apply(graph.add(like, unlike), AbsDifference()))


def _part_of(windows: Windows, part: str) -> Windows:
    return replace(windows, part=part) if windows.window == 2 else windows


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """Average over all pixels, or all nodes of a graph. The covariance is the mean over all pairs of positions."""

    def output_shape(self, shape: Shape) -> Shape:
        require_positions(self, shape)
        return shape.with_spatial(None)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        height, width = require_positions(self, shape)
        if shape.is_graph:  # each has its own number of nodes
            return graph.pool(source, Windows.whole(height), Windows.whole(width), normalize_edges=True)
        if shape.is_padded:
            return graph.pool(graph.gate(source, "mean"), Windows.whole(height), Windows.whole(width))
        return graph.pool(source, Windows.whole(height), Windows.whole(width), 1 / (height * width) ** 2)


@dataclass(frozen=True)
class GlobalSumPool(Layer):
    """Sum over all pixels, or all nodes of a graph."""

    def output_shape(self, shape: Shape) -> Shape:
        require_positions(self, shape)
        return shape.with_spatial(None)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        height, width = require_positions(self, shape)
        return graph.pool(_without_absent(graph, shape, source), Windows.whole(height), Windows.whole(width))


@dataclass(frozen=True)
class LocalAvgPool(Layer):
    """Average around every pixel, over all pixels at most ``radius`` away in row and column (Li et al. 2019).

    Radius 0 changes nothing; with a radius of the image's size, every pixel is the average of all, times the share
    of its window that lies inside.

    Parameters
    ----------
    radius : int
        In pixels; the window is 2 radius + 1 high and wide.
    normalize_edges : bool
        Divide by the pixels inside the image, not by those of the window. Of images with absent pixels, divide by those
        that are there.
    """

    radius: int
    normalize_edges: bool = False

    def __post_init__(self) -> None:
        if not is_whole_number(self.radius) or self.radius < 0:
            raise LayerError(f"radius must be a whole number of pixels >= 0, got {self.radius!r}")
        _require_edges(self.normalize_edges)

    def output_shape(self, shape: Shape) -> Shape:
        return shape.behind_windows(*self._windows(shape))

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        rows, columns = self._windows(shape)
        scale = 1.0 if self.normalize_edges else 1 / rows.window**4
        return graph.pool(_without_absent(graph, shape, source), rows, columns, scale, self.normalize_edges)

    def _windows(self, shape: Shape) -> tuple[Windows, Windows]:
        size = require_image(self, shape, gaps=True)
        rows, columns = (Windows.place(each, 2 * self.radius + 1, 1, "SAME") for each in size)
        return rows, columns
