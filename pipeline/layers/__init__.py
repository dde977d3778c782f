"""The algebra that users write networks in.

``LAYERS`` is the door of this room: the layers by name, as workflow files and run directories spell them.
"""

from pipeline.layers import presets
from pipeline.layers.attention import SelfAttention
from pipeline.layers.base import Graph, Layer, Shape
from pipeline.layers.gaussian import Gaussian
from pipeline.layers.linear import Conv, Dense, Rescale
from pipeline.layers.normalization import Dropout, LayerNorm
from pipeline.layers.pointwise import ClosedForm, Pointwise, Series
from pipeline.layers.pooling import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool, LocalAvgPool, SumPool
from pipeline.layers.rectifiers import Abs, LeakyRelu, Relu, Sign
from pipeline.layers.residual import Identity, Residual
from pipeline.layers.sequential import Sequential
from pipeline.layers.series import Elementwise, Hermite, Polynomial
from pipeline.layers.smooth import Cos, Erf, Exp, Gelu, Rbf, Sin
from pipeline.layers.windows import Windows

LAYERS: dict[str, type[Layer]] = {
    "Conv": Conv,
    "Dense": Dense,
    "Rescale": Rescale,
    "Relu": Relu,
    "LeakyRelu": LeakyRelu,
    "Abs": Abs,
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
    "GlobalAvgPool": GlobalAvgPool,
    "GlobalSumPool": GlobalSumPool,
    "LocalAvgPool": LocalAvgPool,
    "Identity": Identity,
    "Residual": Residual,
    "LayerNorm": LayerNorm,
    "Dropout": Dropout,
    "SelfAttention": SelfAttention,
}

__all__ = [
    "LAYERS",
    "Abs",
    "AvgPool",
    "ClosedForm",
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
    "Hermite",
    "Identity",
    "Layer",
    "LayerNorm",
    "LeakyRelu",
    "LocalAvgPool",
    "Pointwise",
    "Polynomial",
    "Rbf",
    "Relu",
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
