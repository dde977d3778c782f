"""The variances that duals are given against the planes of an image with itself."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.tolerances import DTYPES, tolerance

from cntk_pipeline import kernel_diagonal
from cntk_pipeline.kernels import KINDS, CpuEvaluator, lower
from cntk_pipeline.layers import (
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Elementwise,
    Erf,
    Flatten,
    Gelu,
    GlobalAvgPool,
    LayerNorm,
    Relu,
    Residual,
    SelfAttention,
    Sequential,
)

BODIES = {
    "plain": [Conv(3), Relu(), Conv(3, b_std=0.4)],
    "windows": [Conv((2, 5)), Relu(), Conv(3, strides=2), Relu(), Conv((1, 2), padding="VALID")],
    "circular": [Conv(3, padding="CIRCULAR"), Relu(), Conv(3, padding="CIRCULAR", b_std=0.2)],
    "pooled": [Conv(3), Relu(), AvgPool(2, 1, "SAME"), Conv(3), Relu(), AvgPool(2), Dense(w_std=1.2)],
    "handed over": [Conv(3), Relu(), Conv(2, padding="CIRCULAR"), Relu(), Conv(3)],
    "residual": [
        Conv(3),
        Residual(Sequential(Relu(), Conv(3, strides=2)), AvgPool(2, padding="SAME")),
        Relu(),
        Conv(1),
    ],
    "sum": [Conv(3), Relu(), GlobalAvgPool(), Dense(b_std=0.3)],
    "masked": [Conv(3), Relu(), Dropout(0.3), Conv(3), Relu(), Dropout(0.2), AvgPool(2), Conv(1)],
    "attention": [Conv(3, strides=2), LayerNorm(), SelfAttention()],
    "series": [Conv(2), Elementwise(np.sin, 32), Conv(3)],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BODIES)
def test_deviations_are_those_of_the_planes_of_an_image_with_itself(name, dtype):
    body = BODIES[name]
    x = np.random.default_rng(0).standard_normal((3, 5, 4, 2)).astype(np.float32)
    linear = CpuEvaluator(lower([(Sequential(*body, Flatten()), kind) for kind in KINDS], x.shape[1:]), dtype)
    variances = linear.evaluate_pairs(x)[0]
    found = CpuEvaluator(lower([(Sequential(*body, Relu(), Flatten()), "ntk")], x.shape[1:]), dtype)
    last = list(found.planes.machine.layout.values())[-1]
    start = last.start + last.area  # behind the inverse deviations
    deviations = found.planes.prepare(found.planar(x)).statistics[start : start + last.area, :3]
    np.testing.assert_allclose((deviations.astype(np.float64) ** 2).mean(0), variances, rtol=tolerance(dtype).kernel)


@pytest.mark.parametrize("layer", [Relu(), Gelu(), LayerNorm(), Elementwise("tanh", nodes=16)], ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_variance_of_a_mean_that_is_zero_may_be_negative_by_rounding(layer, dtype):
    """Half of each image is the negative of the other half: of an odd function's mean, the last bias is left."""
    half = np.random.default_rng(0).standard_normal((24, 1, 3, 2))
    images = np.concatenate([half, -half], 2)
    network = Sequential(Conv(1), Erf(), GlobalAvgPool(), Dense(), layer, Dense(b_std=0.5))
    # LayerNorm divides by the root of a variance of 1e-17 and its epsilon of 1e-12.
    kernel = kernel_diagonal(network, images, kind="nngp", dtype=dtype)
    assert_allclose(kernel, 0.25, rtol=1e-3 if isinstance(layer, LayerNorm) else 1e-6)
    assert np.isfinite(kernel_diagonal(network, images, kind="ntk", dtype=dtype)).all()
