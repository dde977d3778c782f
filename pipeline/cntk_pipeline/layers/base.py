"""What a layer is: a frozen value that knows which shape it turns into which, and what it does to covariances."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import wraps
from numbers import Integral
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

from cntk_pipeline.errors import LayerError
from cntk_pipeline.graphs import is_graph
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.layers.arguments import as_plain, require_arguments
from cntk_pipeline.layers.presence import Presence
from cntk_pipeline.layers.windows import Windows

WHEN_CHANGED = MappingProxyType({"spelt": "when changed"})
"""Marks a field that files leave out at its default: runs of before the field was there keep their specification."""

if TYPE_CHECKING:
    from cntk_pipeline.layers.pointwise import Pointwise
    from cntk_pipeline.layers.positions import Correlation


@dataclass(frozen=True)
class Shape:
    """The shape of one example inside a network.

    Attributes
    ----------
    spatial : (int, int) or None
        (height, width) in pixels, or None for a vector.
    channels : int or None
        Number of input channels or features; None once a layer with weights has made it infinite.
    gaussian : bool
        Whether the channels are independent draws of one Gaussian law of mean zero, jointly of all positions and
        inputs, as layers with weights make them. Such channels are centred and alike.
    is_graph : bool
        Whether the positions are the nodes of a graph, of which graphs may have any number.
    present : Presence, optional
        Which positions are there, where some may be absent; see `Padded` and `Masked`.
    centred : bool
        Whether channels have mean zero, so that products with independent ones have it too.
    alike : bool
        Whether all channels have the same covariance and the same tangent; else only their means are known.
    """

    spatial: tuple[int, int] | None
    channels: int | None
    gaussian: bool = False
    is_graph: bool = False
    present: Presence | None = None
    centred: bool = False
    alike: bool = False

    def __post_init__(self) -> None:
        if self.gaussian:
            object.__setattr__(self, "centred", True)
            object.__setattr__(self, "alike", True)

    @classmethod
    def of_inputs(cls, shape: tuple[int, ...]) -> "Shape":
        """Read off the shape of an array of inputs, ``(n, H, W, C)``, ``(n, features)``, or of `graphs.pack`."""
        if is_graph(shape[1:]):
            return cls((1, 1), shape[-1], is_graph=True)
        if len(shape) == 4:
            return cls((shape[1], shape[2]), shape[3])
        if len(shape) == 2:
            return cls(None, shape[1])
        raise LayerError(f"expected inputs of shape (n, H, W, C) or (n, features), got {shape}: add the missing axes")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width; a vector is an image of one pixel."""
        return self.spatial or (1, 1)

    @property
    def is_padded(self) -> bool:
        """Whether positions may be absent."""
        return self.present is not None

    @property
    def has_gaps(self) -> bool:
        """Whether they may be absent anywhere; see `Masked`."""
        return self.present is not None and self.present.anywhere

    def plus(self, other: "Shape") -> "Shape":
        """Return the shape of a sum of this branch and an independent one of the same positions and channels."""
        one, second = self.present, other.present
        return replace(
            self,
            gaussian=self.gaussian and other.gaussian,
            present=one if one is None or second is None else one.either(second),
            centred=self.centred and other.centred,
            alike=self.alike and other.alike,
        )

    def behind_weights(self, spatial: tuple[int, int] | None) -> "Shape":
        """Return the shape that a layer with weights makes of this one."""
        return replace(self.with_spatial(spatial), channels=None, gaussian=True)

    def with_spatial(self, spatial: tuple[int, int] | None) -> "Shape":
        """Return the shape with other positions and the same channels."""
        is_graph, present = self.is_graph and spatial is not None, None if spatial is None else self.present
        return replace(self, spatial=spatial, is_graph=is_graph, present=present)

    def behind_windows(self, rows: Windows, columns: Windows) -> "Shape":
        """Return the shape that windows make of this one, with the same channels."""
        present = None if self.present is None else self.present.behind(rows, columns)
        return replace(self, spatial=(rows.count, columns.count), present=present)

    def __str__(self) -> str:
        width = "inf" if self.channels is None else str(self.channels)
        if self.is_graph:
            return f"(nodes, {width})"
        return f"({width},)" if self.spatial is None else f"({self.spatial[0]}, {self.spatial[1]}, {width})"


