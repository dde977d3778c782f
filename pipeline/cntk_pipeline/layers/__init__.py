"""The algebra that users write networks in.

``LAYERS`` is the door of this room: the layers by name, as workflow files and run directories spell them.
"""

from typing import TYPE_CHECKING

from cntk_pipeline.layers import presets
from cntk_pipeline.layers.absent import Masked, Padded
from cntk_pipeline.layers.aggregation import Aggregate, GraphConv
from cntk_pipeline.layers.attention import Attend, LinearAttention, SelfAttention
from cntk_pipeline.layers.base import Graph, Layer, Shape
from cntk_pipeline.layers.branches import Concatenate, Product, Repeat
from cntk_pipeline.layers.gaussian import Gaussian
from cntk_pipeline.layers.linear import Conv, Dense, Rescale
from cntk_pipeline.layers.normalization import Dropout, LayerNorm
from cntk_pipeline.layers.pointwise import ClosedForm, Pointwise, Series
from cntk_pipeline.layers.pooling import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool, LocalAvgPool, MaxPool, SumPool
from cntk_pipeline.layers.positions import PositionalEmbedding
from cntk_pipeline.layers.presence import Presence
from cntk_pipeline.layers.rectifiers import Abs, LeakyRelu, Maxout, Relu, Sign
from cntk_pipeline.layers.recurrent import Bidirectional, LastState, Recurrent
from cntk_pipeline.layers.refused import REFUSED, RefusedLayer, refused_import, why_not
from cntk_pipeline.layers.residual import Identity, Residual
from cntk_pipeline.layers.sequential import Sequential
from cntk_pipeline.layers.series import Elementwise, Hermite, Polynomial
from cntk_pipeline.layers.smooth import Cos, Erf, Exp, Gelu, Rbf, Sin
from cntk_pipeline.layers.windows import Windows
from cntk_pipeline.missing import explain_missing

explain_missing(refused_import)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Say why a layer that other libraries have is not here."""
        if name in REFUSED:
            raise RefusedLayer(why_not(name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


LAYERS: dict[str, type[Layer]] = {
    "Conv": Conv,
    "Dense": Dense,
    "Rescale": Rescale,
    "Relu": Relu,
    "LeakyRelu": LeakyRelu,
    "Abs": Abs,
    "Maxout": Maxout,
    "Sign": Sign,
    "Erf": Erf,
    "Gelu": Gelu,
    "Sin": Sin,
    "Cos": Cos,
    "Rbf": Rbf,
    "Exp": Exp,
    "Gaussian": Gaussian,
    "Polynomial": Polynomial,
    "Hermite": Hermite,
    "Elementwise": Elementwise,
    "Flatten": Flatten,
    "AvgPool": AvgPool,
    "SumPool": SumPool,
    "MaxPool": MaxPool,
    "GlobalAvgPool": GlobalAvgPool,
    "GlobalSumPool": GlobalSumPool,
    "LocalAvgPool": LocalAvgPool,
    "Identity": Identity,
    "Residual": Residual,
    "Product": Product,
    "Concatenate": Concatenate,
    "Repeat": Repeat,
    "LayerNorm": LayerNorm,
    "Dropout": Dropout,
    "SelfAttention": SelfAttention,
    "Attend": Attend,
    "LinearAttention": LinearAttention,
    "PositionalEmbedding": PositionalEmbedding,
    "Recurrent": Recurrent,
    "Bidirectional": Bidirectional,
    "LastState": LastState,
    "Padded": Padded,
    "Masked": Masked,
    "Aggregate": Aggregate,
    "GraphConv": GraphConv,
}

__all__ = [
    "LAYERS",
    "Abs",
    "Aggregate",
    "Attend",
    "AvgPool",
    "Bidirectional",
    "ClosedForm",
    "Concatenate",
    "Conv",
    "Cos",
    "Dense",
    "Dropout",
    "Elementwise",
    "Erf",
    "Exp",
    "Flatten",
    "Gaussian",
    "Gelu",
    "GlobalAvgPool",
    "GlobalSumPool",
    "Graph",
    "GraphConv",
    "Hermite",
    "Identity",
    "LastState",
    "Layer",
    "LayerNorm",
    "LeakyRelu",
    "LinearAttention",
    "LocalAvgPool",
    "Masked",
    "MaxPool",
    "Maxout",
    "Padded",
    "Pointwise",
    "Polynomial",
    "PositionalEmbedding",
    "Presence",
    "Product",
    "Rbf",
    "Recurrent",
    "Relu",
    "Repeat",
    "Rescale",
    "Residual",
    "SelfAttention",
    "Sequential",
    "Series",
    "Shape",
    "Sign",
    "Sin",
    "SumPool",
    "Windows",
    "presets",
]
