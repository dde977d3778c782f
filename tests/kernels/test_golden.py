"""Kernels against the numbers of independent systems; `tests/golden/README.md` tells who made them."""

from pathlib import Path

import numpy as np
import pytest
from support.networks import GOLDEN, GOLDEN_2
from support.tolerances import DTYPES, assert_kernels_close, tolerance

from cntk_pipeline import kernel_matrix
from cntk_pipeline.kernels import KINDS, CpuEvaluator, lower
from cntk_pipeline.layers import Dense, Relu, Residual, Sequential, presets

NETWORKS = GOLDEN | GOLDEN_2
VALUES = Path(__file__).parents[1] / "golden"
ARORA = [
    (depth, pooling, ends) for depth in (3, 4, 6, 11, 21) for pooling in ("v", "gap") for ends in ("trained", "fixed")
]


@pytest.fixture(scope="module")
def arora():
    """Give the golden values, and the standardised training and test images behind them."""
    values = dict(np.load(VALUES / "arora2019.npz"))
    raw = np.load(VALUES / "arora2019_images.npz")
    train, test = ((raw[name] / 255.0 - values["mean"]) / values["std"] for name in ("x_train", "x_test"))
    return values, train, test


@pytest.fixture(scope="module")
def peer():
    return dict(np.load(VALUES / "neural_tangents.npz")) | dict(np.load(VALUES / "neural_tangents_2.npz"))


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
    results = CpuEvaluator(program, dtype).evaluate(test, train)
    for (depth, pooling, ends), result in zip(ARORA, results, strict=True):
        np.testing.assert_allclose(
            result,
            values[f"d{depth}_{pooling}_{ends}_test"],
            rtol=tolerance(dtype).golden,
            err_msg=f"{depth} {pooling}",
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_values_of_neural_tangents(peer, name, dtype):
    x1, x2 = peer[f"{name}/x1"], peer[f"{name}/x2"]
    engine = CpuEvaluator(lower([(NETWORKS[name], kind) for kind in KINDS], x1.shape[1:]), dtype)
    for kind, cross, symmetric in zip(KINDS, engine.evaluate(x1, x2), engine.evaluate(x1), strict=True):
        assert_kernels_close(cross, peer[f"{name}/{kind}"], tolerance(dtype).peer)
        assert_kernels_close(symmetric, peer[f"{name}/{kind}_sym"], tolerance(dtype).peer)


def yang_transformer(blocks, vw):
    """Build the network in the convention of the original, where own weights are not scaled: those of one input."""
    network = presets.transformer(blocks, patch=1)
    if vw == 1:  # both conventions are one
        return network
    deep = Dense(w_std=vw**0.5, parameterization="standard", fan_in=1)
    feed = Residual(Sequential(deep, Relu(), deep))
    return Sequential(*[feed if isinstance(layer, Residual) else layer for layer in network.layers])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vw", [1.0, 1.5])
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_the_transformer_has_the_values_of_its_author(blocks, vw, dtype):
    golden = dict(np.load(VALUES / "yang_transformer.npz"))
    engine = CpuEvaluator(lower([(yang_transformer(blocks, vw), kind) for kind in KINDS], (2, 3, 5)), dtype)
    for kind, values in zip(KINDS, engine.evaluate(golden["x"]), strict=True):
        assert_kernels_close(values, golden[f"blocks{blocks}_vw{vw}/{kind}"], tolerance(dtype).peer)