class Graph(ABC):
    """The operations on covariances that layers are written in; `kernels` runs them.

    For a pair of images a node holds the covariance S(p, p') of every position of the first with every position of
    the second, and likewise the tangent T, the NTK accumulated so far. Nodes are numbers; every method appends an
    operation and returns its node.
    """

    @abstractmethod
    def rescale(self, source: int, factor: float) -> int:
        """``S' = factor S``, ``T' = factor T``."""

    @abstractmethod
    def weigh(
        self,
        source: int,
        rows: Windows,
        columns: Windows,
        scale: float,
        bias: float = 0.0,
        own: float = 0.0,
        extra: float = 0.0,
    ) -> int:
        """Sum both positions over equal shifts in a window.

        ``S' = scale sum S + bias`` and ``T' = scale sum T + own S' + extra``.
        """

    @abstractmethod
    def pool(
        self, source: int, rows: Windows, columns: Windows, scale: float = 1.0, normalize_edges: bool = False
    ) -> int:
        """Sum each position over its own window, times ``scale``.

        With ``normalize_edges`` sums are divided by the positions of the window that lie inside the image, and are
        there.
        """

    @abstractmethod
    def trace(self, source: int, scale: float) -> int:
        """Sum over equal positions, times ``scale``."""

    @abstractmethod
    def total(self, source: int) -> int:
        """Sum over all pairs of positions, and have the sum at each of them."""

    @abstractmethod
    def apply(self, source: int, function: "Pointwise") -> int:
        """Apply a function position by position."""

    @abstractmethod
    def recur(
        self,
        source: int,
        function: "Pointwise",
        recurrence: float,
        scale: float,
        bias: float = 0.0,
        own: float = 0.0,
        backward: bool = False,
        padded: bool = False,
    ) -> int:
        """Scan both positions of a pair together along the row of an image, with a function at each step.

        ``H = recurrence S'(p - 1, p' - 1) + scale S + bias`` and S' is the dual of the function at H;
        ``T' = slope (recurrence T'(p - 1, p' - 1) + scale T + own H)`` with the dual of its derivative. Before the
        first position there are zeros; with ``backward`` the scan runs from the last position to the first. With
        ``padded``, S' and T' are 0 where a step of either sequence is absent.
        """

    @abstractmethod
    def add(self, first: int, second: int) -> int:
        """``S' = S1 + S2``, ``T' = T1 + T2``."""

    @abstractmethod
    def multiply(self, first: int, second: int) -> int:
        """``S' = S1 S2``, ``T' = T1 S2 + S1 T2``."""

    @abstractmethod
    def mask(self, source: int, factor: float) -> int:
        """Multiply S and T of a position of a sample with itself by ``factor``."""

    @abstractmethod
    def embed(self, source: int, correlation: "Correlation", variance: float, own: float) -> int:
        """Add vectors of the positions, with R their correlation times ``variance``.

        ``S' = S + R`` and ``T' = T + own R``.
        """

    @abstractmethod
    def attend(
        self,
        source: int,
        gain: float,
        keys: int | None = None,
        mechanism: str = "softmax",
        plus_identity: bool = False,
        padded: bool = False,
    ) -> int:
        """Mix the positions of each image by its own attention A.

        ``S' = A_x S A_z^T`` and ``T' = A_x T A_z^T``. The logits of an image are ``gain`` times S of ``keys``, of the
        image with itself; ``keys`` is the source where None is given. With the mechanism "softmax" the rows of A are
        their softmax; with "identity", "abs" or "relu", A is this function of them. ``plus_identity`` adds I to A. With
        ``padded``, the columns of A of absent steps are 0, and a softmax is one over the others.
        """

    @abstractmethod
    def pad(self, source: int, present: Presence) -> int:
        """Read the images again, as some whose absent positions hold NaN; ``source`` is the images themselves."""

    @abstractmethod
    def gate(self, source: int, weights: str) -> int:
        """Weigh the positions of each input: ``S' = g_x(p) g_z(p') S``, and T' likewise.

        ``weights`` say what g is, with L positions that are there: "present" 1 at each of them and 0 at the others;
        "mean" 1 / L; "root" the root of 1 / L; "last" 1 at the last one alone, of a sequence.
        """

    @abstractmethod
    def aggregate(self, source: int, average: bool) -> int:
        """Sum over each node of a graph and its neighbours.

        ``S' = A_x S A_z^T`` and ``T' = A_x T A_z^T``; A is the adjacency matrix plus 1 on the diagonal. With
        ``average`` its rows are divided by their sums.
        """


class Layer(ABC):
    """One step of a network. Subclasses are frozen dataclasses, final, and compare by value."""

    has_ntk: ClassVar[bool] = True
    """Whether the NTK exists behind this layer."""

    spelt_elsewhere: ClassVar[str] = ""
    """What to write for calls that other libraries know; ends the message about arguments that do not fit."""

    def __new__(cls, *values: object, **named: object) -> Self:
        if values or named:  # a copy and what is unpickled are made without
            require_arguments(cls.__name__, cls.__init__, values, named, cls.spelt_elsewhere)
        return super().__new__(cls)

    def __init_subclass__(cls) -> None:
        """Have the fields of every layer be plain before its own checks, which thus need not think of it."""
        super().__init_subclass__()
        checks = cls.__dict__.get("__post_init__")
        if checks is not None:

            @wraps(checks)
            def plain_first(self: Layer) -> None:
                Layer.__post_init__(self)
                checks(self)

            cls.__post_init__ = plain_first  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Make numbers of NumPy Python's, and tuples of lists: files can hold them, and equal layers compute equal."""
        for field in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, field.name, as_plain(getattr(self, field.name)))

    @abstractmethod
    def output_shape(self, shape: Shape) -> Shape:
        """Infer the output's shape; raise `LayerError` with the reason where the input's does not fit."""

    @abstractmethod
    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        """Append to ``graph`` what the layer does to the node ``source`` of the given shape; return the last node."""

    @property
    def inner(self) -> "tuple[Layer, ...]":
        """The layers that this one is made of."""
        return ()

    @property
    def renews(self) -> bool:
        """Whether weights of its own lie on every way through it, so that what comes out has no part of its input."""
        return bool(self.inner) and all(layer.renews for layer in self.inner)

    def walk(self) -> "Iterator[Layer]":
        """Yield this layer and all that it is made of; without recursion, which has a limit of its own."""
        waiting: list[Layer] = [self]
        while waiting:
            layer = waiting.pop()
            waiting += reversed(layer.inner)
            yield layer


