"""The networks whose kernels `tests/golden/neural_tangents.npz` and `neural_tangents_2.npz` hold."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from cntk_pipeline.layers import (
    Abs,
    Attend,
    AvgPool,
    Conv,
    Cos,
    Dense,
    Dropout,
    Elementwise,
    Erf,
    Flatten,
    Gelu,
    GlobalAvgPool,
    Layer,
    LayerNorm,
    LeakyRelu,
    LinearAttention,
    PositionalEmbedding,
    Product,
    Rbf,
    Relu,
    Residual,
    SelfAttention,
    Sequential,
    Sin,
    SumPool,
)

SQRT_2 = 2**0.5


def conv(size: int = 3, strides: int = 1, padding: str = "SAME", b_std: float = 0.0) -> Conv:
    return Conv(size, strides=strides, padding=padding, w_std=SQRT_2, b_std=b_std)


def dense(w_std: float = 1.5, b_std: float = 0.05) -> Dense:
    return Dense(w_std=w_std, b_std=b_std)


def averaged(*layers: Layer) -> Sequential:
    """End in the average of all positions and a read-out."""
    return Sequential(*layers, GlobalAvgPool(), Dense())


def flattened(*layers: Layer) -> Sequential:
    """End in all positions side by side and a read-out."""
    return Sequential(*layers, Flatten(), Dense())


BLOCK = Residual(Sequential(Relu(), conv(b_std=0.1), Relu(), conv(b_std=0.1)))

GOLDEN: dict[str, Sequential] = {
    "fc3_relu": Sequential(
        Dense(w_std=SQRT_2, b_std=0.1), Relu(), Dense(w_std=SQRT_2, b_std=0.1), Relu(), Dense(w_std=1.0, b_std=0.1)
    ),
    "fc2_erf": Sequential(dense(), Erf(), dense(), Erf(), dense()),
    "fc2_gelu": Sequential(dense(), Gelu(), dense(), Gelu(), dense()),
    "fc2_leaky": Sequential(dense(), LeakyRelu(0.1), dense(), LeakyRelu(0.1), Dense()),
    "fc2_abs": Sequential(dense(), Abs(), Dense()),
    "fc2_sin": Sequential(dense(), Sin(), dense(1.2), Sin(), Dense()),
    "fc2_cos": Sequential(dense(), Cos(), Dense()),
    "fc1_rbf": Sequential(Dense(), Rbf(0.5), Dense()),
    "fc_layernorm": Sequential(dense(1.5, 0.3), LayerNorm(), Relu(), dense(1.5, 0.3), LayerNorm(), Relu(), Dense()),
    # The peer's Dropout(0.9) keeps 0.9.
    "fc_dropout": Sequential(dense(1.5, 0.1), Relu(), Dropout(0.1), dense(1.5, 0.1), Relu(), Dense()),
    "cnn_v_d3": flattened(conv(), Relu(), conv(), Relu()),
    "cnn_gap_d3": averaged(conv(), Relu(), conv(), Relu()),
    "cnn_gap_d6_bias": Sequential(*[conv(b_std=0.1), Relu()] * 5, GlobalAvgPool(), Dense(w_std=1.0, b_std=0.1)),
    "cnn_circular": averaged(conv(3, 1, "CIRCULAR", 0.1), Relu(), conv(3, 1, "CIRCULAR"), Relu()),
    "cnn_stride2": averaged(conv(), Relu(), conv(3, 2, b_std=0.1), Relu(), conv(), Relu()),
    "cnn_stride2_flat": flattened(conv(3, 2), Relu(), conv(2, 2, "VALID"), Relu()),
    "cnn_avgpool": averaged(conv(), Relu(), AvgPool(2), conv(b_std=0.1), Relu()),
    "cnn_sumpool3s2": flattened(conv(), Relu(), SumPool(3, 2, "SAME"), conv(), Relu()),
    "cnn_avgpool_flat": flattened(conv(), Relu(), AvgPool(2), conv(), Relu()),
    "cnn_gelu_gap": averaged(conv(b_std=0.1), Gelu(), conv(b_std=0.1), Gelu()),
    "cnn_erf_v": flattened(conv(b_std=0.1), Erf(), conv(b_std=0.1), Erf()),
    "cnn_leaky_gap": averaged(conv(), LeakyRelu(0.2), conv(), LeakyRelu(0.2)),
    "resnet_gap": averaged(conv(b_std=0.1), BLOCK, BLOCK),
    "resnet_flat": flattened(conv(b_std=0.1), BLOCK),
    "cnn_layernorm": averaged(conv(b_std=0.1), LayerNorm(), Relu(), conv(b_std=0.1), Relu()),
    "cnn_dense_mid": Sequential(conv(), Relu(), GlobalAvgPool(), Dense(w_std=SQRT_2, b_std=0.1), Relu(), Dense()),
    "cnn_flat_dense_mid": Sequential(conv(), Relu(), Flatten(), Dense(w_std=SQRT_2, b_std=0.1), Relu(), Dense()),
    "myrtle5": averaged(
        *[conv(), Relu(), conv(), Relu(), AvgPool(2), conv(), Relu(), AvgPool(2), conv(), Relu(), AvgPool(2)]
    ),
    "attention": averaged(conv(b_std=0.1), Relu(), SelfAttention(b_std=0.1), Relu()),
}


def sigmoid_like(x):
    """Evaluate the sigmoid of the peer, whose dual is that of Erf."""
    return 0.5 * special.erf(x / 2.4020563531719796) + 0.5


def branch(w_std: float, *layers: Layer) -> Sequential:
    return Sequential(Dense(w_std=w_std, b_std=0.1), *layers)


def conv_branch(w_std: float, *layers: Layer) -> Sequential:
    return Sequential(Conv(3, w_std=w_std, b_std=0.1), *layers)


def standard(layer: Layer, fan_in: float | None = None) -> Layer:
    return replace(layer, parameterization="standard", fan_in=fan_in)


@dataclass(frozen=True)
class PowerDecay:
    """``1 / (1 + r^4)``, the peer's example, which is no covariance of vectors: it has negative eigenvalues."""

    def table(self, height: int, width: int) -> np.ndarray:
        away = np.hypot(np.arange(1 - height, height)[:, None], np.arange(1 - width, width))
        return 1 / (1 + away**4)


