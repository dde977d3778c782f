"""The architectures of the study of convergence: every activation of the algebra, and every kind of layer."""

from cntk_pipeline.layers import (
    Abs,
    AvgPool,
    Conv,
    Cos,
    Dense,
    Elementwise,
    Erf,
    Exp,
    Flatten,
    Gaussian,
    Gelu,
    GlobalAvgPool,
    Hermite,
    Layer,
    LayerNorm,
    LeakyRelu,
    Polynomial,
    Rbf,
    Relu,
    Residual,
    SelfAttention,
    Sequential,
    Sign,
    Sin,
    SumPool,
    presets,
)

SQRT_2 = 2**0.5


def _dense(w_std: float = SQRT_2) -> Dense:
    return Dense(w_std=w_std, b_std=0.1)


def _conv(strides: int = 1) -> Conv:
    return Conv(3, strides=strides, w_std=SQRT_2, b_std=0.1)


def _averaged(*layers: Layer) -> Sequential:
    return Sequential(*layers, GlobalAvgPool(), Dense())


ACTIVATIONS: dict[str, Layer] = {
    "ReLU": Relu(),
    "leaky ReLU": LeakyRelu(0.2),
    "abs": Abs(),
    "sign": Sign(),
    "erf": Erf(),
    "GELU": Gelu(),
    "sin": Sin(),
    "cos": Cos(),
    "rbf": Rbf(0.5),
    "exp": Exp(),
    "Gaussian": Gaussian(),
    "polynomial": Polynomial((0.1, 0.6, 0.2)),
    "Hermite": Hermite((0.2, 0.5, 0.3)),
    **{name: Elementwise(name, nodes=256) for name in ("tanh", "sigmoid", "silu", "softplus")},
}
"""All activations of the algebra."""

# Small weights keep the tails of exp within the reach of a few networks.
HIDDEN = {f"{name}, 1 hidden layer": Sequential(_dense(0.7), layer, Dense()) for name, layer in ACTIVATIONS.items()}
DEEPER = {
    "ReLU, 1 hidden layer": HIDDEN["ReLU, 1 hidden layer"],
    **{
        f"{name}, 3 hidden layers": Sequential(*[_dense(), ACTIVATIONS[name]] * 3, Dense())
        for name in ("ReLU", "erf", "GELU", "sin")
    },
    "layer norm, 2 hidden layers": Sequential(*[_dense(), LayerNorm(), Relu()] * 2, Dense()),
}
DENSE = HIDDEN | DEEPER
_BLOCK = Residual(Sequential(Relu(), _conv(), Relu(), _conv()))
IMAGES: dict[str, Layer] = {
    "CNTK-V, depth 3": presets.cntk(3),
    "CNTK-V, depth 6": presets.cntk(6),
    "CNTK-GAP, depth 3": presets.cntk(3, "gap"),
    "CNTK-GAP, depth 6": presets.cntk(6, "gap"),
    "local pooling, depth 3": presets.cntk(3, "lap1"),
    "stride 2": _averaged(_conv(), Relu(), _conv(2), Relu()),
    "average pooling 2 x 2": Sequential(_conv(), Relu(), AvgPool(2), _conv(), Relu(), Flatten(), Dense()),
    "sum pooling 3 x 3": Sequential(_conv(), Relu(), SumPool(3, 2, "SAME"), _conv(), Relu(), Flatten(), Dense()),
    "residual, 2 blocks": _averaged(_conv(), _BLOCK, _BLOCK),
    "layer norm, images": _averaged(_conv(), LayerNorm(), Relu(), _conv(), LayerNorm(), Relu()),
    "attention": _averaged(_conv(), Relu(), SelfAttention(b_std=0.1), Relu()),
}
NETWORKS = DENSE | IMAGES
"""All architectures: of vectors, and of images."""

WIDEST = dict.fromkeys(IMAGES, 1024) | dict.fromkeys(DENSE, 8192)
"""The largest width of each."""
