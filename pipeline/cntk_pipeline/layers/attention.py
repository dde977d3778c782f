"""Attention over the positions of an image."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import is_number, short_repr
from cntk_pipeline.layers.arguments import require_truth
from cntk_pipeline.layers.base import Graph, Layer, Shape, require_branches, require_image
from cntk_pipeline.layers.linear import require_deviation
from cntk_pipeline.layers.residual import Identity
from cntk_pipeline.layers.windows import Windows

MECHANISMS = ("softmax", "identity", "abs", "relu")
"""What attention is of its logits."""

_INPUT = Identity()


@dataclass(frozen=True)
class Attend(Layer):
    """Mix the positions of each image by its attention, without weights of its own.

    The logits are ``gain`` times the covariance of an image's positions with each other: query and key weights are
    equal at initialisation, and logits are divided by the number of key channels (Hron et al. 2020, arXiv:2006.10540).
    ``Attend(gain=q * k), Dense(w_std=v), Dense(w_std=o)`` is ``SelfAttention(w_query_std=q, w_key_std=k,
    w_value_std=v, w_out_std=o)``.

    Parameters
    ----------
    gain : float
        What logits are multiplied by: the deviation of query weights times that of key weights.
    keys : Layer
        A layer, or a sequence of them, before queries and keys alone; values pass beside it. With
        ``keys=PositionalEmbedding()`` positions count for the logits and not for the values.
    mechanism : str
        "softmax" of a position's logits; or "identity", "abs" or "relu" of each logit, which are not normalised.
    plus_identity : bool
        Mix by A + I in place of A: the skip connection of the values themselves, as in Yang's Transformer
        (arXiv:2006.14548). `Residual` is for branches with weights of their own.
    """

    _: KW_ONLY
    gain: float = 1.0
    keys: Layer = _INPUT
    mechanism: str = "softmax"
    plus_identity: bool = False

    def __post_init__(self) -> None:
        if not is_number(self.gain) or not 0 <= self.gain < float("inf"):
            raise LayerError(f"gain must be a finite factor >= 0, got {short_repr(self.gain)}")
        require_branches(self, keys=self.keys)
        if self.mechanism not in MECHANISMS:
            raise LayerError(f"mechanism must be one of {', '.join(MECHANISMS)}, got {short_repr(self.mechanism)}")
        if not isinstance(self.plus_identity, bool):
            raise LayerError(f"plus_identity must be True or False, got {short_repr(self.plus_identity)}")

    @property
    def inner(self) -> tuple[Layer, ...]:
        return _layers_of(self.keys)

    @property
    def renews(self) -> bool:
        return False

    def output_shape(self, shape: Shape) -> Shape:
        require_image(self, shape, padded=True)
        require_keys(self, self.keys, shape)
        return shape

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        keys = self.keys.lower(graph, shape, source)
        apart = None if keys == source else keys
        return graph.attend(source, self.gain, apart, self.mechanism, self.plus_identity, shape.is_padded)


def _layers_of(keys: Layer) -> tuple[Layer, ...]:
    """Name what lies before queries and keys alone, if that is anything."""
    return () if keys == _INPUT else (keys,)


def _require_weights(layer: "SelfAttention | LinearAttention") -> None:
    for name in ("w_query_std", "w_key_std", "w_value_std", "w_out_std", "b_std"):
        require_deviation(name, getattr(layer, name))
    require_truth("trained", layer.trained)


def require_keys(layer: Layer, keys: Layer, shape: Shape) -> None:
    """Refuse layers before queries and keys that do not keep the positions, or do not fit."""
    try:
        behind = keys.output_shape(shape)
    except LayerError as error:
        raise LayerError(f"keys: {error}") from None
    if behind.spatial != shape.spatial:
        raise LayerError(
            f"the keys of {type(layer).__name__} must keep the positions, got {behind} from {shape}: use strides of 1 "
            "and padding SAME"
        )


@dataclass(frozen=True)
class SelfAttention(Layer):
    """One head of self-attention, logits divided by the number of key channels (Hron et al. 2020, arXiv:2006.10540).

    With that scaling, and query and key weights equal at initialisation, the attention of an image is not random in
    the limit: ``A = softmax(w_query_std w_key_std C)`` over the covariance C of its own positions. Values and outputs
    are layers with weights of their own.

    Memory and time of a pair grow with the square and the third power of the number of pixels: use it on small
    images, or behind strides or pooling. `Attend` is attention in other ways: positions, a skip connection, other
    functions than the softmax.

    Parameters
    ----------
    w_query_std, w_key_std, w_value_std, w_out_std, b_std : float
        Standard deviations; the bias is the output's.
    trained : bool
        False fixes the weights of values and outputs at their initial values.
    """

    spelt_elsewhere: ClassVar[str] = (
        "Channels and heads are infinitely many and not given: "
        "stax.GlobalSelfAttention(c, k, v, h, linear_scaling=True) is SelfAttention()"
    )

    _: KW_ONLY
    w_query_std: float = 1.0
    w_key_std: float = 1.0
    w_value_std: float = 1.0
    w_out_std: float = 1.0
    b_std: float = 0.0
    trained: bool = True

    @property
    def renews(self) -> bool:
        return True

    def __post_init__(self) -> None:
        _require_weights(self)

    def output_shape(self, shape: Shape) -> Shape:
        require_image(self, shape, padded=True)
        return shape.behind_weights(shape.spatial)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        rows, columns = (Windows.single(size) for size in shape.size)
        mixed = graph.attend(source, self.w_query_std * self.w_key_std, padded=shape.is_padded)
        values = graph.weigh(mixed, rows, columns, (self.w_value_std * self.w_out_std) ** 2, 0.0, float(self.trained))
        return graph.weigh(values, rows, columns, 1.0, self.b_std**2, float(self.trained))


@dataclass(frozen=True)
class LinearAttention(Layer):
    """Infinitely many heads of self-attention without a softmax (Hron et al. 2020, arXiv:2006.10540).

    Logits are divided by the root of the number of key channels and taken as they are; query and key weights are
    independent. The attention of a head is random then. Behind the output weights, which average over heads, it is
    ``S' = scale K sum(K S) + b_std**2``, with K the covariance of the keys, and the sum over all pairs of positions.
    With a softmax there is no closed form. A finite number of heads comes near to this as it grows.

    Nothing is normalised: values grow with the third power of the input, and with the number of positions. Put
    `LayerNorm` before it.

    Parameters
    ----------
    w_query_std, w_key_std, w_value_std, w_out_std, b_std : float
        Standard deviations; the bias is the output's.
    keys : Layer
        A layer, or a sequence of them, before queries and keys alone, as of `Attend`.
    trained : bool
        False fixes the weights at their initial values.
    """

    spelt_elsewhere: ClassVar[str] = (
        "Channels and heads are infinitely many and not given: stax.GlobalSelfAttention(c, k, v, h, "
        'linear_scaling=False, attention_mechanism="IDENTITY") is LinearAttention()'
    )

    _: KW_ONLY
    w_query_std: float = 1.0
    w_key_std: float = 1.0
    w_value_std: float = 1.0
    w_out_std: float = 1.0
    b_std: float = 0.0
    keys: Layer = _INPUT
    trained: bool = True

    @property
    def inner(self) -> tuple[Layer, ...]:
        return _layers_of(self.keys)

    @property
    def renews(self) -> bool:
        return True

    def __post_init__(self) -> None:
        _require_weights(self)
        require_branches(self, keys=self.keys)

    def output_shape(self, shape: Shape) -> Shape:
        require_image(self, shape, padded=True)
        require_keys(self, self.keys, shape)
        return shape.behind_weights(shape.spatial)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        rows, columns = (Windows.single(size) for size in shape.size)
        keys = self.keys.lower(graph, shape, source)
        products = graph.multiply(keys, source)
        if shape.is_padded:
            products = graph.gate(products, "present")
        mixed = graph.multiply(keys, graph.total(products))
        scale = (self.w_query_std * self.w_key_std * self.w_value_std * self.w_out_std) ** 2
        # Queries, keys, values and outputs are four layers; own S' counts the bias as often, which is there once.
        own, extra = (4.0, -3 * self.b_std**2) if self.trained else (0.0, 0.0)
        return graph.weigh(mixed, rows, columns, scale, self.b_std**2, own, extra)
