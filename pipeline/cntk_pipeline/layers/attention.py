"""Attention over the positions of an image."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from cntk_pipeline.layers.base import Graph, Layer, Shape, require_image
from cntk_pipeline.layers.linear import require_deviation, require_trained
from cntk_pipeline.layers.windows import Windows


@dataclass(frozen=True)
class SelfAttention(Layer):
    """One head of self-attention, logits divided by the number of key channels (Hron et al. 2020, arXiv:2006.10540).

    With that scaling, and query and key weights equal at initialisation, the attention of an image is not random in
    the limit: ``A = softmax(w_query_std w_key_std C)`` over the covariance C of its own positions. Values and outputs
    are layers with weights of their own.

    Memory and time of a pair grow with the square and the third power of the number of pixels: use it on small
    images, or behind strides or pooling.

    Parameters
    ----------
    w_query_std, w_key_std, w_value_std, w_out_std, b_std : standard deviations; the bias is the output's.
    trained : False fixes the weights of values and outputs at their initial values.
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
        for name in ("w_query_std", "w_key_std", "w_value_std", "w_out_std", "b_std"):
            require_deviation(name, getattr(self, name))
        require_trained(self.trained)

    def output_shape(self, shape: Shape) -> Shape:
        require_image(self, shape)
        return shape.behind_weights(shape.spatial)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        rows, columns = (Windows.single(size) for size in shape.size)
        mixed = graph.attend(source, self.w_query_std * self.w_key_std)
        values = graph.weigh(mixed, rows, columns, (self.w_value_std * self.w_out_std) ** 2, 0.0, float(self.trained))
        return graph.weigh(values, rows, columns, 1.0, self.b_std**2, float(self.trained))