def require_image(layer: Layer, shape: Shape, padded: bool = False, gaps: bool = False) -> tuple[int, int]:
    """Return the spatial shape, or say that ``layer`` needs images.

    Parameters
    ----------
    padded : bool
        Whether the layer knows absent steps, of `Padded`.
    gaps : bool
        Whether it knows absent pixels, of `Masked`.
    """
    if shape.has_gaps and not (padded or gaps):
        raise LayerError(
            f"{layer} does not take images with absent pixels, which it would count: leave it out, or leave Masked() "
            "out and fill the pixels in"
        )
    if shape.is_padded and not shape.has_gaps and not padded:
        raise LayerError(
            f"{layer} does not take sequences of unequal lengths, whose absent steps it would count: leave it out, or "
            "leave Padded() out and cut all sequences to one length"
        )
    if shape.is_graph:
        raise LayerError(
            f"{layer} needs images of shape (H, W, C), got graphs of shape {shape}: take Aggregate or GraphConv "
            "between nodes, and GlobalSumPool or GlobalAvgPool behind them"
        )
    return require_positions(layer, shape)


def require_wide(layer: Layer, shape: Shape) -> None:
    """Refuse raw inputs, of which ``layer`` would need more than covariances."""
    if shape.channels is not None:
        raise LayerError(f"{type(layer).__name__} needs infinitely many channels: put a Conv or Dense layer before it")


def require_positions(layer: Layer, shape: Shape) -> tuple[int, int]:
    """Return the spatial shape, or say that ``layer`` needs images or graphs."""
    if shape.spatial is None:
        raise LayerError(f"{layer} needs images of shape (H, W, C), got vectors of shape {shape}")
    return shape.spatial


def require_sequence(layer: Layer, shape: Shape) -> int:
    """Return the number of steps, or say that ``layer`` needs sequences."""
    if shape.is_graph or shape.spatial is None or shape.spatial[0] != 1:
        raise LayerError(
            f"{type(layer).__name__} needs sequences, which are images of one row, (1, T, C), got {shape}: give arrays "
            '(n, T, C) as x[:, None], and those of files with data.layout = "sequences"; put no Flatten or pooling of '
            "all steps before it"
        )
    if shape.has_gaps:
        raise LayerError(
            f"{type(layer).__name__} needs sequences without gaps, and behind Masked() any step may be absent: put "
            "Padded() in its place, which takes sequences of unequal lengths"
        )
    return shape.spatial[1]


def require_layer(what: str, value: object) -> None:
    """Refuse what is no layer.

    Parameters
    ----------
    what : str
        Names its place, such as "the branch of Residual".

    Raises
    ------
    LayerError
        With the remedy for a list of layers, for a class and for a function that makes a network.
    """
    if not isinstance(value, Layer):
        raise LayerError(f"{what} must be a layer, got {short_repr(value)}{instead_of_layer(value)}")


def require_branches(layer: Layer, **branches: object) -> None:
    """Refuse branches of a layer that are none; the errors name them."""
    for name, branch in branches.items():
        require_layer(f"the {name} of {type(layer).__name__}", branch)


def instead_of_layer(value: object) -> str:
    """End an error about what is no layer: say what to write for layers in a list, and for what makes a layer."""
    if isinstance(value, type) and issubclass(value, Layer):
        made = is_dataclass(value) and all(field.default is not MISSING for field in fields(value))
        return f", which is a class: make one, {value.__name__}({'' if made else '...'})"
    if isinstance(value, list | tuple) and value and all(isinstance(each, Layer) for each in value):
        return ", several layers: give Sequential(*layers)"
    name = getattr(value, "__name__", "")
    if name.isidentifier() and isinstance(value, FunctionType):  # as of a preset
        return f", which is a function: call it, {name}(...)"
    return ": a function of NumPy arrays is Elementwise(function)" if callable(value) else ""


def read_pair(name: str, value: object) -> tuple[int, int]:
    """Read one whole number or two as height and width in pixels."""
    given = value if isinstance(value, tuple | list) else (value, value)
    numbers = [int(v) for v in given if isinstance(v, Integral) and not isinstance(v, bool)]
    if len(given) != 2 or len(numbers) != 2 or min(numbers) < 1:
        raise LayerError(f"{name} must be one or two whole numbers of at least 1, got {short_repr(value)}")
    return numbers[0], numbers[1]
