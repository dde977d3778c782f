"""Kernels against the numbers of independent systems; `tests/golden/README.md` tells who made them."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import kernel_matrix
from pipeline.kernels import Engine, lower
from pipeline.layers import Conv, Dense, Flatten, GlobalAvgPool, Relu, Sequential, presets
from tests import reference
from tests.tolerances import DTYPES, assert_kernels_close, tolerance

GOLDEN = Path(__file__).parents[1] / "golden"
SQRT_2 = 2**0.5
ARORA = [
    (depth, pooling, ends) for depth in (3, 4, 6, 11, 21) for pooling in ("v", "gap") for ends in ("trained", "fixed")
]
NETWORKS = {
    "fc3_relu": Sequential(Dense(SQRT_2, 0.1), Relu(), Dense(SQRT_2, 0.1), Relu(), Dense(1.0, 0.1)),
    "cnn_v_d3": Sequential(*[Conv(3, w_std=SQRT_2), Relu()] * 2, Flatten(), Dense()),
    "cnn_gap_d3": Sequential(*[Conv(3, w_std=SQRT_2), Relu()] * 2, GlobalAvgPool(), Dense()),
    "cnn_gap_d6_bias": Sequential(
        *[Conv(3, w_std=SQRT_2, b_std=0.1), Relu()] * 5, GlobalAvgPool(), Dense(1.0, b_std=0.1)
    ),
    "cnn_dense_mid": Sequential(
        Conv(3, w_std=SQRT_2), Relu(), GlobalAvgPool(), Dense(SQRT_2, b_std=0.1), Relu(), Dense()
    ),
    "cnn_flat_dense_mid": Sequential(
        Conv(3, w_std=SQRT_2), Relu(), Flatten(), Dense(SQRT_2, b_std=0.1), Relu(), Dense()
    ),
}


@pytest.fixture(scope="module")
def arora():
    """Give the golden values, and the standardised training and test images behind them."""
    values = dict(np.load(GOLDEN / "arora2019.npz"))
    raw = np.load(GOLDEN / "arora2019_images.npz")
    train, test = ((raw[name] / 255.0 - values["mean"]) / values["std"] for name in ("x_train", "x_test"))
    return values, train, test


@pytest.fixture(scope="module")
def peer():
    return dict(np.load(GOLDEN / "neural_tangents.npz"))


def arora_network(depth, pooling, ends):
    return presets.cntk(depth, "flatten" if pooling == "v" else "gap", trained_ends=ends == "trained")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("depth", "pooling", "ends"), ARORA)
def test_the_preset_has_the_values_of_the_original_code(arora, depth, pooling, ends, dtype):
    values, train, test = arora
    name = f"d{depth}_{pooling}_{ends}"
    network = arora_network(depth, pooling, ends)
    golden = values[name + "_train"]
    lower_part = np.tril_indices(len(train))
    assert np.isnan(golden[np.triu_indices(len(train), 1)]).all()
    rtol = tolerance(dtype).golden
    np.testing.assert_allclose(kernel_matrix(network, train, dtype=dtype)[lower_part], golden[lower_part], rtol=rtol)
    np.testing.assert_allclose(kernel_matrix(network, test, train, dtype=dtype), values[name + "_test"], rtol=rtol)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_program_has_all_values_of_the_original_code(arora, dtype):
    values, train, test = arora
    program = lower([(arora_network(*case), "ntk") for case in ARORA], train.shape[1:])
    results = Engine(program, dtype).evaluate(test, train)
    for (depth, pooling, ends), result in zip(ARORA, results, strict=True):
        np.testing.assert_allclose(
            result,
            values[f"d{depth}_{pooling}_{ends}_test"],
            rtol=tolerance(dtype).golden,
            err_msg=f"{depth} {pooling}",
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_values_of_neural_tangents(peer, name, kind, dtype):
    x1, x2 = peer[f"{name}/x1"], peer[f"{name}/x2"]
    network, rtol = NETWORKS[name], tolerance(dtype).golden
    # x2 holds an opposite and a nearly parallel image: float32 derivatives are less exact at such correlations.
    bound = tolerance(dtype).parallel if kind == "ntk" and dtype == "float32" else rtol
    np.testing.assert_allclose(kernel_matrix(network, x1, x2, kind=kind, dtype=dtype), peer[f"{name}/{kind}"], bound)
    symmetric = kernel_matrix(network, x1, kind=kind, dtype=dtype)
    np.testing.assert_allclose(symmetric, peer[f"{name}/{kind}_sym"], rtol)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("name", ["fc3_relu", "cnn_v_d3", "cnn_dense_mid", "cnn_flat_dense_mid"])
def test_the_naive_twin_has_the_values_of_neural_tangents(peer, name, kind):
    x1, x2 = peer[f"{name}/x1"], peer[f"{name}/x2"]
    expected = peer[f"{name}/{kind}"]
    assert_kernels_close(reference.evaluate(NETWORKS[name], x1, x2, kind), expected, tolerance("float64").golden)