@dataclass(frozen=True)
class PeerPositions(Layer):
    """Positions in the logits with the peer's decay."""

    def output_shape(self, shape):
        return shape

    def lower(self, graph, shape, source):
        return graph.embed(source, PowerDecay(), 0.7**2, 1.0)


HEAD = {"w_query_std": 0.9, "w_key_std": 1.1, "w_value_std": 1.2, "w_out_std": 1.3, "b_std": 0.1}


GOLDEN_2: dict[str, Sequential] = {
    "product_glu": Sequential(
        Product(branch(1.3, Elementwise(sigmoid_like, 256)), branch(1.1)), dense(1.2, 0.2), Relu(), Dense()
    ),
    "product_conv": averaged(
        conv(b_std=0.1), Relu(), Product(conv_branch(1.3, Relu()), conv_branch(1.1, Erf())), conv(b_std=0.1), Relu()
    ),
    "standard_fc": Sequential(
        *[standard(dense(1.3, 0.1)), Relu(), standard(dense(1.2, 0.2), 256), Relu(), standard(dense(1.1, 0.1), 256)]
    ),
    # The peer's widths are 4 x 256 and 4 x 128; it divides the 11 inputs by 4 as well.
    "standard_fc_s4": Sequential(
        *[standard(dense(1.3, 0), 11 / 4), Erf(), standard(dense(1.2, 0), 256), Relu(), standard(dense(1.1, 0), 128)]
    ),
    "standard_conv": Sequential(
        *[standard(Conv(3, w_std=1.3, b_std=0.1)), Relu(), standard(Conv(3, w_std=1.2, b_std=0.2), 64), Relu()],
        *[GlobalAvgPool(), standard(dense(1.1, 0.1), 32)],
    ),
    "attention_pos_sum": averaged(
        *[conv(b_std=0.1), Relu()],
        *[Attend(gain=0.9 * 1.1, keys=PeerPositions()), Dense(w_std=1.2), Dense(w_std=1.3, b_std=0.1), Relu()],
    ),
    "attention_pos_val": averaged(
        *[conv(b_std=0.1), Relu(), PositionalEmbedding(w_std=0.7), SelfAttention(**HEAD), Relu()],
    ),
    "attention_identity_sqrt": averaged(conv(b_std=0.1), Relu(), LinearAttention(**HEAD), Relu()),
}
